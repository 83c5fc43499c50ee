"""Every image through the backbone once, ever: the pass, and the cache of what came out. Imports no torch on a CPU."""

import hashlib
import os
import tempfile
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from graft.service.errors import ImageError
from graft.service.imaging.preprocess import decode
from graft.service.inference.engine import VECTORS, Pixels
from graft.service.inference.openvino import Graph
from graft.training.backbones.onnx_cache import STAGES, Exported, columns
from graft.training.data.dataset import Dataset, DatasetError, Sample
from graft.training.features.feature_arrays import Rows
from graft.training.runtime import atomic_files
from graft.training.runtime.cache_dir import cache_folder
from graft.training.runtime.progress import Progress
from graft.training.runtime.thread_map import each

SHARD = 4096  # images; what an interrupted pass loses at most
MOST = float(np.finfo(np.float16).max)


@dataclass(frozen=True, slots=True)
class View:
    """One way of looking at an image: as it is, or in the mirror."""

    sample: Sample
    mirrored: bool = False

    @property
    def key(self) -> bytes:
        """Names these very pixels, 32 bytes."""
        digest = self.sample.digest
        return hashlib.sha256(digest + b"mirrored").digest() if self.mirrored else digest

    def turned(self, pixels: Pixels) -> Pixels:
        """The view of upright pixels (..., W, 3)."""
        return np.ascontiguousarray(pixels[..., ::-1, :]) if self.mirrored else pixels


Row = NDArray[np.float16]
Unreadable = ImageError | DatasetError
Result = tuple[View, Row | Unreadable]
Passes = Callable[[Dataset, list[View], Exported], Iterator[Result]]


@dataclass(frozen=True)
class Features:
    """What the backbone sees in each image.

    Attributes:
        rows: from a view's key to its row.
        seen: float16 (N, W): every stage's features, then the last vector; in a file without a name, not in memory.
        columns: where each block stands in a row, as `graft.training.backbones.onnx_cache.columns` says.
        unreadable: why, by path, for the images that have no row.
        computed: how many were not in the cache.
    """

    rows: dict[bytes, int]
    seen: NDArray[np.float16]
    columns: dict[str, slice]
    unreadable: dict[str, str]
    computed: int

    @property
    def vectors(self) -> NDArray[np.float16]:
        """The last vector of every row, float16 (N, D)."""
        return self.seen[:, self.columns["last"]]

    def rows_of(self, samples: Iterable[Sample], mirrored: bool = False, block: str = "last") -> Rows:
        """One block's features of the samples in their order, (n, D), still unread; the last vectors unless told otherwise."""
        places = np.array([self.rows[View(sample, mirrored).key] for sample in samples], np.intp)
        return Rows(self.seen[:, self.columns[block]], places)

    def of(self, samples: Iterable[Sample], mirrored: bool = False, block: str = "last") -> NDArray[np.float32]:
        """The same in memory, float32 (n, D)."""
        return self.rows_of(samples, mirrored, block)[:]

    def stages(self, samples: Iterable[Sample], mirrored: bool = False) -> dict[str, NDArray[np.float32]]:
        """Every block's features of the samples in their order: `stage1` (n, D1), …, `last` (n, D), `all` (n, W).

        One array in memory: the smaller blocks are columns of `all`.
        """
        seen = self.of(samples, mirrored, "all")
        return {block: seen[:, place] for block, place in self.columns.items()}


def extract(dataset: Dataset, views: Iterable[View], exported: Exported, passes: Passes | None = None) -> Features:
    """The features of all views; only what this machine has never seen is computed.

    Args:
        passes: who computes; `graft.training.features.lightning_extractor.passes` on a GPU, this processor unless told otherwise.
    """
    folder, blocks = _cache(exported), columns(exported.backbone)
    wanted = {view.key: view for view in views}
    width = blocks["all"].stop
    unreadable: dict[str, str] = {}
    with _table(folder, 2 * width * len(wanted)) as table:
        for key, row in _cached(folder, wanted, width):
            table.add(key, row)
        # Neighbours on the disk one after the other, an image and its mirror image too.
        missing = sorted((view for key, view in wanted.items() if key not in table.rows), key=lambda view: view.sample.path)
        for shard in _computed(passes or on_cpu, dataset, missing, exported):
            unreadable |= {view.sample.path: str(error) for view, error in shard if isinstance(error, Unreadable)}
            new = {view.key: row for view, row in shard if not isinstance(row, Unreadable)}
            _keep(folder, new)
            for key, row in new.items():
                table.add(key, row)
        return Features(table.rows, table.mapped(width), blocks, unreadable, len(missing))


@dataclass(frozen=True)
class _Table:
    """Rows one behind the other in a file without a name, which the system removes once nobody looks at it."""

    file: IO[bytes]
    rows: dict[bytes, int] = field(default_factory=dict)

    def add(self, key: bytes, row: Row) -> None:
        """Appends a row, unless it is there."""
        if key not in self.rows:
            self.rows[key] = len(self.rows)
            self.file.write(row.tobytes())

    def mapped(self, width: int) -> NDArray[np.float16]:
        """All rows, float16 (N, W), without reading them."""
        self.file.flush()
        shape = (len(self.rows), width)
        # A plain array on top: each piece of numpy's own class of mapped arrays costs much more to cut out.
        return np.asarray(np.memmap(self.file, np.float16, "r", shape=shape)) if self.rows else np.empty(shape, np.float16)


@contextmanager
def _table(folder: Path, n_bytes: int) -> Iterator[_Table]:
    """A new table beside the shards: where temporary files belong may be memory, and hold less."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_files.room_for(folder, n_bytes), tempfile.TemporaryFile(dir=folder) as file:
        yield _Table(file)


def _computed(passes: Passes, dataset: Dataset, views: list[View], exported: Exported) -> Iterator[list[Result]]:
    if not views:
        return
    with Progress("features", len(views), "images") as progress:
        results = progress.each(passes(dataset, views, exported))
        while shard := list(islice(results, SHARD)):
            yield shard


def on_cpu(dataset: Dataset, views: list[View], exported: Exported) -> Iterator[Result]:
    """Each view with its row, or with why it has none.

    Every lane reads, decodes and computes by itself: no queue between them, and no torch.
    """
    graph = Graph(exported.graph, wanted=(STAGES, VECTORS))
    outputs = [name for name in (STAGES, VECTORS) if name in graph.outputs]

    def one(view: View) -> Result:
        try:
            pixels = decode(dataset.read(view.sample), exported.preprocessing).pixels
        except (ImageError, DatasetError) as error:
            return view, error
        said = graph(view.turned(pixels)[None])
        return view, halved(np.concatenate([said[name][0] for name in outputs]))

    return each(one, views, graph.lanes)


def halved(row: NDArray[np.float32]) -> Row:
    """As float16; the middle of some networks goes beyond its range, and an infinite feature would spoil every head."""
    return np.clip(row, -MOST, MOST).astype(np.float16)


def _cache(exported: Exported) -> Path:
    """A folder for exactly this graph under exactly this preprocessing."""
    key = hashlib.sha256(exported.folder.name.encode())
    key.update(exported.backbone.sha256.encode() + exported.preprocessing.model_dump_json().encode())
    return cache_folder() / "features" / key.hexdigest()[:24]


def _cached(folder: Path, wanted: dict[bytes, View], width: int) -> Iterator[tuple[bytes, Row]]:
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path, allow_pickle=False) as shard:
                keys = [key.tobytes() for key in shard["keys"]]
                places = [place for place, key in enumerate(keys) if key in wanted]
                seen = shard["seen"] if places else np.empty((len(keys), width), np.float16)
            if seen.shape != (len(keys), width):
                raise ValueError(f"{path} holds {seen.shape}.")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            path.unlink(missing_ok=True)  # damaged, by a power cut perhaps; its images are computed again
            continue
        yield from ((keys[place], seen[place]) for place in places)


def _keep(folder: Path, rows: dict[bytes, Row]) -> None:
    """Adds a shard, whole or not at all."""
    if not rows:
        return
    folder.mkdir(parents=True, exist_ok=True)
    name = uuid.uuid4().hex
    beside = folder / f".{name}.tmp"
    keys = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1)
    with beside.open("wb") as file:
        np.savez(file, keys=keys, seen=np.stack(list(rows.values())))
    os.replace(beside, folder / f"{name}.npz")

"""Every image through the backbone once, ever: the pass, and the cache of what came out. Imports no torch on a CPU."""

import hashlib
import os
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.engine import VECTORS, Graph, Pixels
from service.preprocess import ImageError, decode
from training.dataset import Dataset, Sample
from training.graphs import Exported, cache_folder
from training.progress import Progress

SHARD = 4096  # images; what an interrupted pass loses at most


@dataclass(frozen=True)
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


Vector = NDArray[np.float16]
Result = tuple[View, Vector | ImageError]
Passes = Callable[[Dataset, list[View], Exported], Iterator[Result]]


@dataclass(frozen=True)
class Features:
    """What the backbone sees in each image.

    Attributes:
        rows: from a view's key to its row.
        vectors: float16 (N, D).
        unreadable: why, by path, for the images that have no row.
        computed: how many were not in the cache.
    """

    rows: dict[bytes, int]
    vectors: NDArray[np.float16]
    unreadable: dict[str, str]
    computed: int

    def of(self, samples: Iterable[Sample], mirrored: bool = False) -> NDArray[np.float32]:
        """The samples' vectors in their order, float32 (n, D)."""
        return self.vectors[[self.rows[View(sample, mirrored).key] for sample in samples]].astype(np.float32)


def extract(dataset: Dataset, views: Iterable[View], exported: Exported, passes: Passes | None = None) -> Features:
    """The vectors of all views; only what this machine has never seen is computed.

    Args:
        passes: who computes; `training.extractor.passes` on a GPU, this processor unless told otherwise.
    """
    folder = _cache(exported)
    wanted = {view.key: view for view in views}
    found = dict(_cached(folder, wanted))
    missing = [view for key, view in wanted.items() if key not in found]
    unreadable: dict[str, str] = {}
    if missing:
        with Progress("features", len(missing), "images") as progress:
            results = progress.each((passes or on_cpu)(dataset, missing, exported))
            while shard := list(islice(results, SHARD)):
                unreadable |= {view.sample.path: str(error) for view, error in shard if isinstance(error, ImageError)}
                new = {view.key: vector for view, vector in shard if not isinstance(vector, ImageError)}
                _keep(folder, new)
                found |= new
    rows = {key: row for row, key in enumerate(found)}
    vectors = np.stack(list(found.values())) if found else np.zeros((0, exported.backbone.width), np.float16)
    return Features(rows, vectors, unreadable, len(missing))


def on_cpu(dataset: Dataset, views: list[View], exported: Exported) -> Iterator[Result]:
    """Each view with its vector, or with why it has none.

    Every lane reads, decodes and computes by itself: no queue between them, and no torch.
    """
    graph = Graph(exported.graph)

    def one(view: View) -> Result:
        try:
            pixels = decode(dataset.read(view.sample), exported.preprocessing).pixels
        except ImageError as error:
            return view, error
        return view, graph(view.turned(pixels)[None])[VECTORS][0].astype(np.float16)

    with ThreadPoolExecutor(graph.lanes) as pool:
        yield from pool.map(one, views)


def _cache(exported: Exported) -> Path:
    """A folder for exactly this graph under exactly this preprocessing."""
    key = hashlib.sha256(exported.folder.name.encode())
    key.update(exported.backbone.sha256.encode() + exported.preprocessing.model_dump_json().encode())
    return cache_folder() / "features" / key.hexdigest()[:24]


def _cached(folder: Path, wanted: dict[bytes, View]) -> Iterator[tuple[bytes, Vector]]:
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path, allow_pickle=False) as shard:
                keys = [row.tobytes() for row in shard["keys"]]
                rows = [row for row, key in enumerate(keys) if key in wanted]
                vectors = shard["vectors"] if rows else None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            path.unlink(missing_ok=True)  # damaged, by a power cut perhaps; its images are computed again
            continue
        if vectors is not None:
            yield from ((keys[row], vectors[row]) for row in rows)


def _keep(folder: Path, vectors: dict[bytes, Vector]) -> None:
    """Adds a shard, whole or not at all."""
    if not vectors:
        return
    folder.mkdir(parents=True, exist_ok=True)
    name = uuid.uuid4().hex
    beside = folder / f".{name}.tmp"
    keys = np.frombuffer(b"".join(vectors), np.uint8).reshape(len(vectors), -1)
    with beside.open("wb") as file:
        np.savez(file, keys=keys, vectors=np.stack(list(vectors.values())))
    os.replace(beside, folder / f"{name}.npz")

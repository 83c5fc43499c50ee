"""Feature extraction: runs every image through the frozen backbone once and caches the result. No torch on a CPU."""

import hashlib
import tempfile
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, groupby, islice
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graft.service.errors import ImageError
from graft.service.imaging.preprocess import decode
from graft.service.inference.engine import VECTORS, Pixels
from graft.service.inference.openvino import OpenVinoModel
from graft.service.inference.thread_map import ordered_map
from graft.training.backbones.onnx_cache import STAGES, ExportedBackbone, feature_slices
from graft.training.data.dataset import Dataset, DatasetError, Sample
from graft.training.features.feature_arrays import LazyFeatures
from graft.training.runtime import atomic_files
from graft.training.runtime.cache_dir import cache_folder
from graft.training.runtime.progress import Progress

SHARD_SIZE = 4096  # images per cache file; an interrupted extraction loses at most this many
FLOAT16_MAX = float(np.finfo(np.float16).max)
MIN_CROP_AREA = 0.6  # share of the image; kernel machines were about as good with 0.4 and 0.7
MIN_CROP_RATIO = 0.75  # width to height, or height to width


@dataclass(frozen=True, slots=True)
class View:
    """An image or its mirror image, whole or a random crop of it.

    Attributes:
        crop: number of the crop, which depends on it and the image only; 0 for the whole image.
    """

    sample: Sample
    mirrored: bool = False
    crop: int = 0

    @property
    def key(self) -> bytes:
        """Cache key, 32 bytes: a hash of the pixels' source."""
        changes = b"mirrored" * self.mirrored + b"crop %d" % self.crop * bool(self.crop)
        return hashlib.sha256(self.sample.digest + changes).digest() if changes else self.sample.digest

    def apply(self, pixels: Pixels) -> Pixels:
        """This view of an image's pixels (S, S, 3), in the same size."""
        viewed = np.ascontiguousarray(pixels[:, ::-1]) if self.mirrored else pixels
        return random_crop(viewed, int.from_bytes(self.key[:8], "big")) if self.crop else viewed


def random_crop(pixels: Pixels, seed: int) -> Pixels:
    """A random part of the pixels (S, S, 3), of at least MIN_CROP_AREA, resized to the same size."""
    rng, side = np.random.default_rng(seed), len(pixels)
    area, log_ratio = rng.uniform(MIN_CROP_AREA, 1), rng.uniform(np.log(MIN_CROP_RATIO), -np.log(MIN_CROP_RATIO))
    sides = np.minimum(side * np.sqrt(area * np.exp([log_ratio, -log_ratio])), side)
    corner = rng.uniform(0, 1, 2) * (side - sides)
    box = (*corner.tolist(), *(corner + sides).tolist())
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR, box=box))


Row = NDArray[np.float16]
ReadError = ImageError | DatasetError
Result = tuple[View, Row | ReadError]
Extractor = Callable[[Dataset, list[View], ExportedBackbone], Iterator[Result]]


@dataclass(frozen=True)
class Features:
    """Backbone features of a set of views.

    Attributes:
        row_index: row index by view key.
        array: float16 (N, W): pooled features of every stage, then the last vector; memory-mapped from an unnamed file.
        slices: column range of each feature set, from `graft.training.backbones.onnx_cache.feature_slices`.
        unreadable: error by path, for images without a row.
        n_computed: number of views that were not in the cache.
    """

    row_index: dict[bytes, int]
    array: NDArray[np.float16]
    slices: dict[str, slice]
    unreadable: dict[str, str]
    n_computed: int

    @property
    def vectors(self) -> NDArray[np.float16]:
        """The last vector of every row, float16 (N, D)."""
        return self.array[:, self.slices["last"]]

    def select(
        self, samples: Iterable[Sample], mirrored: bool = False, feature_set: str = "last", crop: int = 0
    ) -> LazyFeatures:
        """One feature set of a view of the samples, in order: (n, D), not loaded yet."""
        indices = np.array([self.row_index[View(sample, mirrored, crop).key] for sample in samples], np.intp)
        return LazyFeatures(self.array[:, self.slices[feature_set]], indices)

    def load(self, samples: Iterable[Sample], mirrored: bool = False, feature_set: str = "last") -> NDArray[np.float32]:
        """The same loaded into memory, float32 (n, D)."""
        return self.select(samples, mirrored, feature_set)[:]

    def load_all(self, samples: Iterable[Sample], mirrored: bool = False) -> dict[str, NDArray[np.float32]]:
        """Every feature set of the samples, in order: `stage1` (n, D1), …, `last` (n, D), `all` (n, W).

        All are views of one array in memory.
        """
        loaded = self.load(samples, mirrored, "all")
        return {name: loaded[:, columns] for name, columns in self.slices.items()}


def extract(
    dataset: Dataset,
    views: Iterable[View],
    exported: ExportedBackbone,
    extractor: Extractor | None = None,
    cache: Path | None = None,
) -> Features:
    """The features of all views; computes those that are not in the cache.

    Args:
        extractor: computes the features; `extract_on_cpu` by default, `lightning_extractor.extract_on_gpu` on a GPU.
        cache: a folder for the features of this backbone; None for that in this machine's cache.
    """
    folder, slices = cache or _shard_folder(exported), feature_slices(exported.backbone)
    requested = {view.key: view for view in views}
    width = slices["all"].stop
    unreadable: dict[str, str] = {}
    with _open_feature_file(folder, 2 * width * len(requested)) as table:
        for key, row in _load_shards(folder, requested, width):
            table.add(key, row)
        # In order of path, so that the disk is read sequentially and the views of an image follow each other.
        missing = sorted(
            (view for key, view in requested.items() if key not in table.row_index), key=lambda view: view.sample.path
        )
        for shard in _extract_shards(extractor or extract_on_cpu, dataset, missing, exported):
            unreadable |= {view.sample.path: str(error) for view, error in shard if isinstance(error, ReadError)}
            rows = {view.key: row for view, row in shard if not isinstance(row, ReadError)}
            _save_shard(folder, rows)
            for key, row in rows.items():
                table.add(key, row)
        return Features(table.row_index, table.memmap(width), slices, unreadable, len(missing))


@dataclass(frozen=True)
class _FeatureFile:
    """Rows appended to an unnamed temporary file, which the system deletes when it is no longer open or mapped."""

    file: IO[bytes]
    row_index: dict[bytes, int] = field(default_factory=dict)

    def add(self, key: bytes, row: Row) -> None:
        """Appends a row, unless its key is already present."""
        if key not in self.row_index:
            self.row_index[key] = len(self.row_index)
            self.file.write(row.tobytes())

    def memmap(self, width: int) -> NDArray[np.float16]:
        """All rows as a memory-mapped array, float16 (N, W)."""
        self.file.flush()
        shape = (len(self.row_index), width)
        # A plain array: slicing numpy.memmap itself is much slower.
        return np.asarray(np.memmap(self.file, np.float16, "r", shape=shape)) if self.row_index else np.empty(shape, np.float16)


@contextmanager
def _open_feature_file(folder: Path, n_bytes: int) -> Iterator[_FeatureFile]:
    """A new file in the cache folder; the system's temporary folder may be a smaller RAM disk."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_files.check_disk_space(folder, n_bytes), tempfile.TemporaryFile(dir=folder) as file:
        yield _FeatureFile(file)


def _extract_shards(
    extractor: Extractor, dataset: Dataset, views: list[View], exported: ExportedBackbone
) -> Iterator[list[Result]]:
    if not views:
        return
    with Progress("features", len(views), "images") as progress:
        results = progress.track(extractor(dataset, views, exported))
        while shard := list(islice(results, SHARD_SIZE)):
            yield shard


def extract_on_cpu(dataset: Dataset, views: list[View], exported: ExportedBackbone) -> Iterator[Result]:
    """Extracts features with OpenVINO; yields each view with its row, or with the error of an unreadable image.

    Each thread reads, decodes and infers one image at a time, so that no queue between these steps is needed. Views of the same
    image that follow each other are decoded once.
    """
    graph = OpenVinoModel(exported.graph, output_names=(STAGES, VECTORS))
    outputs = [name for name in (STAGES, VECTORS) if name in graph.outputs]

    def extract_image(views_of_image: list[View]) -> list[Result]:
        try:
            pixels = decode(dataset.read(views_of_image[0].sample), exported.preprocessing).pixels
        except (ImageError, DatasetError) as error:
            return [(view, error) for view in views_of_image]
        return [(view, features_of(view.apply(pixels))) for view in views_of_image]

    def features_of(pixels: Pixels) -> Row:
        tensors = graph(pixels[None])
        return to_float16(np.concatenate([tensors[name][0] for name in outputs]))

    images = (list(views_of_image) for _, views_of_image in groupby(views, key=lambda view: view.sample))
    return chain.from_iterable(ordered_map(extract_image, images, graph.streams))


def to_float16(features: NDArray[np.float32]) -> Row:
    """Converts to float16 with clipping: some networks exceed its range, and an infinite feature would break every head."""
    return np.clip(features, -FLOAT16_MAX, FLOAT16_MAX).astype(np.float16)


def _shard_folder(exported: ExportedBackbone) -> Path:
    """The cache folder of this graph with this preprocessing."""
    key = hashlib.sha256(exported.folder.name.encode())
    key.update(exported.backbone.sha256.encode() + exported.preprocessing.model_dump_json().encode())
    return cache_folder() / "features" / key.hexdigest()[:24]


def _load_shards(folder: Path, requested: dict[bytes, View], width: int) -> Iterator[tuple[bytes, Row]]:
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path, allow_pickle=False) as shard:
                keys = [key.tobytes() for key in shard["keys"]]
                indices = [index for index, key in enumerate(keys) if key in requested]
                rows = shard["features"] if indices else np.empty((len(keys), width), np.float16)
            if rows.shape != (len(keys), width):
                raise ValueError(f"{path} has the shape {rows.shape}; expected {(len(keys), width)}.")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            path.unlink(missing_ok=True)  # damaged, for example by a power failure; its features are computed again
            continue
        yield from ((keys[index], rows[index]) for index in indices)


def _save_shard(folder: Path, rows: dict[bytes, Row]) -> None:
    """Writes a shard atomically."""
    if not rows:
        return
    folder.mkdir(parents=True, exist_ok=True)
    keys = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1)
    features = np.stack(list(rows.values()))
    with atomic_files.atomic_write(folder / f"{uuid.uuid4().hex}.npz", features.nbytes) as file:
        np.savez(file, keys=keys, features=features)

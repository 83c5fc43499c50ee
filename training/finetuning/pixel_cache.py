"""Disk cache of decoded images, read as memory maps, so that only the first epoch decodes. No torch.

All datasets share one cache. Its key is the image content, so that other splits, seeds and copies of the data hit it too.
A shard has two files: the pixels, and an index that is written last and makes the shard valid.
"""

import hashlib
import json
import os
import shutil
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from graft.service.errors import ImageError
from graft.service.imaging.preprocess import decode, decode_resized
from graft.service.inference.devices import available_cpus
from graft.service.inference.thread_map import ordered_map
from graft.service.manifest import Preprocessing
from graft.training.data.dataset import Dataset, DatasetError, Sample
from graft.training.runtime.cache_dir import SET_CACHE, cache_folder
from graft.training.runtime.progress import Progress, log

FORMAT_VERSION = 1  # increment when `graft.service.imaging.preprocess` returns other pixels for the same file
GIB = 2**30
SHARD_BYTES = 256 * 2**20
ABANDONED_AFTER_S = 3600.0  # files without an index are removed after this time

Image = NDArray[np.uint8]
Transform = Callable[[bytes, Preprocessing], Image]
NOT_CACHED = (-1, 0, 0, 0)


def resized(encoded: bytes, preprocessing: Preprocessing) -> Image:
    """Resizes the whole image: uint8 (H, W, 3)."""
    return decode_resized(encoded, preprocessing)


def cropped(encoded: bytes, preprocessing: Preprocessing) -> Image:
    """Preprocesses the image as in the service: uint8 (crop, crop, 3)."""
    return decode(encoded, preprocessing).pixels


@dataclass
class PixelCache:
    """Decoded images of samples, by index. Images that do not fit into the cache are decoded on each access.

    Attributes:
        files: memory-mapped shards.
        locations: int64 (N, 4): index into `files` (or -1), first byte, height and width.
    """

    images: Dataset
    samples: tuple[Sample, ...]
    transform: Transform
    preprocessing: Preprocessing
    files: list[Path]
    locations: NDArray[np.int64]
    _maps: dict[int, NDArray[np.uint8]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Image:
        """Returns one image, read-only uint8 (H, W, 3). Raises DatasetError with the file name."""
        file, start, height, width = (int(number) for number in self.locations[index])
        if file < 0:
            return _decode(self.images, self.samples[index], self.transform, self.preprocessing)
        if file not in self._maps:
            self._maps[file] = np.memmap(self.files[file], np.uint8, "r")
        return self._maps[file][start : start + height * width * 3].reshape(height, width, 3)

    def __getstate__(self) -> dict[str, object]:
        # A pickled memory map would contain all its data; each process opens its own.
        return self.__dict__ | {"_maps": {}}


def open_cache(
    images: Dataset, samples: tuple[Sample, ...], transform: Transform, preprocessing: Preprocessing, limit_gib: float
) -> PixelCache:
    """Returns the decoded images of the samples. Decodes missing ones into the cache on all cores, within the limit.

    Args:
        transform: `resized` or `cropped`.
        limit_gib: maximum size of the whole cache; 0 disables it.

    Raises:
        DatasetError: if an image cannot be read.
    """
    folder = cache_folder() / "pixels" / _cache_key(transform, preprocessing)
    if limit_gib > 0:
        cached = {key for _, keys, _ in _shards(folder) for key in keys}
        missing = {sample.digest: sample for sample in samples if sample.digest not in cached}
        try:
            _fill(folder, images, list(missing.values()), transform, preprocessing, limit_gib)
        except OSError as error:
            log(f"the pixel cache cannot be written ({error.strerror}): images are decoded in every epoch. {SET_CACHE}.")
    files: list[Path] = []
    located: dict[bytes, tuple[int, ...]] = {}
    requested = {sample.digest for sample in samples} if limit_gib > 0 else set()
    for file, keys, locations in _shards(folder) if requested else ():
        if not requested.isdisjoint(keys):
            os.utime(_index_path(file))  # marks it as recently used
            located |= {key: (len(files), *location) for key, location in zip(keys, locations.tolist(), strict=True)}
            files.append(file)
    locations = np.array([located.get(sample.digest, NOT_CACHED) for sample in samples], np.int64).reshape(-1, 4)
    return PixelCache(images, samples, transform, preprocessing, files, locations)


def _fill(
    folder: Path, images: Dataset, samples: list[Sample], transform: Transform, preprocessing: Preprocessing, limit_gib: float
) -> None:
    """Decodes the samples into new shards, as long as there is free space."""
    if not samples:
        return
    folder.mkdir(parents=True, exist_ok=True)
    free = _free_bytes(folder, len(samples) * 4 * preprocessing.resize**2, limit_gib)
    with Progress("decoding", len(samples), "images") as progress:
        decoded = ordered_map(lambda sample: _decode(images, sample, transform, preprocessing), samples, available_cpus())
        n_cached = 0
        while free > 0 and n_cached < len(samples):
            n_images, n_bytes = _write_shard(folder, progress.track(decoded), samples[n_cached:], min(free, SHARD_BYTES))
            n_cached, free = n_cached + n_images, free - n_bytes
    if n_cached < len(samples):
        log(f"{len(samples) - n_cached:,} decoded images do not fit into the pixel cache: they are decoded in every epoch")


def _write_shard(folder: Path, decoded: Iterator[Image], samples: list[Sample], max_bytes: int) -> tuple[int, int]:
    """Writes one shard atomically; returns its number of images and bytes."""
    name, locations, end = uuid.uuid4().hex, [], 0
    beside = folder / f".{name}.tmp"
    try:
        with beside.open("wb") as file:
            while end < max_bytes and (image := next(decoded, None)) is not None:
                file.write(image.tobytes())
                locations.append((end, *image.shape[:2]))
                end += image.size
            file.flush()
            os.fsync(file.fileno())
        if locations:
            os.replace(beside, folder / f"{name}.bin")
            with beside.open("wb") as file:
                keys = np.frombuffer(b"".join(sample.digest for sample in samples[: len(locations)]), np.uint8)
                np.savez(file, keys=keys.reshape(len(locations), -1), places=np.array(locations, np.int64))
            os.replace(beside, folder / f"{name}.npz")
    finally:
        beside.unlink(missing_ok=True)
    return len(locations), end


def _shards(folder: Path) -> Iterator[tuple[Path, list[bytes], NDArray[np.int64]]]:
    """Yields each valid shard: its pixel file, image digests, and int64 (n, 3) with first byte, height and width."""
    for path in sorted(folder.glob("*.npz")):
        file = path.with_suffix(".bin")
        try:
            with np.load(path, allow_pickle=False) as index:
                keys, locations = [row.tobytes() for row in index["keys"]], index["places"]
            start, height, width = locations[-1].tolist()
            valid = file.stat().st_size == start + 3 * height * width
        except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile, zlib.error):
            valid = False
        if valid:
            yield file, keys, locations
        else:
            _remove_shard(file)


def _free_bytes(folder: Path, needed: int, limit_gib: float) -> int:
    """Bytes that may be added: within the limit, and with a tenth of the disk left free.

    Removes abandoned files, and if space is needed, the least recently used shards of other transforms.
    """
    cache = folder.parent
    for path in [*cache.glob("*/.*.tmp"), *cache.glob("*/*.bin")]:
        if not _index_path(path).exists() and _age_s(path) > ABANDONED_AFTER_S:
            path.unlink(missing_ok=True)
    limit = int(limit_gib * GIB)
    shards = [path for path in cache.glob("*/*.bin") if _index_path(path).exists()]
    shards.sort(key=lambda path: _age_s(_index_path(path)), reverse=True)
    used = {path: path.stat().st_size for path in shards}
    others = [path for path in shards if path.parent != folder]
    while others and sum(used.values()) + min(needed, limit) > limit:
        del used[others[0]]
        _remove_shard(others.pop(0))
    disk = shutil.disk_usage(folder)
    return min(limit - sum(used.values()), disk.free - disk.total // 10)


def _index_path(file: Path) -> Path:
    return file.with_suffix(".npz")


def _remove_shard(file: Path) -> None:
    """Removes a shard; processes that have mapped it can still read it."""
    _index_path(file).unlink(missing_ok=True)
    file.unlink(missing_ok=True)


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0  # another run has just removed it


def _decode(images: Dataset, sample: Sample, transform: Transform, preprocessing: Preprocessing) -> Image:
    try:
        return transform(images.read(sample), preprocessing)
    except ImageError as error:
        raise DatasetError(f"{sample.path} cannot be used: {error}") from None


def _cache_key(transform: Transform, preprocessing: Preprocessing) -> str:
    """Cache key of everything that changes the pixels."""
    relevant = {"resize", "interpolation"} | ({"crop", "fit"} if transform is cropped else set())
    settings = preprocessing.model_dump(mode="json", include=relevant)
    text = json.dumps([FORMAT_VERSION, PIL.__version__, transform.__name__, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]

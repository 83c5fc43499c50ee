"""Decoded images, kept on disk as memory maps, so that only the first epoch ever decodes. No torch.

One place for all data sets: an image is found by its content, so another split, seed or copy of the data finds it too.
A shard is two files, the pixels and then the index that makes them count: whole, or not there.
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

from graft.service.artifact import Preprocessing
from graft.service.errors import ImageError
from graft.service.imaging.preprocess import decode, shrink
from graft.service.inference.devices import cores
from graft.training.data.dataset import Dataset, DatasetError, Sample
from graft.training.runtime.cache_dir import cache_folder
from graft.training.runtime.progress import Progress, say
from graft.training.runtime.thread_map import each

FORMAT = 1  # raise it when `graft.service.imaging.preprocess` gives other pixels of the same file
GIB = 2**30
SHARD_BYTES = 256 * 2**20
ABANDONED_S = 3600.0  # a file without an index that nobody has written to for so long belongs to nobody

Image = NDArray[np.uint8]
Look = Callable[[bytes, Preprocessing], Image]
NOWHERE = (-1, 0, 0, 0)


def whole(encoded: bytes, preprocessing: Preprocessing) -> Image:
    """The whole image, made small: uint8 (H, W, 3)."""
    return shrink(encoded, preprocessing)


def square(encoded: bytes, preprocessing: Preprocessing) -> Image:
    """What the service sees: uint8 (crop, crop, 3)."""
    return decode(encoded, preprocessing).pixels


@dataclass
class Pixels:
    """The decoded images of some samples, by number; whatever the disk has no room for is decoded each time.

    Attributes:
        files: the memory maps that are read.
        places: int64 (N, 4): which file (or -1), the first byte, height and width.
    """

    images: Dataset
    samples: tuple[Sample, ...]
    look: Look
    preprocessing: Preprocessing
    files: list[Path]
    places: NDArray[np.int64]
    _maps: dict[int, NDArray[np.uint8]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Image:
        """One image, uint8 (H, W, 3), not to be written to. Raises DatasetError, with the file's name."""
        file, begin, height, width = (int(number) for number in self.places[index])
        if file < 0:
            return _decoded(self.images, self.samples[index], self.look, self.preprocessing)
        if file not in self._maps:
            self._maps[file] = np.memmap(self.files[file], np.uint8, "r")
        return self._maps[file][begin : begin + height * width * 3].reshape(height, width, 3)

    def __getstate__(self) -> dict[str, object]:
        # A map would be pickled with all that it maps; another process opens its own.
        return self.__dict__ | {"_maps": {}}


def pixels(images: Dataset, samples: tuple[Sample, ...], look: Look, preprocessing: Preprocessing, limit_gib: float) -> Pixels:
    """The samples' decoded images; those that no run has decoded before are, on all cores, as far as there is room.

    Args:
        look: `whole` or `square`.
        limit_gib: what all decoded images may take of the disk together; 0 keeps none.

    Raises:
        DatasetError: if an image cannot be read.
    """
    folder = cache_folder() / "pixels" / _key(look, preprocessing)
    if limit_gib > 0:
        known = {key for _, keys, _ in _shards(folder) for key in keys}
        missing = {sample.digest: sample for sample in samples if sample.digest not in known}
        _fill(folder, images, list(missing.values()), look, preprocessing, limit_gib)
    files: list[Path] = []
    found: dict[bytes, tuple[int, ...]] = {}
    wanted = {sample.digest for sample in samples} if limit_gib > 0 else set()
    for file, keys, places in _shards(folder) if wanted else ():
        if not wanted.isdisjoint(keys):
            os.utime(_index(file))  # used: the last to be thrown out
            found |= {key: (len(files), *place) for key, place in zip(keys, places.tolist(), strict=True)}
            files.append(file)
    where = np.array([found.get(sample.digest, NOWHERE) for sample in samples], np.int64).reshape(-1, 4)
    return Pixels(images, samples, look, preprocessing, files, where)


def _fill(
    folder: Path, images: Dataset, samples: list[Sample], look: Look, preprocessing: Preprocessing, limit_gib: float
) -> None:
    """Decodes the samples into new shards until there is no more room."""
    if not samples:
        return
    folder.mkdir(parents=True, exist_ok=True)
    room = _room(folder, len(samples) * 4 * preprocessing.resize**2, limit_gib)
    with Progress("decoding", len(samples), "images") as progress:
        decoded = each(lambda sample: _decoded(images, sample, look, preprocessing), samples, cores())
        n_kept = 0
        while room > 0 and n_kept < len(samples):
            n_images, n_bytes = _write(folder, progress.each(decoded), samples[n_kept:], min(room, SHARD_BYTES))
            n_kept, room = n_kept + n_images, room - n_bytes
    if n_kept < len(samples):
        say(f"{len(samples) - n_kept:,} decoded images have no room on disk: they are decoded in every epoch")


def _write(folder: Path, decoded: Iterator[Image], samples: list[Sample], most_bytes: int) -> tuple[int, int]:
    """One shard, whole or not at all; how many images and bytes it holds."""
    name, places, end = uuid.uuid4().hex, [], 0
    beside = folder / f".{name}.tmp"
    try:
        with beside.open("wb") as file:
            while end < most_bytes and (image := next(decoded, None)) is not None:
                file.write(image.tobytes())
                places.append((end, *image.shape[:2]))
                end += image.size
            file.flush()
            os.fsync(file.fileno())
        if places:
            os.replace(beside, folder / f"{name}.bin")
            with beside.open("wb") as file:
                keys = np.frombuffer(b"".join(sample.digest for sample in samples[: len(places)]), np.uint8)
                np.savez(file, keys=keys.reshape(len(places), -1), places=np.array(places, np.int64))
            os.replace(beside, folder / f"{name}.npz")
    finally:
        beside.unlink(missing_ok=True)
    return len(places), end


def _shards(folder: Path) -> Iterator[tuple[Path, list[bytes], NDArray[np.int64]]]:
    """Every good shard: its pixels' file, the images' digests, and int64 (n, 3) first byte, height and width."""
    for path in sorted(folder.glob("*.npz")):
        file = path.with_suffix(".bin")
        try:
            with np.load(path, allow_pickle=False) as index:
                keys, places = [row.tobytes() for row in index["keys"]], index["places"]
            begin, height, width = places[-1].tolist()
            good = file.stat().st_size == begin + 3 * height * width
        except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile, zlib.error):
            good = False
        if good:
            yield file, keys, places
        else:
            _remove(file)


def _room(folder: Path, needed: int, limit_gib: float) -> int:
    """How many bytes may be added: below the limit, and leaving a tenth of the disk free.

    What has been left half written is removed, and what has not been used for longest, where that makes room.
    """
    everything = folder.parent
    for path in [*everything.glob("*/.*.tmp"), *everything.glob("*/*.bin")]:
        if not _index(path).exists() and _age(path) > ABANDONED_S:
            path.unlink(missing_ok=True)
    limit = int(limit_gib * GIB)
    shards = [path for path in everything.glob("*/*.bin") if _index(path).exists()]
    shards.sort(key=lambda path: _age(_index(path)), reverse=True)
    used = {path: path.stat().st_size for path in shards}
    others = [path for path in shards if path.parent != folder]
    while others and sum(used.values()) + min(needed, limit) > limit:
        del used[others[0]]
        _remove(others.pop(0))
    disk = shutil.disk_usage(folder)
    return min(limit - sum(used.values()), disk.free - disk.total // 10)


def _index(file: Path) -> Path:
    return file.with_suffix(".npz")


def _remove(file: Path) -> None:
    """Removes a shard; whoever has mapped it can read on."""
    _index(file).unlink(missing_ok=True)
    file.unlink(missing_ok=True)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0  # just removed by another run


def _decoded(images: Dataset, sample: Sample, look: Look, preprocessing: Preprocessing) -> Image:
    try:
        return look(images.read(sample), preprocessing)
    except ImageError as error:
        raise DatasetError(f"{sample.path} cannot be used: {error}") from None


def _key(look: Look, preprocessing: Preprocessing) -> str:
    """A name that changes with anything that changes the pixels."""
    matters = {"resize", "interpolation"} | ({"crop", "fit"} if look is square else set())
    facts = preprocessing.model_dump(mode="json", include=matters)
    text = json.dumps([FORMAT, PIL.__version__, look.__name__, facts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]

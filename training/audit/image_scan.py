"""Image scan: reads every file once and records its digest, its header and two difference hashes.

All cores are used, and only numbers are kept: 28 bytes per file besides its digest. No findings here, no decoded images.
"""

import hashlib
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graft.service.errors import ImageError
from graft.service.imaging.preprocess import FORMATS, Glance, glance
from graft.service.inference.devices import cores
from graft.training.data.dataset import Dataset, DatasetError
from graft.training.data.near_duplicates import SIDE, Grey, candidates, grey_of, hash_of, judged
from graft.training.runtime.progress import Progress
from graft.training.runtime.thread_map import each

MODES = ("RGB", "L", "1", "P", "LA", "PA", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB", "I;16", "I;16B", "I;16L", "I;16N")
SAME = 2  # gray levels by which encoding may change equal colors
NOTHING = 255  # format and mode of a file that cannot be used
ANIMATED, TRANSPARENT, GREY, BLANK, FILLED = 1, 2, 4, 8, 16
NOTHING_SEEN = np.zeros((SIDE, SIDE), np.float32)  # its correlation with every image is 0

LOOK = np.dtype(
    [
        ("n_bytes", np.uint32),
        ("width", np.uint16),
        ("height", np.uint16),
        ("format", np.uint8),
        ("mode", np.uint8),
        ("orientation", np.uint8),
        ("flags", np.uint8),
        ("dhash_horizontal", np.uint64),
        ("dhash_vertical", np.uint64),
    ]
)


class Trouble(NamedTuple):
    """Why a file cannot be used: a code of `ImageError`, or "unreadable_file" if its bytes cannot be read."""

    code: str
    text: str


@dataclass(frozen=True)
class Looks:
    """The result of scanning every file of a data set.

    Attributes:
        records: of dtype SCAN_DTYPE, (N,); row i belongs to the i-th sample. Width and height are those after the EXIF
            rotation; `flags` is a sum of ANIMATED, TRANSPARENT, GRAYSCALE, BLANK (one color) and GRAY_FILL (ends in the gray
            that stands for missing data); the hashes are compared by `graft.training.data.near_duplicates`.
        unreadable: by path, the files that cannot be used; their format and mode are UNKNOWN.
        warnings: by path, Pillow's warnings about files that it could read.
        near_duplicates: pairs of digests of images that differ in their bytes but look the same.
    """

    columns: NDArray[np.void]
    troubles: dict[str, Trouble]
    warnings: dict[str, str]
    alike: tuple[tuple[bytes, bytes], ...] = ()

    def usable(self) -> NDArray[np.bool_]:
        """Mask of the rows with a usable image, bool (N,)."""
        usable: NDArray[np.bool_] = self.columns["format"] != NOTHING
        return usable

    def has(self, flag: int) -> NDArray[np.bool_]:
        """Mask of the rows that have a flag, bool (N,)."""
        flagged: NDArray[np.bool_] = (self.columns["flags"] & flag) != 0
        return flagged


def median_side(looks: Looks) -> int:
    """The median shorter side of the usable images, in pixels.

    Raises:
        DatasetError: if no image is usable.
    """
    usable = looks.columns[looks.usable()]
    if not len(usable):
        raise DatasetError("None of the images can be read. Graft reads JPEG, PNG, WebP, GIF and BMP.")
    return int(np.median(np.minimum(usable["width"], usable["height"])))


def sizes(looks: Looks) -> str:
    """The image sizes as text: smallest, largest and median by area."""
    usable = looks.columns[looks.usable()]
    order = np.argsort(usable["width"].astype(np.int64) * usable["height"], kind="stable")
    smallest, median, largest = (f"{usable[row]['width']}x{usable[row]['height']}" for row in order[[0, len(order) // 2, -1]])
    return f"all {smallest} pixels" if smallest == largest else f"{smallest} to {largest} pixels, typically {median}"


class _Seen(NamedTuple):
    digest: bytes
    row: tuple[int, ...]
    trouble: Trouble | None
    warning: str


def examine(dataset: Dataset) -> tuple[Dataset, Looks]:
    """Reads every file once; returns the data set with the samples' digests, and the scan.

    A sample without a group gets its digest as its group. An unusable file stays in the data set and is in `unreadable`.
    """
    samples, records = list(dataset.samples), np.zeros(len(dataset.samples), LOOK)
    # The samples are replaced one by one: if the caller drops the old data set too, a million samples are never held twice.
    without_samples, read = replace(dataset, samples=()), dataset.source.read
    del dataset
    unreadable: dict[str, Trouble] = {}
    read_warnings: dict[str, str] = {}

    with Progress("reading", len(samples), "images") as progress, _attentive() as captured:

        def scan_row(row: int) -> _Seen:
            return _look(read, samples[row].path, captured)

        for row, scanned in enumerate(progress.each(each(scan_row, range(len(samples)), cores()))):
            sample = samples[row]
            records[row] = scanned.row
            if scanned.trouble:
                unreadable[sample.path] = scanned.trouble
            elif scanned.warning:
                read_warnings[sample.path] = scanned.warning
            samples[row] = replace(sample, digest=scanned.digest, group=sample.group or scanned.digest)
    scanned_dataset = replace(without_samples, samples=tuple(samples))
    table = Looks(records, unreadable, read_warnings)
    return scanned_dataset, replace(table, alike=tuple(_near_copies(scanned_dataset, table)))


class _Heard(threading.local):
    """Pillow's warnings in this thread about the current file."""

    def __init__(self) -> None:
        self.messages: list[str] = []


@contextmanager
def _attentive() -> Iterator[_Heard]:
    """Collects Python's warnings per thread; `warnings.catch_warnings` alone would mix those of several files."""
    captured = _Heard()

    def append(message: Warning | str, *_: object, **__: object) -> None:
        captured.messages.append(" ".join(str(message).split()))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = append
        yield captured


def _look(read: Callable[[str], bytes], path: str, heard: _Heard) -> _Seen:
    heard.messages.clear()
    try:
        encoded = read(path)
    except DatasetError as error:
        # The content is unknown, so the digest must differ from that of every other file.
        unique = hashlib.sha256(b"unread " + path.encode("utf-8", "surrogateescape")).digest()
        return _Seen(unique, _row(0, None), Trouble("unreadable_file", str(error)), "")
    digest = hashlib.sha256(encoded).digest()
    try:
        preview = glance(encoded, SIDE)
    except ImageError as error:
        return _Seen(digest, _row(len(encoded), None), Trouble(error.code, str(error)), "")
    return _Seen(digest, _row(len(encoded), preview), None, "; ".join(dict.fromkeys(heard.messages)))


def _row(n_bytes: int, seen: Glance | None) -> tuple[int, ...]:
    """The values of one file in the order of SCAN_DTYPE."""
    if seen is None:
        return n_bytes, 0, 0, NOTHING, NOTHING, 0, 0, 0, 0
    mode = MODES.index(seen.mode) if seen.mode in MODES else NOTHING
    code = FORMATS.index(seen.format)
    horizontal, vertical = hash_of(grey_of(seen.pixels))
    return n_bytes, seen.width, seen.height, code, mode, seen.orientation, _flags(seen), horizontal, vertical


def _flags(seen: Glance) -> int:
    pixels = seen.pixels.astype(np.int16)
    flags = FILLED if seen.filled else 0
    flags += TRANSPARENT if seen.transparent else 0
    flags += ANIMATED if any(note.startswith("animated") for note in seen.notes) else 0
    flags += GREY if np.ptp(pixels, axis=2).max() <= SAME else 0
    flags += BLANK if np.ptp(pixels, axis=(0, 1)).max() <= SAME else 0
    return flags


def _near_copies(dataset: Dataset, looks: Looks) -> list[tuple[bytes, bytes]]:
    """Pairs of digests of images that look the same but differ in their bytes: re-encoded, resized, brightened.

    Only candidates with similar hashes are read again. Files that changed or disappeared since the scan are skipped.
    """
    rows = _different(dataset, looks)
    records = looks.columns[rows]
    pairs = candidates(records["dhash_horizontal"], records["dhash_vertical"])

    def thumbnail(index: int) -> Grey:
        sample = dataset.samples[rows[index]]
        try:
            encoded = dataset.read(sample)
            unchanged = hashlib.sha256(encoded).digest() == sample.digest
            return grey_of(glance(encoded, SIDE).pixels) if unchanged else NOTHING_SEEN
        except (DatasetError, ImageError):
            return NOTHING_SEEN

    verified = judged(pairs, lambda indices: each(thumbnail, indices.tolist(), cores()))
    return [(dataset.samples[rows[one]].digest, dataset.samples[rows[other]].digest) for one, other in verified]


def _different(dataset: Dataset, looks: Looks) -> NDArray[np.int64]:
    """One row per distinct content among the usable images that have more than one color."""
    rows: NDArray[np.int64] = np.flatnonzero(looks.usable() & ~looks.has(BLANK))
    # Eight bytes of a digest tell a million files apart, and need a fifth of the memory of a set of digests.
    prefixes = (int.from_bytes(dataset.samples[row].digest[:8], "big") for row in rows.tolist())
    _, first = np.unique(np.fromiter(prefixes, np.uint64, len(rows)), return_index=True)
    return rows[np.sort(first)]

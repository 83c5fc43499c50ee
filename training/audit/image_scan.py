"""Image scan: reads every file once and records its digest, its header, and the difference hashes of it and its mirror image.

All cores are used. In memory, only numbers are kept: 45 bytes per file besides its digest; a tiny gray thumbnail of each image
is on disk. No findings here, no decoded images.
"""

import hashlib
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graft.service.errors import ImageError
from graft.service.imaging import formats
from graft.service.imaging.preprocess import Preview, load_preview
from graft.service.inference.devices import available_cpus
from graft.service.inference.thread_map import ordered_map
from graft.training.data.copy_alignment import to_thumbnail
from graft.training.data.dataset import Dataset, DatasetError, Sample, digest_prefixes
from graft.training.data.near_duplicates import (
    THUMBNAIL_SIDE,
    GrayArray,
    Pairs,
    candidate_pairs_with_mirrors,
    dhash,
    is_same_image,
    to_grayscale,
    verify_pairs,
)
from graft.training.runtime.cache_dir import cache_folder
from graft.training.runtime.progress import Progress

MODES = ("RGB", "L", "1", "P", "LA", "La", "PA", "RGBA", "RGBa", "CMYK", "YCbCr", "I;16", "I;16B", "I;16L", "I;16N")
GRAY_TOLERANCE = 2  # gray levels by which encoding may change equal colors
UNKNOWN = 255  # format and mode of a file that cannot be used
ANIMATED, TRANSPARENT, GRAYSCALE, BLANK, GRAY_FILL, MANY_PAGES = 1, 2, 4, 8, 16, 32
BLANK_THUMBNAIL = np.zeros((THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.float32)
NO_THUMBNAIL = to_thumbnail(BLANK_THUMBNAIL)

SCAN_DTYPE = np.dtype(
    [
        ("n_bytes", np.uint32),
        ("width", np.uint16),
        ("height", np.uint16),
        ("format", np.uint8),
        ("mode", np.uint8),
        ("used_bits", np.uint8),
        ("orientation", np.uint8),
        ("flags", np.uint8),
        ("dhash_horizontal", np.uint64),
        ("dhash_vertical", np.uint64),
        ("mirror_horizontal", np.uint64),
        ("mirror_vertical", np.uint64),
    ]
)


class UnreadableFile(NamedTuple):
    """Why a file cannot be used: a code of `ImageError`, or "unreadable_file" if its bytes cannot be read."""

    code: str
    text: str


@dataclass(frozen=True)
class ScanTable:
    """The result of scanning every file of a data set.

    Attributes:
        records: of dtype SCAN_DTYPE, (N,); row i belongs to the i-th sample. Width and height are those after the EXIF
            rotation; `used_bits` is that of `Preview`; `flags` is a sum of ANIMATED, TRANSPARENT, GRAYSCALE, BLANK (one
            color), GRAY_FILL (ends in the gray that stands for missing data) and MANY_PAGES (of which the first is used); the
            hashes, of the image and of its mirror image, are compared by `graft.training.data.near_duplicates`.
        thumbnails: gray, uint8 (N, side, side), for `graft.training.data.copy_alignment`; memory-mapped from an unnamed file;
            zeros for unusable files.
        unreadable: by path, the files that cannot be used; their format and mode are UNKNOWN.
        warnings: by path, Pillow's warnings about files that it could read.
        near_duplicates: pairs of digests of images that differ in their bytes but look the same.
    """

    records: NDArray[np.void]
    thumbnails: NDArray[np.uint8]
    unreadable: dict[str, UnreadableFile]
    warnings: dict[str, str]
    near_duplicates: tuple[tuple[bytes, bytes], ...] = ()

    def usable(self) -> NDArray[np.bool_]:
        """Mask of the rows with a usable image, bool (N,)."""
        usable: NDArray[np.bool_] = self.records["format"] != UNKNOWN
        return usable

    def hashes(self, rows: NDArray[np.intp] | slice = slice(None)) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """The horizontal and vertical hashes of the images and of their mirror images, uint64 (n, 2) each."""
        records = self.records[rows]
        plain, mirrored = (
            np.stack([records[f"{name}_horizontal"], records[f"{name}_vertical"]], axis=1) for name in ("dhash", "mirror")
        )
        return plain, mirrored

    def has_flag(self, flag: int) -> NDArray[np.bool_]:
        """Mask of the rows that have a flag, bool (N,)."""
        flagged: NDArray[np.bool_] = (self.records["flags"] & flag) != 0
        return flagged


def median_side(table: ScanTable) -> int:
    """The median shorter side of the usable images, in pixels.

    Raises:
        DatasetError: if no image is usable.
    """
    usable = table.records[table.usable()]
    if not len(usable):
        readable = ", ".join(formats.labels(formats.INSTALLED))
        raise DatasetError(f"None of the images can be read. Graft reads these formats: {readable}.")
    return int(np.median(np.minimum(usable["width"], usable["height"])))


def describe_sizes(table: ScanTable) -> str:
    """The image sizes as text: smallest, largest and median by area."""
    usable = table.records[table.usable()]
    order = np.argsort(usable["width"].astype(np.int64) * usable["height"], kind="stable")
    smallest, median, largest = (f"{usable[row]['width']}x{usable[row]['height']}" for row in order[[0, len(order) // 2, -1]])
    return f"all {smallest} pixels" if smallest == largest else f"{smallest} to {largest} pixels, typically {median}"


class _FileScan(NamedTuple):
    digest: bytes
    record: tuple[int, ...]
    thumbnail: NDArray[np.uint8]
    error: UnreadableFile | None
    warning: str


def scan_images(dataset: Dataset) -> tuple[Dataset, ScanTable]:
    """Reads every file once; returns the data set with its formats, its sample bits and the samples' digests, and the scan.

    A sample without a group gets its digest as its group. An unusable file stays in the data set and is in `unreadable`.
    """
    samples, records = list(dataset.samples), np.zeros(len(dataset.samples), SCAN_DTYPE)
    # The samples are replaced one by one: if the caller drops the old data set too, a million samples are never held twice.
    without_samples, read = replace(dataset, samples=()), dataset.source.read
    del dataset
    unreadable: dict[str, UnreadableFile] = {}
    read_warnings: dict[str, str] = {}

    with (
        tempfile.TemporaryFile(dir=cache_folder()) as file,
        Progress("reading", len(samples), "images") as progress,
        _capture_pillow_warnings() as captured,
    ):

        def scan_row(row: int) -> _FileScan:
            return _scan_file(read, samples[row].path, captured)

        for row, scanned in enumerate(progress.track(ordered_map(scan_row, range(len(samples)), available_cpus()))):
            sample = samples[row]
            records[row] = scanned.record
            file.write(scanned.thumbnail.tobytes())
            if scanned.error:
                unreadable[sample.path] = scanned.error
            elif scanned.warning:
                read_warnings[sample.path] = scanned.warning
            samples[row] = replace(sample, digest=scanned.digest, group=sample.group or scanned.digest)
        table = ScanTable(records, _memory_map(file, len(samples)), unreadable, read_warnings)
    scanned_dataset = replace(
        without_samples,
        samples=tuple(samples),
        formats=tuple(formats.NAMES[code] for code in np.unique(records["format"][table.usable()])),
        sample_bits=_sample_bits(samples, table),
    )
    return scanned_dataset, replace(table, near_duplicates=tuple(_find_near_duplicates(scanned_dataset, table)))


def _memory_map(file: IO[bytes], n: int) -> NDArray[np.uint8]:
    """The n thumbnails in a file, which stays mapped when it is closed."""
    file.flush()
    shape = (n, *NO_THUMBNAIL.shape)
    return np.asarray(np.memmap(file, np.uint8, "r", shape=shape)) if n else np.zeros(shape, np.uint8)


def _sample_bits(samples: Sequence[Sample], table: ScanTable) -> int | None:
    """The bits in use in images with more than 8 bits per channel, without given test images; None if there are none."""
    is_learned = np.fromiter((sample.split != "test" for sample in samples), bool, len(samples))
    used_bits = table.records["used_bits"][table.usable() & is_learned]
    return int(used_bits.max(initial=0)) or None


class _Warnings(threading.local):
    """Pillow's warnings in this thread about the current file."""

    def __init__(self) -> None:
        self.messages: list[str] = []


@contextmanager
def _capture_pillow_warnings() -> Iterator[_Warnings]:
    """Collects Python's warnings per thread; `warnings.catch_warnings` alone would mix those of several files."""
    captured = _Warnings()

    def append(message: Warning | str, *_: object, **__: object) -> None:
        captured.messages.append(" ".join(str(message).split()))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = append
        yield captured


def _scan_file(read: Callable[[str], bytes], path: str, captured: _Warnings) -> _FileScan:
    captured.messages.clear()
    try:
        encoded = read(path)
    except DatasetError as error:
        # The content is unknown, so the digest must differ from that of every other file.
        unique = hashlib.sha256(b"unread " + path.encode("utf-8", "surrogateescape")).digest()
        return _FileScan(unique, _to_record(0, None), NO_THUMBNAIL, UnreadableFile("unreadable_file", str(error)), "")
    digest = hashlib.sha256(encoded).digest()
    try:
        preview = load_preview(encoded, THUMBNAIL_SIDE)
    except ImageError as error:
        return _FileScan(digest, _to_record(len(encoded)), NO_THUMBNAIL, UnreadableFile(error.code, str(error)), "")
    gray = to_grayscale(preview.pixels)
    record = _to_record(len(encoded), preview, gray)
    return _FileScan(digest, record, to_thumbnail(gray), None, "; ".join(dict.fromkeys(captured.messages)))


def _to_record(n_bytes: int, preview: Preview | None = None, gray: GrayArray = BLANK_THUMBNAIL) -> tuple[int, ...]:
    """The values of one file in the order of SCAN_DTYPE.

    Args:
        gray: the preview's pixels.
    """
    if preview is None:
        return n_bytes, 0, 0, UNKNOWN, UNKNOWN, 0, 0, 0, 0, 0, 0, 0
    mode = MODES.index(preview.mode) if preview.mode in MODES else UNKNOWN
    code = formats.NAMES.index(preview.format)
    pixel_facts = mode, preview.used_bits, preview.orientation, _flags(preview)
    return n_bytes, preview.width, preview.height, code, *pixel_facts, *dhash(gray), *dhash(gray[:, ::-1])


def _flags(preview: Preview) -> int:
    pixels = preview.pixels.astype(np.int16)
    flags = GRAY_FILL if preview.gray_last_row else 0
    flags += TRANSPARENT if preview.transparent else 0
    flags += ANIMATED if any(note.startswith("animated") for note in preview.notes) else 0
    flags += MANY_PAGES if any(note.startswith("several") for note in preview.notes) else 0
    flags += GRAYSCALE if np.ptp(pixels, axis=2).max() <= GRAY_TOLERANCE else 0
    flags += BLANK if np.ptp(pixels, axis=(0, 1)).max() <= GRAY_TOLERANCE else 0
    return flags


def _find_near_duplicates(dataset: Dataset, table: ScanTable) -> list[tuple[bytes, bytes]]:
    """Pairs of digests of images that look the same but differ in their bytes: re-encoded, resized, brightened, mirrored.

    Only candidates with similar hashes are read again.
    """
    rows = distinct_rows(dataset, table)
    pairs = candidate_pairs_with_mirrors(*table.hashes(rows))
    verified = verify_pairs(pairs, picture_reader(dataset, rows, THUMBNAIL_SIDE), is_same_image)
    return to_digests(dataset, rows, verified)


def picture_reader(dataset: Dataset, rows: NDArray[np.intp], side: int) -> Callable[[NDArray[np.intp]], Iterator[GrayArray]]:
    """For `verify_pairs`: reads the gray pictures of the samples with these rows, (side, side).

    An index of len(rows) or more means the mirror image of the picture with len(rows) less. A file that has changed or
    disappeared since the scan is a black picture, which is like no other.
    """

    def read(index: int) -> GrayArray:
        sample = dataset.samples[rows[index % len(rows)]]
        try:
            gray = to_grayscale(load_preview(dataset.read(sample), side).pixels)
        except (DatasetError, ImageError):
            return np.zeros((side, side), np.float32)
        return gray if index < len(rows) else gray[:, ::-1]

    return lambda indices: ordered_map(read, indices.tolist(), available_cpus())


def to_digests(dataset: Dataset, rows: NDArray[np.intp], pairs: Pairs) -> list[tuple[bytes, bytes]]:
    """The digests of pairs of indices of `rows`, as `verify_pairs` returns them."""
    return [(dataset.samples[rows[one]].digest, dataset.samples[rows[other % len(rows)]].digest) for one, other in pairs]


def distinct_rows(dataset: Dataset, table: ScanTable) -> NDArray[np.intp]:
    """One row per distinct content among the usable images that have more than one color."""
    rows: NDArray[np.intp] = np.flatnonzero(table.usable() & ~table.has_flag(BLANK))
    prefixes = digest_prefixes(dataset.samples[row].digest for row in rows.tolist())
    _, first = np.unique(prefixes, return_index=True)
    return rows[np.sort(first)]

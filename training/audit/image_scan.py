"""One look at every file: its digest, what its header says, and two hashes of what it shows.

Each file is read once, on all cores, and only numbers are kept: 28 bytes a file beside its digest.
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
SAME = 2  # grey levels that encoding may put between equal colours
NOTHING = 255  # the format and the mode of what could not be looked at
ANIMATED, TRANSPARENT, GREY, BLANK, FILLED = 1, 2, 4, 8, 16
NOTHING_SEEN = np.zeros((SIDE, SIDE), np.float32)  # correlates with no picture

LOOK = np.dtype(
    [
        ("n_bytes", np.uint32),
        ("width", np.uint16),
        ("height", np.uint16),
        ("format", np.uint8),
        ("mode", np.uint8),
        ("orientation", np.uint8),
        ("flags", np.uint8),
        ("across", np.uint64),
        ("down", np.uint64),
    ]
)


class Trouble(NamedTuple):
    """Why a file cannot be used: a code of `ImageError`, or "unreadable_file" where not even its bytes could be had."""

    code: str
    text: str


@dataclass(frozen=True)
class Looks:
    """What one look at each file of a data set told.

    Attributes:
        columns: of dtype LOOK, (N,); row i is about the i-th sample. Width and height are as a person sees the image;
            `flags` is a sum of ANIMATED, TRANSPARENT, GREY (no colour in it), BLANK (one colour) and FILLED (ends in
            the grey that stands for missing data); `across` and `down` are what `graft.training.data.near_duplicates` compares.
        troubles: by path, of the files that cannot be used; their row holds NOTHING.
        warnings: by path, what Pillow said of files that it read all the same.
        alike: digests of images that differ in their bytes and show the same.
    """

    columns: NDArray[np.void]
    troubles: dict[str, Trouble]
    warnings: dict[str, str]
    alike: tuple[tuple[bytes, bytes], ...] = ()

    def usable(self) -> NDArray[np.bool_]:
        """Which rows are about an image that can be used, bool (N,)."""
        usable: NDArray[np.bool_] = self.columns["format"] != NOTHING
        return usable

    def has(self, flag: int) -> NDArray[np.bool_]:
        """Which rows have a flag, bool (N,)."""
        flagged: NDArray[np.bool_] = (self.columns["flags"] & flag) != 0
        return flagged


def median_side(looks: Looks) -> int:
    """The typical shorter side, in pixels, of the images that can be used.

    Raises:
        DatasetError: if there is none.
    """
    usable = looks.columns[looks.usable()]
    if not len(usable):
        raise DatasetError("None of the images can be read. Graft reads JPEG, PNG, WebP, GIF and BMP.")
    return int(np.median(np.minimum(usable["width"], usable["height"])))


def sizes(looks: Looks) -> str:
    """How large the images are, for a person."""
    usable = looks.columns[looks.usable()]
    order = np.argsort(usable["width"].astype(np.int64) * usable["height"], kind="stable")
    smallest, middle, largest = (f"{usable[row]['width']}x{usable[row]['height']}" for row in order[[0, len(order) // 2, -1]])
    return f"all {smallest} pixels" if smallest == largest else f"{smallest} to {largest} pixels, typically {middle}"


class _Seen(NamedTuple):
    digest: bytes
    row: tuple[int, ...]
    trouble: Trouble | None
    warning: str


def examine(dataset: Dataset) -> tuple[Dataset, Looks]:
    """Reads every file once; the same data with the samples' digests, and what was seen.

    A sample without a group gets its digest for one. A file that cannot be used stays in the data, and is in `troubles`.
    """
    samples, columns = list(dataset.samples), np.zeros(len(dataset.samples), LOOK)
    # The samples are replaced one by one: where the caller keeps no hold on the old data either, a million of them are
    # never held twice.
    bare, read = replace(dataset, samples=()), dataset.source.read
    del dataset
    troubles: dict[str, Trouble] = {}
    warned: dict[str, str] = {}

    with Progress("reading", len(samples), "images") as progress, _attentive() as heard:

        def look(row: int) -> _Seen:
            return _look(read, samples[row].path, heard)

        for row, seen in enumerate(progress.each(each(look, range(len(samples)), cores()))):
            sample = samples[row]
            columns[row] = seen.row
            if seen.trouble:
                troubles[sample.path] = seen.trouble
            elif seen.warning:
                warned[sample.path] = seen.warning
            samples[row] = replace(sample, digest=seen.digest, group=sample.group or seen.digest)
    examined, looks = replace(bare, samples=tuple(samples)), Looks(columns, troubles, warned)
    return examined, replace(looks, alike=tuple(_near_copies(examined, looks)))


class _Heard(threading.local):
    """What Pillow warned of in this thread since it last began a file."""

    def __init__(self) -> None:
        self.messages: list[str] = []


@contextmanager
def _attentive() -> Iterator[_Heard]:
    """Collects Python's warnings by thread; `warnings.catch_warnings` alone would mix those of several files."""
    heard = _Heard()

    def note(message: Warning | str, *_: object, **__: object) -> None:
        heard.messages.append(" ".join(str(message).split()))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        yield heard


def _look(read: Callable[[str], bytes], path: str, heard: _Heard) -> _Seen:
    heard.messages.clear()
    try:
        encoded = read(path)
    except DatasetError as error:
        # Nothing is known of its content, so it is like no other file.
        unknown = hashlib.sha256(b"unread " + path.encode("utf-8", "surrogateescape")).digest()
        return _Seen(unknown, _row(0, None), Trouble("unreadable_file", str(error)), "")
    digest = hashlib.sha256(encoded).digest()
    try:
        seen = glance(encoded, SIDE)
    except ImageError as error:
        return _Seen(digest, _row(len(encoded), None), Trouble(error.code, str(error)), "")
    return _Seen(digest, _row(len(encoded), seen), None, "; ".join(dict.fromkeys(heard.messages)))


def _row(n_bytes: int, seen: Glance | None) -> tuple[int, ...]:
    """One file's values in LOOK's order."""
    if seen is None:
        return n_bytes, 0, 0, NOTHING, NOTHING, 0, 0, 0, 0
    mode = MODES.index(seen.mode) if seen.mode in MODES else NOTHING
    code = FORMATS.index(seen.format)
    across, down = hash_of(grey_of(seen.pixels))
    return n_bytes, seen.width, seen.height, code, mode, seen.orientation, _flags(seen), across, down


def _flags(seen: Glance) -> int:
    pixels = seen.pixels.astype(np.int16)
    flags = FILLED if seen.filled else 0
    flags += TRANSPARENT if seen.transparent else 0
    flags += ANIMATED if any(note.startswith("animated") for note in seen.notes) else 0
    flags += GREY if np.ptp(pixels, axis=2).max() <= SAME else 0
    flags += BLANK if np.ptp(pixels, axis=(0, 1)).max() <= SAME else 0
    return flags


def _near_copies(dataset: Dataset, looks: Looks) -> list[tuple[bytes, bytes]]:
    """Digests of images that differ in their bytes but show the same: re-encoded, resized, brightened.

    Only the few that look alike by their hashes are read a second time. What changed or vanished meanwhile is passed over.
    """
    rows = _different(dataset, looks)
    columns = looks.columns[rows]
    pairs = candidates(columns["across"], columns["down"])

    def thumbnail(place: int) -> Grey:
        sample = dataset.samples[rows[place]]
        try:
            encoded = dataset.read(sample)
            unchanged = hashlib.sha256(encoded).digest() == sample.digest
            return grey_of(glance(encoded, SIDE).pixels) if unchanged else NOTHING_SEEN
        except (DatasetError, ImageError):
            return NOTHING_SEEN

    same = judged(pairs, lambda places: each(thumbnail, places.tolist(), cores()))
    return [(dataset.samples[rows[one]].digest, dataset.samples[rows[other]].digest) for one, other in same]


def _different(dataset: Dataset, looks: Looks) -> NDArray[np.int64]:
    """One row for each content among the images that can be used and show more than one colour."""
    rows: NDArray[np.int64] = np.flatnonzero(looks.usable() & ~looks.has(BLANK))
    # Eight bytes of a digest are enough to tell a million files apart, and cost a fifth of a set of them.
    starts = (int.from_bytes(dataset.samples[row].digest[:8], "big") for row in rows.tolist())
    _, first = np.unique(np.fromiter(starts, np.uint64, len(rows)), return_index=True)
    return rows[np.sort(first)]

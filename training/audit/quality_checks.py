"""What a look at the files and the counts of the labels say about the data: a finding for each kind, never for each file."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from graft.service.imaging.preprocess import FORMATS
from graft.training.audit.image_scan import ANIMATED, BLANK, FILLED, GREY, MODES, TRANSPARENT, Looks
from graft.training.data.dataset import Dataset
from graft.training.data.errors import examples, plain
from graft.training.data.findings import Finding, Severity

SMALL_SIDE = 32  # pixels
LONG = 5.0  # times the shorter side
FEW_IMAGES = 10  # of one label
MANY_TIMES = 10  # between the sizes of two labels
SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
}


def of_images(dataset: Dataset, looks: Looks) -> list[Finding]:
    """What is odd about the images themselves: of one colour, far smaller than the rest, turned, transparent..."""
    paths = [sample.path for sample in dataset.samples]
    usable, columns = looks.usable(), looks.columns
    colour = usable & ~looks.has(GREY)
    modes = columns["mode"]
    remarks: list[tuple[str, Severity, NDArray[np.bool_], str]] = [
        ("blank", "warning", looks.has(BLANK), "of a single colour, so there is nothing to learn from"),
        ("cut-short", "warning", looks.has(FILLED), "ending in flat grey, as a picture does whose data were cut off"),
        ("tiny-image", "warning", _tiny(looks), "far smaller than the others and blurred when enlarged"),
        ("extreme-aspect", "warning", _long(looks), "far longer than the others; most of it is cut away by --fit crop"),
        ("rotated", "note", columns["orientation"] > 1, "turned by their EXIF orientation, here as when serving"),
        ("transparent", "note", looks.has(TRANSPARENT), "with transparency, seen on white"),
        ("animated", "note", looks.has(ANIMATED), "animated or of several frames; the first is used"),
        ("16-bit", "note", _any_mode(modes, "I;16"), "with 16 bits, read as 8"),
        ("cmyk", "note", _any_mode(modes, "CMYK"), "in print colours (CMYK), read as RGB"),
    ]
    if colour.sum() > usable.sum() / 2:
        remarks.append(("grey-among-colour", "note", looks.has(GREY), "without colour among coloured ones"))
    found = [
        Finding(kind, severity, f"{_images(len(chosen))} {what}: {examples(chosen)}", tuple(chosen))
        for kind, severity, rows, what in remarks
        if (chosen := [paths[row] for row in np.flatnonzero(rows & usable)])
    ]
    return found + _heard(looks) + _misnamed(paths, looks) + _spread(looks)


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"


def _any_mode(modes: NDArray[np.uint8], start: str) -> NDArray[np.bool_]:
    wanted: NDArray[np.bool_] = np.isin(modes, [number for number, mode in enumerate(MODES) if mode.startswith(start)])
    return wanted


def _sides(looks: Looks) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The shorter and the longer side of each image, in pixels; 1 where nothing is known."""
    width, height = (np.maximum(looks.columns[name].astype(np.int64), 1) for name in ("width", "height"))
    return np.minimum(width, height), np.maximum(width, height)


def _typical(values: NDArray[np.int64] | NDArray[np.float64], usable: NDArray[np.bool_]) -> float:
    return float(np.median(values[usable])) if usable.any() else 1.0


def _tiny(looks: Looks) -> NDArray[np.bool_]:
    # Small beside the others: where all images have 28 pixels, that is what the data are like.
    shorter, _ = _sides(looks)
    return (shorter < SMALL_SIDE) & (2 * shorter < _typical(shorter, looks.usable()))


def _long(looks: Looks) -> NDArray[np.bool_]:
    shorter, longer = _sides(looks)
    aspect = longer / shorter
    return (aspect >= LONG) & (aspect >= 2 * _typical(aspect, looks.usable()))


def _heard(looks: Looks) -> list[Finding]:
    """Files that could be read, but not without a complaint."""
    if not looks.warnings:
        return []
    said = "; ".join(f"{plain(path)} ({plain(text)[:80]})" for path, text in list(looks.warnings.items())[:3])
    more = f" and {len(looks.warnings) - 3:,} more" if len(looks.warnings) > 3 else ""
    text = f"{_images(len(looks.warnings))} read only with complaints: {said}{more}"
    return [Finding("read-with-warnings", "warning", text, tuple(looks.warnings))]


def _misnamed(paths: Sequence[str], looks: Looks) -> list[Finding]:
    """Files whose name says another format than their bytes; of names without a suffix only if others have one."""
    suffixes = [PurePosixPath(path).suffix.lower() for path in paths]
    named = any(suffixes)
    wrong = [
        (path, FORMATS[code])
        for path, suffix, code in zip(paths, suffixes, looks.columns["format"].tolist(), strict=True)
        if code < len(FORMATS) and named and suffix not in SUFFIXES[FORMATS[code]]
    ]
    if not wrong:
        return []
    shown = examples([f"{path} is {format}" for path, format in wrong])
    text = f"{_images(len(wrong))} with a name that does not say their format, read by their bytes: {shown}"
    return [Finding("wrong-extension", "note", text, tuple(path for path, _ in wrong))]


def _spread(looks: Looks) -> list[Finding]:
    """A note where some images have ten times as many pixels on a side as others."""
    sides = np.sort(_sides(looks)[0][looks.usable()])
    if not len(sides):
        return []
    small, large = int(sides[len(sides) // 100]), int(sides[-1 - len(sides) // 100])
    if large < MANY_TIMES * small:
        return []
    return [Finding("size-spread", "note", f"Images of very different sizes: shorter sides from {small} to {large} pixels")]


def of_labels(dataset: Dataset, looks: Looks) -> list[Finding]:
    """Labels with very few images, or with very many beside the others."""
    usable = looks.usable().tolist()
    pairs = zip(dataset.samples, usable, strict=True)
    counts = Counter(label for sample, good in pairs if good and sample.part != "test" for label in sample.labels)
    sizes = [counts[label] for label in range(len(dataset.labels))]
    return _few(dataset.labels, sizes) + _uneven(dataset.labels, sizes)


def _few(labels: Sequence[str], sizes: Sequence[int]) -> list[Finding]:
    few = [f"{name} ({size})" for name, size in zip(labels, sizes, strict=True) if size < FEW_IMAGES]
    if not few:
        return []
    text = f"Labels with fewer than {FEW_IMAGES} images, about which little can be learned or measured: {examples(few)}"
    return [Finding("tiny-class", "warning", text)]


def _uneven(labels: Sequence[str], sizes: Sequence[int]) -> list[Finding]:
    found = []
    most, least = int(np.argmax(sizes)), int(np.argmin(sizes))
    if sizes[least] and sizes[most] >= MANY_TIMES * sizes[least]:
        text = (
            f"{plain(labels[most])} has {sizes[most]:,} images and {plain(labels[least])} {sizes[least]:,},"
            f" {sizes[most] / sizes[least]:.0f} times fewer: read balanced accuracy, and consider --balance"
        )
        found.append(Finding("imbalance", "warning", text))
    share = sizes[most] / max(1, sum(sizes))
    if share > 0.5 and sizes[most] >= MANY_TIMES * np.median([size for label, size in enumerate(sizes) if label != most]):
        text = f"{plain(labels[most])} has {share:.0%} of all images, so always answering it would look good"
        found.append(Finding("huge-class", "warning", text))
    return found

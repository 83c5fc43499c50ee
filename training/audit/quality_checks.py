"""Checks of image quality and label counts, based on the image scan: one finding per kind of problem, not per file."""

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
LONG = 5.0  # longer side / shorter side
FEW_IMAGES = 10  # per label
MANY_TIMES = 10  # ratio of two labels' counts, or of two image sizes
SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
}


def of_images(dataset: Dataset, looks: Looks) -> list[Finding]:
    """Checks the images: blank, truncated, tiny, elongated, rotated, transparent and so on."""
    paths = [sample.path for sample in dataset.samples]
    usable, records = looks.usable(), looks.columns
    colored = usable & ~looks.has(GREY)
    modes = records["mode"]
    checks: list[tuple[str, Severity, NDArray[np.bool_], str]] = [
        ("blank", "warning", looks.has(BLANK), "of a single color, with nothing to learn from"),
        ("cut-short", "warning", looks.has(FILLED), "ending in flat gray, a sign of truncated data"),
        ("tiny-image", "warning", _tiny(looks), "much smaller than the others and blurred when enlarged"),
        ("extreme-aspect", "warning", _long(looks), "much longer than the others; --fit crop removes most of such an image"),
        ("rotated", "note", records["orientation"] > 1, "rotated by EXIF orientation, in training and serving"),
        ("transparent", "note", looks.has(TRANSPARENT), "with transparency, composited on white"),
        ("animated", "note", looks.has(ANIMATED), "animated or with several frames; the first frame is used"),
        ("16-bit", "note", _any_mode(modes, "I;16"), "with 16 bits per channel, converted to 8"),
        ("cmyk", "note", _any_mode(modes, "CMYK"), "in CMYK, converted to RGB"),
    ]
    if colored.sum() > usable.sum() / 2:
        checks.append(("grey-among-colour", "note", looks.has(GREY), "in grayscale among color images"))
    findings = [
        Finding(kind, severity, f"{_images(len(affected))} {description}: {examples(affected)}", tuple(affected))
        for kind, severity, mask, description in checks
        if (affected := [paths[row] for row in np.flatnonzero(mask & usable)])
    ]
    return findings + _heard(looks) + _misnamed(paths, looks) + _spread(looks)


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"


def _any_mode(modes: NDArray[np.uint8], start: str) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = np.isin(modes, [number for number, mode in enumerate(MODES) if mode.startswith(start)])
    return mask


def _sides(looks: Looks) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The shorter and the longer side of each image, in pixels; 1 if unknown."""
    width, height = (np.maximum(looks.columns[name].astype(np.int64), 1) for name in ("width", "height"))
    return np.minimum(width, height), np.maximum(width, height)


def _typical(values: NDArray[np.int64] | NDArray[np.float64], usable: NDArray[np.bool_]) -> float:
    return float(np.median(values[usable])) if usable.any() else 1.0


def _tiny(looks: Looks) -> NDArray[np.bool_]:
    # Relative to the other images: if all have 28 pixels, that is the size of this data set.
    shorter, _ = _sides(looks)
    return (shorter < SMALL_SIDE) & (2 * shorter < _typical(shorter, looks.usable()))


def _long(looks: Looks) -> NDArray[np.bool_]:
    shorter, longer = _sides(looks)
    aspect_ratio = longer / shorter
    return (aspect_ratio >= LONG) & (aspect_ratio >= 2 * _typical(aspect_ratio, looks.usable()))


def _heard(looks: Looks) -> list[Finding]:
    """Files that Pillow reads with warnings."""
    if not looks.warnings:
        return []
    shown = "; ".join(f"{plain(path)} ({plain(text)[:80]})" for path, text in list(looks.warnings.items())[:3])
    more = f" and {len(looks.warnings) - 3:,} more" if len(looks.warnings) > 3 else ""
    text = f"{_images(len(looks.warnings))} read with decoder warnings: {shown}{more}"
    return [Finding("read-with-warnings", "warning", text, tuple(looks.warnings))]


def _misnamed(paths: Sequence[str], looks: Looks) -> list[Finding]:
    """Files with an extension of another format; files without an extension only if others have one."""
    suffixes = [PurePosixPath(path).suffix.lower() for path in paths]
    any_suffix = any(suffixes)
    wrong = [
        (path, FORMATS[code])
        for path, suffix, code in zip(paths, suffixes, looks.columns["format"].tolist(), strict=True)
        if code < len(FORMATS) and any_suffix and suffix not in SUFFIXES[FORMATS[code]]
    ]
    if not wrong:
        return []
    shown = examples([f"{path} is {format}" for path, format in wrong])
    text = f"{_images(len(wrong))} with an extension that does not match the format, read by content: {shown}"
    return [Finding("wrong-extension", "note", text, tuple(path for path, _ in wrong))]


def _spread(looks: Looks) -> list[Finding]:
    """A note if the largest images have at least ten times the side length of the smallest (1st and 99th percentile)."""
    sides = np.sort(_sides(looks)[0][looks.usable()])
    if not len(sides):
        return []
    small, large = int(sides[len(sides) // 100]), int(sides[-1 - len(sides) // 100])
    if large < MANY_TIMES * small:
        return []
    return [Finding("size-spread", "note", f"Images of very different sizes: shorter sides from {small} to {large} pixels")]


def of_labels(dataset: Dataset, looks: Looks) -> list[Finding]:
    """Checks the number of images per label: too few, or imbalanced. Test images do not count."""
    usable = looks.usable().tolist()
    pairs = zip(dataset.samples, usable, strict=True)
    by_label = Counter(label for sample, is_usable in pairs if is_usable and sample.part != "test" for label in sample.labels)
    counts = [by_label[label] for label in range(len(dataset.labels))]
    return _few(dataset.labels, counts) + _uneven(dataset.labels, counts)


def _few(labels: Sequence[str], sizes: Sequence[int]) -> list[Finding]:
    small = [f"{name} ({size})" for name, size in zip(labels, sizes, strict=True) if size < FEW_IMAGES]
    if not small:
        return []
    text = f"Labels with fewer than {FEW_IMAGES} images, too few to learn or measure much: {examples(small)}"
    return [Finding("tiny-class", "warning", text)]


def _uneven(labels: Sequence[str], sizes: Sequence[int]) -> list[Finding]:
    findings = []
    largest, smallest = int(np.argmax(sizes)), int(np.argmin(sizes))
    if sizes[smallest] and sizes[largest] >= MANY_TIMES * sizes[smallest]:
        text = (
            f"{plain(labels[largest])} has {sizes[largest]:,} images and {plain(labels[smallest])} {sizes[smallest]:,},"
            f" {sizes[largest] / sizes[smallest]:.0f} times fewer: read balanced accuracy, and consider --balance"
        )
        findings.append(Finding("imbalance", "warning", text))
    fraction = sizes[largest] / max(1, sum(sizes))
    others = [size for label, size in enumerate(sizes) if label != largest]
    if fraction > 0.5 and sizes[largest] >= MANY_TIMES * np.median(others):
        text = f"{plain(labels[largest])} has {fraction:.0%} of all images, so always predicting it gives a high accuracy"
        findings.append(Finding("huge-class", "warning", text))
    return findings

"""Checks of image quality and label counts, based on the image scan: one finding per kind of problem, not per file."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from graft.service.imaging.formats import FORMATS
from graft.training.audit.image_scan import (
    ANIMATED,
    BLANK,
    GRAY_FILL,
    GRAYSCALE,
    MANY_PAGES,
    MODES,
    TRANSPARENT,
    ScanTable,
)
from graft.training.data.dataset import Dataset
from graft.training.data.errors import examples, printable
from graft.training.data.findings import Finding, Severity

TINY_SIDE = 32  # pixels
EXTREME_ASPECT_RATIO = 5.0  # longer side / shorter side
MIN_IMAGES_PER_LABEL = 10  # per label
LARGE_RATIO = 10  # ratio of two labels' counts, or of two image sizes


def check_images(dataset: Dataset, table: ScanTable) -> list[Finding]:
    """Checks the images: blank, truncated, tiny, elongated, rotated, transparent and so on."""
    paths = [sample.path for sample in dataset.samples]
    usable, records = table.usable(), table.records
    colored = usable & ~table.has_flag(GRAYSCALE)
    modes = records["mode"]
    checks: list[tuple[str, Severity, NDArray[np.bool_], str]] = [
        ("blank", "warning", table.has_flag(BLANK), "of a single color, with nothing to learn from"),
        ("cut-short", "warning", table.has_flag(GRAY_FILL), "ending in flat gray, a sign of truncated data"),
        ("tiny-image", "warning", _is_tiny(table), "much smaller than the others and blurred when enlarged"),
        (
            "extreme-aspect",
            "warning",
            _is_elongated(table),
            "much longer than the others; --fit crop removes most of such an image",
        ),
        ("rotated", "note", records["orientation"] > 1, "rotated by EXIF orientation, in training and serving"),
        ("transparent", "note", table.has_flag(TRANSPARENT), "with transparency, composited on white"),
        ("animated", "note", table.has_flag(ANIMATED), "animated or with several frames; the first frame is used"),
        ("multi-page", "note", table.has_flag(MANY_PAGES), "with several pages; the first page is used"),
        ("16-bit", "note", records["used_bits"] > 0, _depth_text(dataset)),
        ("cmyk", "note", _has_mode(modes, "CMYK"), "in CMYK, converted to RGB"),
    ]
    if colored.sum() > usable.sum() / 2:
        checks.append(("gray-among-color", "note", table.has_flag(GRAYSCALE), "in grayscale among color images"))
    findings = [
        Finding(kind, severity, f"{_count_text(len(affected))} {description}: {examples(affected)}", tuple(affected))
        for kind, severity, mask, description in checks
        if (affected := [paths[row] for row in np.flatnonzero(mask & usable)])
    ]
    findings += _decoder_warnings(table) + _wrong_extensions(paths, table) + _size_spread(table)
    return findings + _depth_spread(paths, table) + _served_formats(dataset, table)


def _count_text(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"


def _has_mode(modes: NDArray[np.uint8], prefix: str) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = np.isin(modes, [number for number, mode in enumerate(MODES) if mode.startswith(prefix)])
    return mask


def _side_lengths(table: ScanTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The shorter and the longer side of each image, in pixels; 1 if unknown."""
    width, height = (np.maximum(table.records[name].astype(np.int64), 1) for name in ("width", "height"))
    return np.minimum(width, height), np.maximum(width, height)


def _median(values: NDArray[np.int64] | NDArray[np.float64], usable: NDArray[np.bool_]) -> float:
    return float(np.median(values[usable])) if usable.any() else 1.0


def _is_tiny(table: ScanTable) -> NDArray[np.bool_]:
    # Relative to the other images: if all have 28 pixels, that is the size of this data set.
    shorter, _ = _side_lengths(table)
    return (shorter < TINY_SIDE) & (2 * shorter < _median(shorter, table.usable()))


def _is_elongated(table: ScanTable) -> NDArray[np.bool_]:
    shorter, longer = _side_lengths(table)
    aspect_ratio = longer / shorter
    return (aspect_ratio >= EXTREME_ASPECT_RATIO) & (aspect_ratio >= 2 * _median(aspect_ratio, table.usable()))


def _decoder_warnings(table: ScanTable) -> list[Finding]:
    """Files that Pillow reads with warnings."""
    if not table.warnings:
        return []
    shown = "; ".join(f"{printable(path)} ({printable(text)[:80]})" for path, text in list(table.warnings.items())[:3])
    more = f" and {len(table.warnings) - 3:,} more" if len(table.warnings) > 3 else ""
    text = f"{_count_text(len(table.warnings))} read with decoder warnings: {shown}{more}"
    return [Finding("read-with-warnings", "warning", text, tuple(table.warnings))]


def _wrong_extensions(paths: Sequence[str], table: ScanTable) -> list[Finding]:
    """Files with an extension of another format; files without an extension only if others have one."""
    suffixes = [PurePosixPath(path).suffix.lower() for path in paths]
    any_suffix = any(suffixes)
    wrong = [
        (path, FORMATS[code].name)
        for path, suffix, code in zip(paths, suffixes, table.records["format"].tolist(), strict=True)
        if code < len(FORMATS) and any_suffix and suffix not in FORMATS[code].suffixes
    ]
    if not wrong:
        return []
    shown = examples([f"{path} is {format}" for path, format in wrong])
    text = f"{_count_text(len(wrong))} with an extension that does not match the format, read by content: {shown}"
    return [Finding("wrong-extension", "note", text, tuple(path for path, _ in wrong))]


def _size_spread(table: ScanTable) -> list[Finding]:
    """A note if the largest images have at least ten times the side length of the smallest (1st and 99th percentile)."""
    sides = np.sort(_side_lengths(table)[0][table.usable()])
    if not len(sides):
        return []
    small, large = int(sides[len(sides) // 100]), int(sides[-1 - len(sides) // 100])
    if large < LARGE_RATIO * small:
        return []
    return [Finding("size-spread", "note", f"Images of very different sizes: shorter sides from {small} to {large} pixels")]


def _depth_text(dataset: Dataset) -> str:
    bits = dataset.sample_bits or 16
    return f"with more than 8 bits per channel, converted to 8 by dividing by {2**bits - 1:,}, the largest value of {bits} bits"


def _depth_spread(paths: Sequence[str], table: ScanTable) -> list[Finding]:
    """A warning if some images use far fewer bits than others, so that they are dark: probably they have another scale."""
    used_bits = table.records["used_bits"]
    deep = used_bits > 0
    if not deep.any() or (most := int(used_bits.max())) <= 12:
        return []
    dark = [paths[row] for row in np.flatnonzero(deep & (used_bits <= most - 4)).tolist()]
    if len(dark) < 0.05 * deep.sum():
        return []
    text = (
        f"{_count_text(len(dark))} with values of at most {most - 4} bits among images of {most}, so very dark:"
        f" if they are from another camera, scale them first: {examples(dark)}"
    )
    return [Finding("depth-spread", "warning", text, tuple(dark))]


def _served_formats(dataset: Dataset, table: ScanTable) -> list[Finding]:
    """A note on formats that a service accepts only because they are in the training data."""
    codes = table.records["format"]
    findings = []
    for code, image_format in enumerate(FORMATS):
        if not image_format.always_served and image_format.name in dataset.formats:
            count = _count_text(int((codes == code).sum()))
            text = f"{count} in {image_format.label}; a service with this data's model accepts it"
            findings.append(Finding(f"{image_format.label.lower()}-format", "note", text))
    return findings


def check_labels(dataset: Dataset, table: ScanTable) -> list[Finding]:
    """Checks the number of images per label: too few, or imbalanced. Test images do not count."""
    usable = table.usable().tolist()
    pairs = zip(dataset.samples, usable, strict=True)
    by_label = Counter(label for sample, is_usable in pairs if is_usable and sample.split != "test" for label in sample.labels)
    counts = [by_label[label] for label in range(len(dataset.labels))]
    return _small_labels(dataset.labels, counts) + _imbalance(dataset.labels, counts)


def _small_labels(labels: Sequence[str], counts: Sequence[int]) -> list[Finding]:
    small = [f"{name} ({size})" for name, size in zip(labels, counts, strict=True) if size < MIN_IMAGES_PER_LABEL]
    if not small:
        return []
    text = f"Labels with fewer than {MIN_IMAGES_PER_LABEL} images, too few to learn or measure much: {examples(small)}"
    return [Finding("tiny-class", "warning", text)]


def _imbalance(labels: Sequence[str], counts: Sequence[int]) -> list[Finding]:
    findings = []
    largest, smallest = int(np.argmax(counts)), int(np.argmin(counts))
    if counts[smallest] and counts[largest] >= LARGE_RATIO * counts[smallest]:
        text = (
            f"{printable(labels[largest])} has {counts[largest]:,} images and"
            f" {printable(labels[smallest])} {counts[smallest]:,},"
            f" {counts[largest] / counts[smallest]:.0f} times fewer: read balanced accuracy, and consider"
            " --metric balanced-accuracy"
        )
        findings.append(Finding("imbalance", "warning", text))
    fraction = counts[largest] / max(1, sum(counts))
    others = [size for label, size in enumerate(counts) if label != largest]
    if fraction > 0.5 and counts[largest] >= LARGE_RATIO * np.median(others):
        text = f"{printable(labels[largest])} has {fraction:.0%} of all images, so always predicting it gives a high accuracy"
        findings.append(Finding("huge-class", "warning", text))
    return findings

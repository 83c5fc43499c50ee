"""Reads MNIST (IDX) and CIFAR binary files as distributed: builds a `Listing` and serves each image as a BMP file.

BMP is lossless and its bytes depend on the pixels only, so the same image has the same digest everywhere.
"""

import math
import os
import re
import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graft.training.data.errors import DatasetError, ScanIssues, printable
from graft.training.data.listing import Listing
from graft.training.data.readers.source import Source

IDX_FILE_NAME = re.compile(
    r"(?:(?P<set>.+?)[-_])?(?P<split>train|t10k|test)[-.](?P<content>images|labels)[-.]idx\d[-.]ubyte(?:\.gz)?$"
)
CIFAR_FILE_NAME = re.compile(r"(?P<split>data|test)_batch(?:_\d+)?\.bin$")
CIFAR_SHAPE = (3, 32, 32)
PICKLE_ERROR = "{} contains the Python version of CIFAR, a pickle, which can run arbitrary code: use the binary version, {}."
MAX_SIDE = 16_384


@dataclass(frozen=True)
class ImageBlock:
    """Consecutive images of one size in a file.

    Attributes:
        offset: byte offset of the first image's pixels.
        stride: bytes from one image to the next.
        shape: (H, W), (H, W, 3), or (3, H, W) for planar RGB.
    """

    file: Path
    offset: int
    stride: int
    shape: tuple[int, ...]
    n_images: int


@dataclass(frozen=True)
class BinaryImageReader:
    """Reads images from blocks; a path is `BLOCK/NUMBER.bmp`."""

    blocks: dict[str, ImageBlock]

    def list_files(self, _: ScanIssues, __: bool) -> Iterator[tuple[str, int]]:
        """Yield each image's path, with size 0."""
        yield from ((path, 0) for name, block in self.blocks.items() for path in _image_paths(name, block))

    def read(self, path: str, n_bytes: int) -> bytes:
        """Return the first `n_bytes` of an image as a BMP file, or all of it if negative."""
        name, _, number = path.removesuffix(".bmp").rpartition("/")
        block, row = self.blocks[name], int(number)
        if not 0 <= row < block.n_images:
            raise ValueError("the file has no such image")
        size = math.prod(block.shape)
        with block.file.open("rb", buffering=0) as file:
            content = os.pread(file.fileno(), size, block.offset + row * block.stride)
        if len(content) != size:
            raise EOFError("the file is truncated")
        pixels = np.frombuffer(content, np.uint8).reshape(block.shape)
        encoded = encode_bmp(pixels.transpose(1, 2, 0) if block.shape[0] == 3 and len(block.shape) == 3 else pixels)
        return encoded if n_bytes < 0 else encoded[:n_bytes]


def encode_bmp(pixels: NDArray[np.uint8]) -> bytes:
    """Encode uint8 (H, W), as a grayscale palette image, or uint8 (H, W, 3), RGB, as a BMP file."""
    height, width = pixels.shape[:2]
    is_gray = pixels.ndim == 2
    palette = np.repeat(np.arange(256, dtype=np.uint8), 4).reshape(256, 4) * np.array([1, 1, 1, 0], np.uint8)
    rows = pixels[::-1].reshape(height, -1) if is_gray else pixels[::-1, :, ::-1].reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    color_table = palette.tobytes() if is_gray else b""
    pixel_offset = 14 + 40 + len(color_table)
    file_header = struct.pack("<2sIHHI", b"BM", pixel_offset + rows.size, 0, 0, pixel_offset)
    info_header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8 if is_gray else 24, 0, rows.size, 2835, 2835, 0, 0)
    return file_header + info_header + color_table + rows.tobytes()


def read_listing(source: Source, paths: Sequence[str]) -> tuple[Source, Listing] | None:
    """List the images in the IDX or CIFAR files among `paths`; None if there are none.

    Raises:
        DatasetError: if the files are incomplete or damaged, or contain more than one data set.
    """
    names = {path: path.rpartition("/")[2] for path in paths}
    if matches := {path: match for path, name in names.items() if (match := IDX_FILE_NAME.match(name))}:
        return _read_idx(source, matches)
    batches = {path: match["split"] for path, name in names.items() if (match := CIFAR_FILE_NAME.match(name))}
    if batches:
        splits = {path: "train" if split == "data" else "test" for path, split in batches.items()}
        return _read_cifar(source, splits, _read_lines(source, paths, "batches.meta.txt"), 1)
    if labels := _read_lines(source, paths, "fine_label_names.txt"):
        splits = {path: name[:-4] for path, name in names.items() if name in ("train.bin", "test.bin")}
        if splits:
            return _read_cifar(source, splits, labels, 2)
    _reject_pickles(source.root, set(paths))
    return None


def is_idx_file(path: str) -> bool:
    """Return whether a file is one of MNIST's IDX files, compressed or not, by its name."""
    return IDX_FILE_NAME.match(path.rpartition("/")[2]) is not None


def _reject_pickles(root: Path, paths: set[str]) -> None:
    for path in paths:
        folder, _, name = path.rpartition("/")
        if re.match(r"data_batch_\d$|batches\.meta$", name):
            raise DatasetError(PICKLE_ERROR.format(root, "cifar-10-binary.tar.gz"))
        if name == "meta" and f"{folder}/train".lstrip("/") in paths:
            raise DatasetError(PICKLE_ERROR.format(root, "cifar-100-binary.tar.gz"))


def _read_idx(source: Source, matches: "dict[str, re.Match[str]]") -> tuple[Source, Listing]:
    datasets: dict[tuple[str, str], dict[tuple[str, str], str]] = defaultdict(dict)
    for path in sorted(matches, reverse=True):  # the uncompressed file replaces its .gz copy
        match = matches[path]
        split = "train" if match["split"] == "train" else "test"
        datasets[path.rpartition("/")[0], match["set"] or ""][split, match["content"]] = path
    if len(datasets) > 1:
        names = ", ".join(sorted(printable("/".join(filter(None, key))) or "." for key in datasets))
        raise DatasetError(f"{source.root} contains several data sets ({names}): use the folder of one, or keep only one.")
    [files] = datasets.values()
    blocks, labels = {}, {}
    for split in ("train", "test"):
        if missing := [content for content in ("images", "labels") if (split, content) not in files]:
            if len(missing) == 1:
                existing = next(path for (name, _), path in files.items() if name == split)
                raise DatasetError(f"{source.root} has no {missing[0]} for {existing}.")
            continue
        blocks[split], labels[split] = _idx_block(source, files[split, "images"]), _idx_labels(source, files[split, "labels"])
        if blocks[split].n_images != len(labels[split]):
            counts = f"{blocks[split].n_images:,} images and {len(labels[split]):,} labels"
            raise DatasetError(f"{files[split, 'images']} in {source.root} and its labels do not match: {counts}.")
    return _build_listing(source.root, blocks, {split: (split, labels[split]) for split in blocks}, ())


def _idx_block(source: Source, path: str) -> ImageBlock:
    file, start, n_bytes = source.byte_range(path)
    shape, header = _idx_shape(file, start, n_bytes, source.root / path)
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3) or not all(0 < side <= MAX_SIDE for side in shape[1:]):
        raise DatasetError(f"{source.root / path} contains no images, but an array of shape {shape}.")
    return ImageBlock(file, start + header, math.prod(shape[1:]), shape[1:], shape[0])


def _idx_labels(source: Source, path: str) -> list[int]:
    file, start, n_bytes = source.byte_range(path)
    shape, header = _idx_shape(file, start, n_bytes, source.root / path)
    if len(shape) != 1:
        raise DatasetError(f"{source.root / path} contains no labels, but an array of shape {shape}.")
    return _read_column(file, start + header, (shape[0], 1), 0)


def _idx_shape(file: Path, start: int, n_bytes: int, path: Path) -> tuple[tuple[int, ...], int]:
    """Return the shape of an IDX array and its header length. Raises DatasetError if the file size does not match."""
    with file.open("rb") as binary:
        binary.seek(start)
        head = binary.read(min(n_bytes, 4 + 4 * 255))
    if len(head) < 4 or head[:3] != b"\0\0\x08" or len(head) < 4 + 4 * head[3]:
        raise DatasetError(f"{path} is not an IDX file of unsigned bytes.")
    shape = struct.unpack_from(f">{head[3]}I", head, 4)
    header = 4 + 4 * head[3]
    expected = header + math.prod(shape)
    if expected != n_bytes:
        raise DatasetError(f"{path} is damaged or truncated: it has {n_bytes:,} bytes, but its header requires {expected:,}.")
    return shape, header


def _read_cifar(source: Source, splits: dict[str, str], labels: tuple[str, ...], n_label_bytes: int) -> tuple[Source, Listing]:
    """Read CIFAR records: the label bytes, of which the last is the fine label, then the pixels."""
    stride = n_label_bytes + 3 * 32 * 32
    blocks, label_indices = {}, {}
    for path in sorted(splits, key=lambda path: (splits[path] == "test", path)):
        file, start, n_bytes = source.byte_range(path)
        if n_bytes % stride or not n_bytes:
            raise DatasetError(f"{source.root / path} is damaged or truncated: {n_bytes:,} bytes, no multiple of {stride:,}.")
        name = path.rpartition("/")[2].removesuffix(".bin")
        if name in blocks:
            raise DatasetError(f"{source.root} contains {name}.bin more than once: use the folder of one data set.")
        blocks[name] = ImageBlock(file, start + n_label_bytes, stride, CIFAR_SHAPE, n_bytes // stride)
        label_indices[name] = splits[path], _read_column(file, start, (n_bytes // stride, stride), n_label_bytes - 1)
    return _build_listing(source.root, blocks, label_indices, labels)


def _build_listing(
    root: Path, blocks: dict[str, ImageBlock], labels_of: dict[str, tuple[str, list[int]]], names: tuple[str, ...]
) -> tuple[Source, Listing]:
    """Combine all blocks into one listing. Raises DatasetError if a label has no name."""
    max_label = max((max(labels, default=0) for _, labels in labels_of.values()), default=0)
    if names and max_label >= len(names):
        raise DatasetError(f"{root} is damaged: it has the label {max_label}, but names for only {len(names)} labels.")
    used = sorted({label for _, labels in labels_of.values() for label in labels})
    label_order = names or tuple(map(str, used))
    label_tuples = {label: (names[label] if names else str(label),) for label in used}  # one tuple per label, shared
    has_splits = len({split for split, _ in labels_of.values()}) > 1
    listing = Listing(label_order=label_order, layout="MNIST (IDX) or CIFAR files")
    for name, block in blocks.items():
        split, labels = labels_of[name]
        listing.paths.extend(_image_paths(name, block))
        listing.label_names.extend(label_tuples[label] for label in labels)
        listing.splits.extend(repeat(split if has_splits else "", len(labels)))
    return Source(root, BinaryImageReader(blocks)), listing


def _image_paths(name: str, block: ImageBlock) -> Iterator[str]:
    return (f"{name}/{number:05d}.bmp" for number in range(block.n_images))


def _read_column(file: Path, start: int, shape: tuple[int, int], column: int) -> list[int]:
    """Read one column of the uint8 array of the given shape at byte offset `start`."""
    if shape[0] == 0:
        return []
    values: list[int] = np.memmap(file, np.uint8, "r", start, shape)[:, column].tolist()
    return values


def _read_lines(source: Source, paths: Sequence[str], name: str) -> tuple[str, ...]:
    """Return the non-empty lines of a text file among `paths`; () if there is no such file."""
    path = next((path for path in paths if path.rpartition("/")[2] == name), None)
    text = source.read(path).decode("utf-8", "replace") if path else ""
    return tuple(line.strip() for line in text.splitlines() if line.strip())

"""MNIST's IDX files and CIFAR's binary files, as they are distributed -> a Listing, and each image as a BMP file.

BMP, because it is lossless and nothing but the pixels decides its bytes: the same image has the same digest everywhere.
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

from graft.training.data.errors import DatasetError, Mishaps, plain
from graft.training.data.readers.class_folders import Listing
from graft.training.data.readers.source import Source

IDX = re.compile(r"(?:(?P<set>.+?)[-_])?(?P<part>train|t10k|test)[-.](?P<what>images|labels)[-.]idx\d[-.]ubyte(?:\.gz)?$")
CIFAR = re.compile(r"(?P<part>data|test)_batch(?:_\d+)?\.bin$")
CIFAR_SHAPE = (3, 32, 32)
PICKLED = "{} holds the Python version of CIFAR, a pickle, which can run a stranger's code: get the binary version, {}."
MOST_SIDE = 16_384


@dataclass(frozen=True)
class Block:
    """Images of one size, one after the other in a file.

    Attributes:
        start: the offset of the first image's pixels.
        stride: bytes from one image to the next.
        shape: (H, W), (H, W, 3), or (3, H, W) for planes of one colour each.
    """

    file: Path
    start: int
    stride: int
    shape: tuple[int, ...]
    n_images: int


@dataclass(frozen=True)
class Images:
    """Reads images out of blocks; a path is `BLOCK/NUMBER.bmp`."""

    blocks: dict[str, Block]

    def names(self, _: Mishaps, __: bool) -> Iterator[tuple[str, int]]:
        """Every image's path."""
        yield from ((path, 0) for name, block in self.blocks.items() for path in _paths(name, block))

    def read(self, path: str, n_bytes: int) -> bytes:
        """The first `n_bytes` of an image as a BMP file, all of it if negative."""
        name, _, number = path.removesuffix(".bmp").rpartition("/")
        block, row = self.blocks[name], int(number)
        if not 0 <= row < block.n_images:
            raise ValueError("the file has no such image")
        size = math.prod(block.shape)
        with block.file.open("rb", buffering=0) as file:
            content = os.pread(file.fileno(), size, block.start + row * block.stride)
        if len(content) != size:
            raise EOFError("the file is cut off")
        pixels = np.frombuffer(content, np.uint8).reshape(block.shape)
        encoded = bmp(pixels.transpose(1, 2, 0) if block.shape[0] == 3 and len(block.shape) == 3 else pixels)
        return encoded if n_bytes < 0 else encoded[:n_bytes]


def bmp(pixels: NDArray[np.uint8]) -> bytes:
    """A BMP file of uint8 (H, W), which becomes a palette of greys, or of uint8 (H, W, 3), RGB."""
    height, width = pixels.shape[:2]
    grey = pixels.ndim == 2
    palette = np.repeat(np.arange(256, dtype=np.uint8), 4).reshape(256, 4) * np.array([1, 1, 1, 0], np.uint8)
    rows = pixels[::-1].reshape(height, -1) if grey else pixels[::-1, :, ::-1].reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    colours = palette.tobytes() if grey else b""
    start = 14 + 40 + len(colours)
    header = struct.pack("<2sIHHI", b"BM", start + rows.size, 0, 0, start)
    about = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8 if grey else 24, 0, rows.size, 2835, 2835, 0, 0)
    return header + about + colours + rows.tobytes()


def listed(source: Source, paths: Sequence[str]) -> tuple[Source, Listing] | None:
    """The images in IDX or CIFAR files among `paths`; None if there are none.

    Raises:
        DatasetError: if they are incomplete or damaged, or hold more than one data set.
    """
    names = {path: path.rpartition("/")[2] for path in paths}
    if found := {path: match for path, name in names.items() if (match := IDX.match(name))}:
        return _idx(source, found)
    batches = {path: match["part"] for path, name in names.items() if (match := CIFAR.match(name))}
    if batches:
        parts = {path: "train" if part == "data" else "test" for path, part in batches.items()}
        return _cifar(source, parts, _lines(source, paths, "batches.meta.txt"), 1)
    if labels := _lines(source, paths, "fine_label_names.txt"):
        parts = {path: name[:-4] for path, name in names.items() if name in ("train.bin", "test.bin")}
        if parts:
            return _cifar(source, parts, labels, 2)
    _refuse_pickles(source.root, set(paths))
    return None


def _refuse_pickles(root: Path, paths: set[str]) -> None:
    for path in paths:
        folder, _, name = path.rpartition("/")
        if re.match(r"data_batch_\d$|batches\.meta$", name):
            raise DatasetError(PICKLED.format(root, "cifar-10-binary.tar.gz"))
        if name == "meta" and f"{folder}/train".lstrip("/") in paths:
            raise DatasetError(PICKLED.format(root, "cifar-100-binary.tar.gz"))


def _idx(source: Source, found: "dict[str, re.Match[str]]") -> tuple[Source, Listing]:
    sets: dict[tuple[str, str], dict[tuple[str, str], str]] = defaultdict(dict)
    for path in sorted(found, reverse=True):  # so that the unpacked one of two twins stays
        match = found[path]
        part = "train" if match["part"] == "train" else "test"
        sets[path.rpartition("/")[0], match["set"] or ""][part, match["what"]] = path
    if len(sets) > 1:
        several = ", ".join(sorted(plain("/".join(filter(None, key))) or "." for key in sets))
        raise DatasetError(f"{source.root} holds several data sets ({several}): give the folder of one, or leave one in it.")
    [files] = sets.values()
    blocks, numbers = {}, {}
    for part in ("train", "test"):
        if missing := [what for what in ("images", "labels") if (part, what) not in files]:
            if len(missing) == 1:
                raise DatasetError(
                    f"{source.root} has no {missing[0]} beside {next(p for k, p in files.items() if k[0] == part)}."
                )
            continue
        blocks[part], numbers[part] = _idx_block(source, files[part, "images"]), _idx_labels(source, files[part, "labels"])
        if blocks[part].n_images != len(numbers[part]):
            counts = f"{blocks[part].n_images:,} images and {len(numbers[part]):,} labels"
            raise DatasetError(f"{files[part, 'images']} in {source.root} and its labels do not match: {counts}.")
    return _listing(source.root, blocks, {name: (name, numbers[name]) for name in blocks}, ())


def _idx_block(source: Source, path: str) -> Block:
    file, start, n_bytes = source.region(path)
    shape, header = _idx_shape(file, start, n_bytes, source.root / path)
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3) or not all(0 < side <= MOST_SIDE for side in shape[1:]):
        raise DatasetError(f"{source.root / path} holds no images, but an array of {shape}.")
    return Block(file, start + header, math.prod(shape[1:]), shape[1:], shape[0])


def _idx_labels(source: Source, path: str) -> list[int]:
    file, start, n_bytes = source.region(path)
    shape, header = _idx_shape(file, start, n_bytes, source.root / path)
    if len(shape) != 1:
        raise DatasetError(f"{source.root / path} holds no labels, but an array of {shape}.")
    return _bytes(file, start + header, (shape[0], 1), 0)


def _idx_shape(file: Path, start: int, n_bytes: int, path: Path) -> tuple[tuple[int, ...], int]:
    """An IDX array's shape, and how long its header is. Raises DatasetError if the file does not hold just that."""
    with file.open("rb") as opened:
        opened.seek(start)
        head = opened.read(min(n_bytes, 4 + 4 * 255))
    if len(head) < 4 or head[:3] != b"\0\0\x08" or len(head) < 4 + 4 * head[3]:
        raise DatasetError(f"{path} is no IDX file of bytes.")
    shape = struct.unpack_from(f">{head[3]}I", head, 4)
    header = 4 + 4 * head[3]
    size = header + math.prod(shape)
    if size != n_bytes:
        raise DatasetError(f"{path} is damaged or cut off: it has {n_bytes:,} bytes, and its header promises {size:,}.")
    return shape, header


def _cifar(source: Source, parts: dict[str, str], labels: tuple[str, ...], n_label_bytes: int) -> tuple[Source, Listing]:
    """CIFAR's records: the label (the last of them is the finest), then the pixels."""
    stride = n_label_bytes + 3 * 32 * 32
    blocks, numbers = {}, {}
    for path in sorted(parts, key=lambda path: (parts[path] == "test", path)):
        file, start, n_bytes = source.region(path)
        if n_bytes % stride or not n_bytes:
            raise DatasetError(f"{source.root / path} is damaged or cut off: its {n_bytes:,} bytes are not times {stride:,}.")
        name = path.rpartition("/")[2].removesuffix(".bin")
        if name in blocks:
            raise DatasetError(f"{source.root} holds {name}.bin more than once: give the folder of one data set.")
        blocks[name] = Block(file, start + n_label_bytes, stride, CIFAR_SHAPE, n_bytes // stride)
        numbers[name] = parts[path], _bytes(file, start, (n_bytes // stride, stride), n_label_bytes - 1)
    return _listing(source.root, blocks, numbers, labels)


def _listing(
    root: Path, blocks: dict[str, Block], numbers: dict[str, tuple[str, list[int]]], names: tuple[str, ...]
) -> tuple[Source, Listing]:
    """All blocks as one listing. Raises DatasetError if a label has no name."""
    highest = max((max(own, default=0) for _, own in numbers.values()), default=0)
    if names and highest >= len(names):
        raise DatasetError(f"{root} is damaged: it has the label {highest}, and names for {len(names)}.")
    used = sorted({number for _, own in numbers.values() for number in own})
    order = names or tuple(map(str, used))
    shared = {number: (names[number] if names else str(number),) for number in used}
    listing = Listing(order=order)
    for name, block in blocks.items():
        part, own = numbers[name]
        listing.paths.extend(_paths(name, block))
        listing.names.extend(shared[number] for number in own)
        listing.parts.extend(repeat(part if len({part for part, _ in numbers.values()}) > 1 else "", len(own)))
    return Source(root, Images(blocks)), listing


def _paths(name: str, block: Block) -> Iterator[str]:
    return (f"{name}/{number:05d}.bmp" for number in range(block.n_images))


def _bytes(file: Path, start: int, shape: tuple[int, int], column: int) -> list[int]:
    """One column of the bytes from `start` on, taken as rows."""
    if shape[0] == 0:
        return []
    numbers: list[int] = np.memmap(file, np.uint8, "r", start, shape)[:, column].tolist()
    return numbers


def _lines(source: Source, paths: Sequence[str], name: str) -> tuple[str, ...]:
    """The lines of a small text file among `paths`; none if there is no such file."""
    path = next((path for path in paths if path.rpartition("/")[2] == name), None)
    text = source.read(path).decode("utf-8", "replace") if path else ""
    return tuple(line.strip() for line in text.splitlines() if line.strip())

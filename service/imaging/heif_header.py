"""Reads the size of AVIF and HEIC images: both are boxes in the ISO base media format (ISOBMFF). Plain Python: no decoder."""

import struct
from collections.abc import Iterator

from .header_parsers import Header, SegmentBudget, header_error

AVIF_BRANDS = {b"avif", b"avis"}
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1"}

Box = tuple[bytes, int, int]  # type, start and end of the content


def brands(head: bytes) -> set[bytes]:
    """The brands in the first 64 bytes or more of a file; empty if it is not in this format."""
    if head[4:8] != b"ftyp":
        return set()
    size = max(16, min(int.from_bytes(head[:4]), len(head)))
    return {head[8:12], *(head[start : start + 4] for start in range(16, min(size, 1024), 4))}


def is_avif(head: bytes) -> bool:
    """Whether the first 64 bytes are those of an AVIF file."""
    return bool(brands(head) & AVIF_BRANDS)


def is_heif(head: bytes) -> bool:
    """Whether the first 64 bytes are those of a HEIC file."""
    # Many AVIF files also declare mif1.
    return bool(brands(head) & HEIF_BRANDS) and not is_avif(head)


def read_avif(encoded: bytes) -> Header:
    """The size before the rotation that the file asks for: Pillow reports that as EXIF orientation."""
    (width, height), _ = _primary_item(encoded)
    return Header("AVIF", width, height)


def read_heif(encoded: bytes) -> Header:
    """The size after cropping and rotation, which libheif applies."""
    (width, height), transforms = _primary_item(encoded)
    for kind, start in transforms:
        if kind == b"clap":
            width_above, width_below, height_above, height_below = struct.unpack_from(">4I", encoded, start)
            if not (width_below and height_below):
                raise header_error("damaged or truncated")
            width, height = min(width, round(width_above / width_below)), min(height, round(height_above / height_below))
        elif encoded[start] & 1:  # a quarter turn
            width, height = height, width
    return Header("HEIF", width, height)


def _primary_item(encoded: bytes) -> tuple[tuple[int, int], list[tuple[bytes, int]]]:
    """The size of the main image, and its cropping and rotation: (type, start of the property), in order."""
    boxes = _Boxes(encoded)
    meta = boxes.find(0, len(encoded), b"meta")
    start, end = meta[1] + 4, meta[2]
    item = boxes.find(start, end, b"pitm")
    item_id = int.from_bytes(encoded[item[1] + 4 : item[1] + (6 if encoded[item[1]] == 0 else 8)])
    _, start, end = boxes.find(start, end, b"iprp")
    container = boxes.find(start, end, b"ipco")
    properties = list(boxes.within(container[1], container[2]))
    size, transforms = None, []
    for index in boxes.property_indices(start, end, item_id):
        if not 0 < index <= len(properties):
            continue
        kind, position, _ = properties[index - 1]
        if kind == b"ispe" and size is None:
            size = struct.unpack_from(">II", encoded, position + 4)
        elif kind in (b"irot", b"clap"):
            transforms.append((kind, position))
    if size is None:
        raise header_error("missing the image size")
    return (size[0], size[1]), transforms


class _Boxes:
    """The boxes of one file, of which only so many are read as one budget allows."""

    def __init__(self, encoded: bytes) -> None:
        self._encoded, self._budget = encoded, SegmentBudget()

    def property_indices(self, start: int, end: int, item_id: int) -> list[int]:
        """The numbers, from 1, of one item's properties."""
        for kind, box_start, box_end in self.within(start, end):
            if kind == b"ipma":
                for entry_id, indices in self._associations(box_start, box_end):
                    if entry_id == item_id:
                        return [int.from_bytes(index) & (0x7FFF if len(index) == 2 else 0x7F) for index in indices]
        return []

    def _associations(self, start: int, end: int) -> Iterator[tuple[int, list[bytes]]]:
        """Each item of a list of properties, with its properties' numbers as they are stored."""
        encoded = self._encoded
        n_id_bytes, n_index_bytes = 4 if encoded[start] else 2, 2 if encoded[start + 3] & 1 else 1
        (n_entries,) = struct.unpack_from(">I", encoded, start + 4)
        position = start + 8
        for _ in range(n_entries):
            entry_id = int.from_bytes(encoded[position : position + n_id_bytes])
            n_indices, position = encoded[position + n_id_bytes], position + n_id_bytes + 1
            next_position = position + n_indices * n_index_bytes
            self._budget.take(1 + n_indices)
            if next_position > end:
                raise header_error("damaged or truncated")
            yield entry_id, [encoded[place : place + n_index_bytes] for place in range(position, next_position, n_index_bytes)]
            position = next_position

    def find(self, start: int, end: int, kind: bytes) -> Box:
        """The first box of a type. Raises ImageError if there is none."""
        for box in self.within(start, end):
            if box[0] == kind:
                return box
        raise header_error("missing the image size")

    def within(self, start: int, end: int) -> Iterator[Box]:
        """The boxes from `start` to `end`. Raises ImageError if one is damaged."""
        while start + 8 <= end:
            self._budget.take()
            size, kind = struct.unpack_from(">I4s", self._encoded, start)
            n_header = 8
            if size == 1:
                (size,) = struct.unpack_from(">Q", self._encoded, start + 8)
                n_header = 16
            elif size == 0:  # to the end of the file
                size = end - start
            if size < n_header or start + size > end:
                raise header_error("damaged or truncated")
            yield kind, start + n_header, start + size
            start += size

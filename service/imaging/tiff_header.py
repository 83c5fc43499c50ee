"""Reads the size and layout of a TIFF's first page from its directory. Plain Python: no Pillow, no libtiff.

libtiff knows dozens of rare compressions and layouts, in which most of its vulnerabilities were. Only the ordinary ones pass
here, and only with sizes that cannot make Pillow or libtiff allocate or loop much more than the image needs.
"""

import struct
from collections.abc import Iterator

from ..errors import ImageError
from .header_parsers import Header, header_error

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
MAX_ENTRIES = 1_000  # of a directory; ordinary files have 15 to 60
MAX_STRIPS = 100_000  # or tiles
MAX_TILE_SIDE = 4_096  # unless the image itself is larger
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # type -> struct format

_SUBFILE_TYPE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _STRIP_SIZES, _PLANAR = 273, 274, 277, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_SIZES, _SAMPLE_FORMAT, _DNG_VERSION = 322, 323, 324, 325, 339, 50706
_COLOR_MAP = 320
_LONG_LISTS = {_STRIP_OFFSETS, _STRIP_SIZES, _TILE_OFFSETS, _TILE_SIZES, _COLOR_MAP}
_READ_TAGS = {
    *(_SUBFILE_TYPE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _PLANAR),
    *(_TILE_WIDTH, _TILE_HEIGHT, _SAMPLE_FORMAT, _DNG_VERSION),
}
_COMPRESSIONS = {1, 2, 3, 4, 5, 7, 8, 32773, 32946, 50000}  # none, fax, LZW, JPEG, deflate, PackBits, deflate again, Zstandard
_WHITE_IS_ZERO, _PALETTE = 0, 3
_PHOTOMETRICS = {_WHITE_IS_ZERO, 1, 2, _PALETTE, 5, 6}  # gray, gray, RGB, palette, CMYK, YCbCr
_RAW_PHOTOMETRICS = {32803, 34892}  # color filter array, linear raw
_MAX_CHANNELS = 6  # four, and what a program added

Tags = dict[int, tuple[int, ...]]


def read_tiff(encoded: bytes) -> Header:
    """The header of the first page. The size is that of the upright image, as Pillow reports it."""
    order, is_big = "<" if encoded.startswith(b"II") else ">", encoded[2:4] in (b"+\0", b"\0+")
    (offset,) = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", encoded, 8 if is_big else 4)
    if order == ">" and is_big:
        raise unsupported_layout("big-endian BigTIFF layout")  # Pillow does not recognize it
    tags, next_offset = ({}, 0) if encoded[8:10] == b"CR" else _read_directory(encoded, order, is_big, offset)
    if not tags or _is_raw(tags):
        raise ImageError("unsupported_format", "A camera raw file is not supported: convert to JPEG.")
    width, height = _single(tags, _WIDTH), _single(tags, _HEIGHT)
    if not tags.keys() & {_STRIP_OFFSETS, _TILE_OFFSETS}:
        raise header_error("damaged: it has no pixels")
    _check_layout(tags)
    _check_tiles(tags, width, height)
    if tags.get(_ORIENTATION, (1,))[0] in (5, 6, 7, 8):
        width, height = height, width
    bits = tags.get(_BITS, (1,))[0]
    inverted = bits > 8 and tags.get(_PHOTOMETRIC, (_WHITE_IS_ZERO,))[0] == _WHITE_IS_ZERO
    return Header("TIFF", width, height, bits=max(8, bits), inverted=inverted, more_pages=next_offset != 0)


def _read_directory(encoded: bytes, order: str, is_big: bool, offset: int) -> tuple[Tags, int]:
    """The tags of `_READ_TAGS` in a directory, the lengths of `_LONG_LISTS`, and the offset of the next directory."""
    entry, inline, count_format = ("HHQ", 8, "Q") if is_big else ("HHI", 4, "H")
    entry_size = struct.calcsize(f"<{entry}") + inline
    if offset >= len(encoded):
        raise header_error("damaged or truncated")
    (n_entries,) = struct.unpack_from(f"{order}{count_format}", encoded, offset)
    if not 0 < n_entries <= MAX_ENTRIES:
        raise header_error("damaged: it has no tags or too many")
    start = offset + struct.calcsize(f"<{count_format}")
    tags: Tags = {}
    n_value_bytes = 0
    for position in range(start, start + n_entries * entry_size, entry_size):
        tag, value_type, count = struct.unpack_from(f"{order}{entry}", encoded, position)
        n_bytes = count * _TYPE_SIZES.get(value_type, 0)
        n_value_bytes += n_bytes
        if tag in tags or n_value_bytes > 2 * len(encoded):  # Pillow copies the bytes of every tag
            raise header_error("damaged: its tags are repeated or too long")
        if tag in _LONG_LISTS:
            tags[tag] = (count,)
        elif tag in _READ_TAGS:
            tags[tag] = tuple(_values(encoded, order, is_big, position + entry_size - inline, value_type, count))
    (next_offset,) = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", encoded, start + n_entries * entry_size)
    return tags, next_offset


def _values(encoded: bytes, order: str, is_big: bool, position: int, value_type: int, count: int) -> Iterator[int]:
    """The integers of one tag, of which `position` holds the value itself or, if it is too long, its offset."""
    if value_type not in _INTEGERS or not 0 < count <= 16:
        raise header_error("damaged: a tag has an unexpected type or length")
    if count * _TYPE_SIZES[value_type] > (8 if is_big else 4):
        (position,) = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", encoded, position)
        if position >= len(encoded):
            raise header_error("damaged or truncated")
    yield from struct.unpack_from(f"{order}{count}{_INTEGERS[value_type]}", encoded, position)


def _single(tags: Tags, tag: int) -> int:
    if len(values := tags.get(tag, ())) != 1:
        raise header_error("missing the image size")
    return values[0]


def _is_raw(tags: Tags) -> bool:
    """Whether a file is a camera raw file: its first page is a thumbnail, or the readings of a sensor."""
    return bool(
        tags.get(_SUBFILE_TYPE, (0,))[0] & 1 or _DNG_VERSION in tags or set(tags.get(_PHOTOMETRIC, ())) & _RAW_PHOTOMETRICS
    )


def _check_layout(tags: Tags) -> None:
    """Raises ImageError for pixels that Pillow does not read, or that are not worth the risk."""
    bits, sample_format = set(tags.get(_BITS, (1,))), set(tags.get(_SAMPLE_FORMAT, (1,)))
    compression, photometric = tags.get(_COMPRESSION, (1,))[0], tags.get(_PHOTOMETRIC, (_WHITE_IS_ZERO,))[0]
    n_channels, is_planar = tags.get(_SAMPLES, (1,))[0], tags.get(_PLANAR, (1,))[0] == 2
    reason = ""
    if sample_format != {1}:
        reason = "signed or floating-point values"
    elif len(bits) != 1 or not bits <= {1, 2, 4, 8, 12, 16}:
        reason = f"{max(bits)}-bit channels"
    elif n_channels > _MAX_CHANNELS:
        reason = f"{n_channels} channels"
    elif photometric not in _PHOTOMETRICS:
        reason = f"the color space {photometric}"
    elif is_planar and n_channels > 1 and max(bits) > 8:
        reason = "16-bit channels in separate planes"  # Pillow would read wrong values
    elif compression not in _COMPRESSIONS:
        reason = f"the compression {compression}"
    if reason:
        raise unsupported_layout(reason)
    if photometric == _PALETTE and tags.get(_COLOR_MAP) != (3 * 2 ** max(bits),):
        raise header_error("missing its palette")


def unsupported_layout(reason: str) -> ImageError:
    """The error for pixels in a layout that is not read."""
    return ImageError(
        "unsupported_mode",
        f"A TIFF with {reason} is not supported: save with 8 or 16 bits, in gray or RGB, and LZW or deflate.",
    )


def _check_tiles(tags: Tags, width: int, height: int) -> None:
    """Raises ImageError for absurd numbers of strips and tiles, and for tiles that are much larger than the image."""
    if max(tags.get(tag, (0,))[0] for tag in _LONG_LISTS) > MAX_STRIPS:
        raise ImageError("corrupt_image", f"The image has more than {MAX_STRIPS:,} strips or tiles.")
    for tag, side in ((_TILE_WIDTH, width), (_TILE_HEIGHT, height)):
        if tags.get(tag, (1,))[0] > max(MAX_TILE_SIDE, side + 15):  # sides are multiples of 16
            raise header_error("damaged: its tiles are much larger than the image")

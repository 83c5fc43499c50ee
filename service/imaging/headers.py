"""What a file claims to be, read from its first bytes before any decoder sees them. Plain Python: no Pillow, no numpy.

Sizes are found by Pillow's own rules, oddities included, because it is Pillow that allocates what they ask for.
"""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import ImageError
from .unsupported import told

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# Segments or blocks that a header may be in. Photos have dozens; stepping over millions would hold the server up.
MAX_PIECES = 30_000


@dataclass(frozen=True)
class ImageLimits:
    """What an image may claim to be. The same in training and service, so the network never meets what is refused."""

    max_pixels: int = 64_000_000
    max_side: int = 16_384
    max_aspect: int = 50
    max_scans: int = 100


@dataclass(frozen=True)
class Header:
    """What a file claims to be.

    Attributes:
        format: one of `FORMATS`.
        width, height: in pixels, before any turning; may be 0 or absurd.
        scans: how often a decoder goes over the whole picture; 1 but for JPEGs that come in several passes.
    """

    format: str
    width: int
    height: int
    scans: int = 1


def sniff(encoded: bytes) -> Header:
    """The header's claims. Raises ImageError if there is no header of an accepted format."""
    if not encoded:
        raise ImageError("empty_image", "The image has no bytes.")
    found = kind(encoded)
    if found is None:
        raise ImageError(
            "unsupported_format", told(encoded) or f"This is not an image of an accepted kind ({', '.join(FORMATS)})."
        )
    try:
        return _READERS[found](encoded)
    except (struct.error, IndexError):  # both mean: the file ends here
        raise _damaged("damaged or cut off") from None


def check(header: Header, limits: ImageLimits) -> None:
    """Raises ImageError if a header claims what no image may be."""
    width, height = header.width, header.height
    size = f"The image is {width}x{height} pixels"
    if width < 1 or height < 1:
        raise ImageError("corrupt_image", f"The image claims to be {width}x{height} pixels.")
    if width * height > limits.max_pixels:
        raise ImageError("image_too_large", f"{size}; the most is {limits.max_pixels:,} in all.", "max_pixels")
    if max(width, height) > limits.max_aspect * min(width, height):
        detail = f"{size}; the longer side may be {limits.max_aspect} times the shorter."
        raise ImageError("bad_aspect", detail, "max_aspect")
    if max(width, height) > limits.max_side:
        raise ImageError("image_too_large", f"{size}; the longest side allowed is {limits.max_side:,}.", "max_side")
    if header.scans > limits.max_scans:
        detail = f"The image is made of {header.scans:,} passes; the most is {limits.max_scans:,}. Save it as a baseline JPEG."
        raise ImageError("too_many_scans", detail, "max_scans")


def kind(head: bytes) -> str | None:
    """The accepted format that the first 18 bytes are of, if any."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    return "BMP" if head.startswith(b"BM") and _is_bmp(head) else None


def _is_bmp(head: bytes) -> bool:
    # Two letters are little to go by: many a text begins with them.
    return not any(head[6:10]) or int.from_bytes(head[14:18], "little") in _BMP_HEADERS


def _damaged(how: str) -> ImageError:
    return ImageError("corrupt_image", f"The image's header is {how}.")


_SOS, _EOI = 0xDA, 0xD9
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xDE}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_BARE = {0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)}  # markers that no length follows
_BEFORE_PIXELS = re.compile(rb"\xff[\x01-\xfe]")
_AMONG_PIXELS = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")  # neither stuffing nor a restart


def _jpeg(encoded: bytes) -> Header:
    frame, position = None, 2
    for _ in range(MAX_PIECES):
        found = _BEFORE_PIXELS.search(encoded, position)
        if found is None or (marker := found[0][1]) < 0xC0:
            raise _damaged("damaged or cut off")
        position = found.end()
        if marker in _BARE:
            continue
        (length,) = struct.unpack_from(">H", encoded, position)
        if marker == _SOS:
            break
        if marker in _FRAMES:
            height, width, n_components = struct.unpack_from(">HHB", encoded, position + 3)
            frame = (width, height, n_components, marker in _PROGRESSIVE)
        position += max(2, length)
    else:
        raise _damaged(f"in more than {MAX_PIECES:,} pieces")
    if frame is None:
        raise _damaged("without a size")
    width, height, n_components, progressive = frame
    # libjpeg stops after the first scan if that holds every component.
    once = not progressive and encoded[position + 2] >= n_components
    return Header("JPEG", width, height, 1 if once else _scans(encoded, position + length))


def _scans(encoded: bytes, position: int) -> int:
    """How many scans there are, the first of which begins at a position."""
    scans = 1
    for _ in range(MAX_PIECES):
        found = _AMONG_PIXELS.search(encoded, position)
        marker = encoded[found.start() + 1] if found else _EOI
        if found is None or marker == _EOI:
            return scans
        scans += marker == _SOS
        # By its length, so that what lies inside a segment counts for nothing.
        position = found.end() + max(2, int.from_bytes(encoded[found.end() : found.end() + 2]))
    raise _damaged(f"in more than {MAX_PIECES:,} pieces")


def _png(encoded: bytes) -> Header:
    length, name, width, height = struct.unpack_from(">I4sII", encoded, 8)
    if name != b"IHDR" or length < 13:
        raise _damaged("damaged or cut off")
    position = 8
    for _ in range(MAX_PIECES):
        position += 12 + int.from_bytes(encoded[position : position + 4])
        if position >= len(encoded):
            return Header("PNG", width, height)
    raise _damaged(f"in more than {MAX_PIECES:,} pieces")


def _webp(encoded: bytes) -> Header:
    chunk = encoded[12:16]
    if chunk == b"VP8X":
        width, height = struct.unpack("<II", encoded[24:27] + b"\0" + encoded[27:30] + b"\0")
        return Header("WEBP", width + 1, height + 1)
    if chunk == b"VP8L" and encoded[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", encoded, 21)
        return Header("WEBP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if chunk == b"VP8 " and encoded[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", encoded, 26)
        return Header("WEBP", width & 0x3FFF, height & 0x3FFF)
    raise _damaged("damaged or cut off")


_BLOCK = re.compile(rb"[!,;]")
_COMMENT, _APPLICATION = 0xFE, 0xFF


def _gif(encoded: bytes) -> Header:
    """The screen, enlarged by the first frame alone."""
    width, height, flags = struct.unpack_from("<HHB", encoded, 6)
    if not (width and height):  # Pillow would make do with the frame's size
        return Header("GIF", width, height)
    position = 13 + ((3 << ((flags & 7) + 1)) if flags & 0x80 else 0)
    pieces = iter(range(MAX_PIECES))
    for _ in pieces:
        found = _BLOCK.search(encoded, position)
        if found is None or found[0] == b";":
            raise _damaged("not followed by a picture")
        if found[0] == b",":
            left, top, frame_width, frame_height = struct.unpack_from("<HHHH", encoded, found.end())
            return Header("GIF", max(width, left + frame_width), max(height, top + frame_height))
        position = _behind_extension(encoded, found.end(), pieces)
    raise _damaged(f"in more than {MAX_PIECES:,} pieces")


def _behind_extension(encoded: bytes, position: int, pieces: Iterator[int]) -> int:
    """Where an extension ends, as Pillow finds it: but for comments, an empty first block does not end it."""
    label, first = encoded[position], encoded[position + 1]
    content = encoded[position + 2 : position + 2 + first]
    position += 2 + first
    if label == _COMMENT and not first:
        return position
    if label == _APPLICATION and content.startswith(b"NETSCAPE2.0"):
        position += 1 + encoded[position]
    for _ in pieces:
        size = encoded[position]
        position += 1 + size
        if not size:
            break
    return position


_BMP_HEADERS = {12, 40, 52, 56, 64, 108, 124}  # bytes; the first is OS/2's


def _bmp(encoded: bytes) -> Header:
    (length,) = struct.unpack_from("<I", encoded, 14)
    if length not in _BMP_HEADERS:
        raise _damaged("damaged or cut off")
    if length == 12:
        return Header("BMP", *struct.unpack_from("<HH", encoded, 18))
    width, height = struct.unpack_from("<II", encoded, 18)
    # Negative where the topmost row comes first.
    return Header("BMP", width, 2**32 - height if height >= 0xFF000000 else height)


_READERS: dict[str, Callable[[bytes], Header]] = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp, "GIF": _gif, "BMP": _bmp}

"""Reads an image's format and size from its header, before a decoder runs. Plain Python: no Pillow, no numpy.

Sizes follow Pillow's parsing rules, including its quirks, because Pillow allocates memory for the size that it reads.
"""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import ImageError
from .unsupported import rejection_message

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# Segments or blocks in one file. Photos have dozens; parsing millions would block the server.
MAX_SEGMENTS = 30_000


@dataclass(frozen=True)
class ImageLimits:
    """Limits on the size declared in an image header. Training and serving share them, so both accept the same images."""

    max_pixels: int = 64_000_000
    max_side: int = 16_384
    max_aspect: int = 50
    max_scans: int = 100


@dataclass(frozen=True)
class Header:
    """The format and size that a file declares.

    Attributes:
        format: one of `FORMATS`.
        width, height: in pixels, before EXIF orientation; unchecked, so they may be 0 or very large.
        scans: number of scans; more than 1 only for progressive or other multi-scan JPEGs.
    """

    format: str
    width: int
    height: int
    scans: int = 1


def read_header(encoded: bytes) -> Header:
    """Reads the header. Raises ImageError if the file is not in a supported format."""
    if not encoded:
        raise ImageError("empty_image", "The image file is empty.")
    image_format = detect_format(encoded)
    if image_format is None:
        raise ImageError(
            "unsupported_format", rejection_message(encoded) or f"The file is not a supported image ({', '.join(FORMATS)})."
        )
    try:
        return _READERS[image_format](encoded)
    except (struct.error, IndexError):  # the file ends too early
        raise _header_error("damaged or truncated") from None


def check_limits(header: Header, limits: ImageLimits) -> None:
    """Raises ImageError if the header exceeds a limit or declares an empty image."""
    width, height = header.width, header.height
    size = f"The image is {width}x{height} pixels"
    if width < 1 or height < 1:
        raise ImageError("corrupt_image", f"{size}.")
    if width * height > limits.max_pixels:
        raise ImageError("image_too_large", f"{size}; the limit is {limits.max_pixels:,} pixels in total.", "max_pixels")
    if max(width, height) > limits.max_aspect * min(width, height):
        detail = f"{size}; the longer side may be at most {limits.max_aspect} times the shorter side."
        raise ImageError("bad_aspect", detail, "max_aspect")
    if max(width, height) > limits.max_side:
        raise ImageError("image_too_large", f"{size}; the limit for the longer side is {limits.max_side:,}.", "max_side")
    if header.scans > limits.max_scans:
        detail = f"The image has {header.scans:,} scans; the limit is {limits.max_scans:,}. Save it as a baseline JPEG."
        raise ImageError("too_many_scans", detail, "max_scans")


def detect_format(head: bytes) -> str | None:
    """The supported format that the first 18 bytes match, if any."""
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
    # The magic number "BM" is not enough: many text files start with it.
    return not any(head[6:10]) or int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES


def _header_error(problem: str) -> ImageError:
    return ImageError("corrupt_image", f"The image's header is {problem}.")


def _too_many_segments() -> ImageError:
    return ImageError("corrupt_image", f"The image has more than {MAX_SEGMENTS:,} segments.")


_SOS, _EOI = 0xDA, 0xD9  # start of scan, end of image
_SOF_MARKERS = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xDE}
_PROGRESSIVE_SOF_MARKERS = {0xC2, 0xC6, 0xCA, 0xCE}
_STANDALONE_MARKERS = {0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)}  # markers without a length
_HEADER_MARKER = re.compile(rb"\xff[\x01-\xfe]")
_SCAN_DATA_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")  # neither byte stuffing nor a restart marker


def _read_jpeg(encoded: bytes) -> Header:
    frame, position = None, 2
    for _ in range(MAX_SEGMENTS):
        match = _HEADER_MARKER.search(encoded, position)
        if match is None or (marker := match[0][1]) < 0xC0:
            raise _header_error("damaged or truncated")
        position = match.end()
        if marker in _STANDALONE_MARKERS:
            continue
        (length,) = struct.unpack_from(">H", encoded, position)
        if marker == _SOS:
            break
        if marker in _SOF_MARKERS:
            height, width, n_components = struct.unpack_from(">HHB", encoded, position + 3)
            frame = (width, height, n_components, marker in _PROGRESSIVE_SOF_MARKERS)
        position += max(2, length)
    else:
        raise _too_many_segments()
    if frame is None:
        raise _header_error("missing the image size")
    width, height, n_components, progressive = frame
    # libjpeg stops after the first scan if it contains every component.
    single_scan = not progressive and encoded[position + 2] >= n_components
    return Header("JPEG", width, height, 1 if single_scan else _count_scans(encoded, position + length))


def _count_scans(encoded: bytes, position: int) -> int:
    """Counts the scans, starting with the one at `position`."""
    scans = 1
    for _ in range(MAX_SEGMENTS):
        match = _SCAN_DATA_MARKER.search(encoded, position)
        marker = encoded[match.start() + 1] if match else _EOI
        if match is None or marker == _EOI:
            return scans
        scans += marker == _SOS
        # Skip the segment by its length, so that markers inside it are not counted.
        position = match.end() + max(2, int.from_bytes(encoded[match.end() : match.end() + 2]))
    raise _too_many_segments()


def _read_png(encoded: bytes) -> Header:
    length, chunk_type, width, height = struct.unpack_from(">I4sII", encoded, 8)
    if chunk_type != b"IHDR" or length < 13:
        raise _header_error("damaged or truncated")
    position = 8
    for _ in range(MAX_SEGMENTS):
        position += 12 + int.from_bytes(encoded[position : position + 4])
        if position >= len(encoded):
            return Header("PNG", width, height)
    raise _too_many_segments()


def _read_webp(encoded: bytes) -> Header:
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
    raise _header_error("damaged or truncated")


_GIF_BLOCK = re.compile(rb"[!,;]")
_GIF_COMMENT, _GIF_APPLICATION = 0xFE, 0xFF


def _read_gif(encoded: bytes) -> Header:
    """The size is that of the logical screen, enlarged to contain the first frame."""
    width, height, flags = struct.unpack_from("<HHB", encoded, 6)
    if not (width and height):  # Pillow would use the frame size instead
        return Header("GIF", width, height)
    position = 13 + ((3 << ((flags & 7) + 1)) if flags & 0x80 else 0)
    remaining_blocks = iter(range(MAX_SEGMENTS))
    for _ in remaining_blocks:
        match = _GIF_BLOCK.search(encoded, position)
        if match is None or match[0] == b";":
            raise _header_error("not followed by an image")
        if match[0] == b",":
            left, top, frame_width, frame_height = struct.unpack_from("<HHHH", encoded, match.end())
            return Header("GIF", max(width, left + frame_width), max(height, top + frame_height))
        position = _skip_gif_extension(encoded, match.end(), remaining_blocks)
    raise _too_many_segments()


def _skip_gif_extension(encoded: bytes, position: int, remaining_blocks: Iterator[int]) -> int:
    """The end of an extension by Pillow's rules: an empty first block ends it only if it is a comment."""
    label, first_size = encoded[position], encoded[position + 1]
    content = encoded[position + 2 : position + 2 + first_size]
    position += 2 + first_size
    if label == _GIF_COMMENT and not first_size:
        return position
    if label == _GIF_APPLICATION and content.startswith(b"NETSCAPE2.0"):
        position += 1 + encoded[position]
    for _ in remaining_blocks:
        size = encoded[position]
        position += 1 + size
        if not size:
            break
    return position


_BMP_HEADER_SIZES = {12, 40, 52, 56, 64, 108, 124}  # bytes; 12 is the OS/2 header


def _read_bmp(encoded: bytes) -> Header:
    (header_size,) = struct.unpack_from("<I", encoded, 14)
    if header_size not in _BMP_HEADER_SIZES:
        raise _header_error("damaged or truncated")
    if header_size == 12:
        return Header("BMP", *struct.unpack_from("<HH", encoded, 18))
    width, height = struct.unpack_from("<II", encoded, 18)
    # The height is negative if the top row comes first.
    return Header("BMP", width, 2**32 - height if height >= 0xFF000000 else height)


_READERS: dict[str, Callable[[bytes], Header]] = {
    "JPEG": _read_jpeg,
    "PNG": _read_png,
    "WEBP": _read_webp,
    "GIF": _read_gif,
    "BMP": _read_bmp,
}

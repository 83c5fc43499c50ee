"""Reads format, size and number of scans from the header of one file format each. Plain Python: no Pillow, no numpy.

TIFF, AVIF and HEIC have modules of their own.

Sizes follow Pillow's parsing rules, including its quirks, because Pillow allocates memory for the size that it reads.
Every parser takes a whole file that starts with its format's magic number. It raises ImageError, struct.error or
IndexError for a damaged or truncated header.
"""

import re
import struct
from dataclasses import dataclass

from ..errors import ImageError

# The server parses headers in its event loop, so each must take about 10 ms at most, whatever a file of 10 MB holds.
MAX_SEGMENTS = 10_000  # segments, blocks or boxes in one file; photos have dozens
MAX_CHUNKS = 30_000  # in a PNG: most programs write pixels in chunks of 8 KB
MAX_JUNK = 2**16  # bytes between segments
MAX_MARKERS = 300_000  # 0xFF bytes in a JPEG of several scans; of the bytes of pixels, one in 250 is such a byte


@dataclass(frozen=True)
class Header:
    """The format and size that a file declares.

    Attributes:
        format: Pillow's name, such as "JPEG".
        width, height: in pixels; unchecked, so they may be 0 or very large. Before EXIF orientation, except for the formats
            whose decoder applies it (`ImageFormat.is_upright`).
        scans: number of scans; more than 1 only for progressive or other multi-scan JPEGs.
        bits: per channel, if there are more than 8.
        interlaced: whether a PNG is stored in seven passes.
        inverted: whether 0 is white and Pillow does not know.
        more_pages: whether more pages follow the first, which is the one that is read.
    """

    format: str
    width: int
    height: int
    scans: int = 1
    bits: int = 8
    interlaced: bool = False
    inverted: bool = False
    more_pages: bool = False


def header_error(problem: str) -> ImageError:
    return ImageError("corrupt_image", f"The image's header is {problem}.")


class SegmentBudget:
    """How many more segments of one file may be read, and how many more bytes between them may be skipped."""

    def __init__(self) -> None:
        self._n_segments, self._n_junk_bytes = MAX_SEGMENTS, MAX_JUNK

    def take(self, n_segments: int = 1) -> None:
        """Counts segments. Raises ImageError if there are too many."""
        self._n_segments -= n_segments
        if self._n_segments < 0:
            raise too_many("segments", MAX_SEGMENTS)

    def search(self, pattern: re.Pattern[bytes], encoded: bytes, position: int) -> re.Match[bytes] | None:
        """The next match, and counts the bytes before it. None if there is none, or if it is too far away."""
        match = pattern.search(encoded, position, position + self._n_junk_bytes + 2)
        if match is None or match.start() - position > self._n_junk_bytes:
            return None
        self._n_junk_bytes -= match.start() - position
        return match


def too_many(parts: str, limit: int) -> ImageError:
    return ImageError("corrupt_image", f"The image has more than {limit:,} {parts}.")


_SOS, _EOI = 0xDA, 0xD9  # start of scan, end of image
_SOF_MARKERS = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xDE}
_PROGRESSIVE_SOF_MARKERS = {0xC2, 0xC6, 0xCA, 0xCE}
_STANDALONE_MARKERS = {0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)}  # markers without a length
_HEADER_MARKER = re.compile(rb"\xff[\x01-\xfe]")
_SCAN_DATA_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")  # neither byte stuffing nor a restart marker


def read_jpeg(encoded: bytes) -> Header:
    frame, position, budget = None, 2, SegmentBudget()
    while True:
        budget.take()
        match = budget.search(_HEADER_MARKER, encoded, position)
        if match is None or (marker := match[0][1]) < 0xC0:
            raise header_error("damaged or truncated")
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
    if frame is None:
        raise header_error("missing the image size")
    width, height, n_components, progressive = frame
    # libjpeg stops after the first scan if it contains every component.
    single_scan = not progressive and encoded[position + 2] >= n_components
    return Header("JPEG", width, height, 1 if single_scan else _count_scans(encoded, position + length, budget))


def _count_scans(encoded: bytes, position: int, budget: SegmentBudget) -> int:
    """Counts the scans, starting with the one at `position`; no further than `MAX_SEGMENTS`, which no limit allows."""
    if encoded.count(b"\xff", position) > MAX_MARKERS:  # each costs a step of the search below
        raise too_many("markers", MAX_MARKERS)
    scans = 1
    while scans < MAX_SEGMENTS:
        match = _SCAN_DATA_MARKER.search(encoded, position)
        marker = encoded[match.start() + 1] if match else _EOI
        if match is None or marker == _EOI:
            break
        if marker == _SOS:
            scans += 1
        else:
            budget.take()
        # Skip the segment by its length, so that markers inside it are not counted.
        position = match.end() + max(2, int.from_bytes(encoded[match.end() : match.end() + 2]))
    return scans


def read_png(encoded: bytes) -> Header:
    length, chunk_type, width, height = struct.unpack_from(">I4sII", encoded, 8)
    if chunk_type != b"IHDR" or length < 13:
        raise header_error("damaged or truncated")
    position = 8
    for _ in range(MAX_CHUNKS):
        position += 12 + int.from_bytes(encoded[position : position + 4])
        if position >= len(encoded):
            return Header("PNG", width, height, bits=max(8, encoded[24]), interlaced=encoded[28] != 0)
    raise too_many("chunks", MAX_CHUNKS)


def read_webp(encoded: bytes) -> Header:
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
    raise header_error("damaged or truncated")


_GIF_BLOCK = re.compile(rb"[!,;]")
_GIF_COMMENT, _GIF_APPLICATION = 0xFE, 0xFF


def read_gif(encoded: bytes) -> Header:
    """The size is that of the logical screen, enlarged to contain the first frame."""
    width, height, flags = struct.unpack_from("<HHB", encoded, 6)
    if not (width and height):  # Pillow would use the frame size instead
        return Header("GIF", width, height)
    position = 13 + ((3 << ((flags & 7) + 1)) if flags & 0x80 else 0)
    budget = SegmentBudget()
    while True:
        budget.take()
        match = budget.search(_GIF_BLOCK, encoded, position)
        if match is None or match[0] == b";":
            raise header_error("not followed by an image")
        if match[0] == b",":
            left, top, frame_width, frame_height = struct.unpack_from("<HHHH", encoded, match.end())
            return Header("GIF", max(width, left + frame_width), max(height, top + frame_height))
        position = _skip_gif_extension(encoded, match.end(), budget)


def _skip_gif_extension(encoded: bytes, position: int, budget: SegmentBudget) -> int:
    """The end of an extension by Pillow's rules: an empty first block ends it only if it is a comment."""
    label, first_size = encoded[position], encoded[position + 1]
    content = encoded[position + 2 : position + 2 + first_size]
    position += 2 + first_size
    if label == _GIF_COMMENT and not first_size:
        return position
    if label == _GIF_APPLICATION and content.startswith(b"NETSCAPE2.0"):
        position += 1 + encoded[position]
    while size := encoded[position]:
        budget.take()
        position += 1 + size
    return position + 1


_BMP_HEADER_SIZES = {12, 40, 52, 56, 64, 108, 124}  # bytes; 12 is the OS/2 header


def read_bmp(encoded: bytes) -> Header:
    (header_size,) = struct.unpack_from("<I", encoded, 14)
    if header_size not in _BMP_HEADER_SIZES:
        raise header_error("damaged or truncated")
    if header_size == 12:
        return Header("BMP", *struct.unpack_from("<HH", encoded, 18))
    width, height = struct.unpack_from("<II", encoded, 18)
    # The height is negative if the top row comes first.
    return Header("BMP", width, 2**32 - height if height >= 0xFF000000 else height)


def is_bmp(head: bytes) -> bool:
    """Whether the first 18 bytes are those of a BMP file."""
    # The magic number "BM" is not enough: many text files start with it.
    return head.startswith(b"BM") and (not any(head[6:10]) or int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES)

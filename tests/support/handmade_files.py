"""Builds image files byte by byte, including invalid ones that no normal program writes."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encode_image(image: Image.Image | np.ndarray, format: str = "PNG", **settings: object) -> bytes:
    file = io.BytesIO()
    pil_image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    pil_image.save(file, format, **settings)
    return file.getvalue()


def chunk(chunk_type: bytes, content: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(content)) + chunk_type + content + struct.pack(">I", zlib.crc32(chunk_type + content))


def ihdr(width: int, height: int, bits: int = 8, color_type: int = 0, interlaced: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, interlaced))


def png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def compressed_zeros(n_bytes: int) -> bytes:
    """`n_bytes` zeros, zlib-compressed in chunks so that they are never all in memory."""
    compressor, chunk_bytes = zlib.compressobj(1), bytes(2**20)
    compressed = [compressor.compress(chunk_bytes[: min(2**20, n_bytes - start)]) for start in range(0, n_bytes, 2**20)]
    return b"".join([*compressed, compressor.flush()])


def gray_png(width: int, height: int, *extra: bytes, data: bytes | None = None) -> bytes:
    """A black grayscale PNG, with optional chunks between header and pixels."""
    pixels = compressed_zeros((width + 1) * height) if data is None else data
    return png(ihdr(width, height), *extra, chunk(b"IDAT", pixels))


def segment(marker: int, content: bytes) -> bytes:
    """One segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


SOI, EOI = b"\xff\xd8", b"\xff\xd9"
_QUANTIZATION_TABLE = segment(0xDB, b"\0" + b"\1" * 64)
# One code per table, a single 0 bit: "no difference" in the DC table, "end of band" in the AC table.
_HUFFMAN_TABLES = segment(0xC4, b"\0\1" + bytes(15) + b"\0" + b"\x10\1" + bytes(15) + b"\0")


def frame(width: int, height: int, marker: int = 0xC0, n_components: int = 1, bits: int = 8) -> bytes:
    components = b"".join(bytes([number + 1, 0x11, 0]) for number in range(n_components))
    return segment(marker, struct.pack(">BHHB", bits, height, width, n_components) + components)


def scan(component: int = 1, first: int = 0, last: int = 63, data: bytes = b"") -> bytes:
    return segment(0xDA, bytes([1, component, 0, first, last, 0])) + data


def jpeg(*parts: bytes) -> bytes:
    return SOI + _QUANTIZATION_TABLE + _HUFFMAN_TABLES + b"".join(parts) + EOI


def progressive(width: int, height: int, n_scans: int, between: bytes = b"") -> bytes:
    """A progressive JPEG with many scans of the whole image; a scan without data takes only 10 bytes.

    Args:
        between: bytes inserted after the first scan.
    """
    # The first scan is the DC scan, which all others need; then the AC scan, repeated.
    blocks = ((width + 7) // 8) * ((height + 7) // 8)
    first = scan(last=0, data=bytes(blocks // 8 + 1)) + between
    return jpeg(frame(width, height, 0xC2), first, scan(first=1) * (n_scans - 1))


def gif(width: int, height: int, *blocks: bytes) -> bytes:
    """A GIF with a palette of two colors."""
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff" + b"".join(blocks) + b";"


def gif_frame(width: int, height: int, left: int = 0, top: int = 0, data: bytes = b"\2\2\x44\1\0") -> bytes:
    """One GIF frame, by default with the data of a single pixel."""
    return b"," + struct.pack("<HHHHB", left, top, width, height, 0) + data


def webp(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2) for name, content in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def vp8l(width: int, height: int) -> bytes:
    """The header of a lossless WebP image, with almost no data."""
    return b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + bytes(9)


def vp8x(width: int, height: int, flags: int = 0) -> bytes:
    return bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


def bmp(width: int, height: int, bits: int = 24, compression: int = 0, data: bytes = b"", n_colors: int = 0) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 0, 0, n_colors, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54) + header + data


def os2_bmp(width: int, height: int, data: bytes = b"") -> bytes:
    return b"BM" + struct.pack("<IHHI", 26 + len(data), 0, 0, 26) + struct.pack("<IHHHH", 12, width, height, 1, 24) + data


def tiff(entries: list[tuple[int, int, int, int]], following: int = 0, data: bytes = b"") -> bytes:
    """A little-endian TIFF: one directory of (tag, type, count, value), the offset of the next directory, and other bytes."""
    fields = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + fields + struct.pack("<I", following) + data


def gray_tiff(
    width: int = 40,
    height: int = 40,
    *extra: tuple[int, int, int, int],
    bits: int = 8,
    compression: int = 1,
    data: bytes | None = None,
    following: int = 0,
) -> bytes:
    """A gray TIFF of one strip, black unless it gets other data, with more tags."""
    content = bytes(width * height * bits // 8) if data is None else data
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, compression), (262, 3, 1, 1)]
    entries += [(277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, len(content)), *extra]
    offset = 8 + 2 + 12 * (len(entries) + 1) + 4
    return tiff(sorted([*entries, (273, 4, 1, offset)]), following, content)


def exif(*entries: tuple[int, int, int, int], following: int = 0) -> bytes:
    return b"Exif\0\0" + tiff(list(entries), following)


def box(kind: bytes, *content: bytes) -> bytes:
    """A box of an ISO base media file."""
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + kind + body


def ispe(width: int, height: int) -> bytes:
    """The property that has the size of an image."""
    return box(b"ispe", bytes(4), struct.pack(">II", width, height))


def avif(*properties: bytes, item: bytes = b"\0\1", n_entries: int = 1) -> bytes:
    """An AVIF file without pixels: its main image is number 1 and has all properties."""
    indices = bytes([len(properties), *range(1, len(properties) + 1)])
    ipma = box(b"ipma", bytes(4), struct.pack(">I", n_entries), b"\0\1", indices)
    iprp = box(b"iprp", box(b"ipco", *properties), ipma)
    return box(b"ftyp", b"avif", bytes(4), b"avifmif1") + box(b"meta", bytes(4), box(b"pitm", bytes(4), item), iprp)


def isobmff(brand: bytes, *others: bytes) -> bytes:
    """The start of an ISO base media file, such as HEIC, AVIF or MP4."""
    return struct.pack(">I", 16 + 4 * len(others)) + b"ftyp" + brand + bytes(4) + b"".join(others) + bytes(32)

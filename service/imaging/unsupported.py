"""Recognizes unsupported file types by their magic numbers, to name the type and the remedy. Never parses them."""

import re

SUFFIXES = frozenset(  # of images
    {".jxl", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico"}
)

_TO_JPEG, _TO_PNG_OR_JPEG = "convert to JPEG", "export it as PNG or JPEG"

# Offset, magic number, name of the type, and remedy.
_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000", _TO_JPEG),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000", _TO_JPEG),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL", _TO_JPEG),
    (0, b"\xff\x0a", "JPEG XL", _TO_JPEG),
    (0, b"II\xbc", "JPEG XR", _TO_JPEG),
    (0, b"FUJIFILMCCD-RAW", "A camera raw file", _TO_JPEG),
    (0, b"v/1\x01", "OpenEXR", _TO_JPEG),
    (0, b"#?RADIANCE", "Radiance HDR", _TO_JPEG),
    (0, b"SIMPLE  =", "FITS", _TO_PNG_OR_JPEG),
    (0, b"8BPS", "PSD", _TO_PNG_OR_JPEG),
    (0, b"%PDF", "PDF", _TO_PNG_OR_JPEG),
    (0, b"%!PS", "EPS", _TO_PNG_OR_JPEG),
    (0, b"\xc5\xd0\xd3\xc6", "EPS", _TO_PNG_OR_JPEG),
    (0, b"\xd7\xcd\xc6\x9a", "WMF", _TO_PNG_OR_JPEG),
    (40, b" EMF", "EMF", _TO_PNG_OR_JPEG),
    (0, b"\0\0\1\0", "ICO", _TO_PNG_OR_JPEG),
    (0, b"\0\0\2\0", "CUR", _TO_PNG_OR_JPEG),
    (0, b"icns", "ICNS", _TO_PNG_OR_JPEG),
    (0, b"DDS ", "DDS", _TO_PNG_OR_JPEG),
    (0, b"qoif", "QOI", _TO_PNG_OR_JPEG),
    (0, b"gimp xcf", "XCF", _TO_PNG_OR_JPEG),
    (0, b"\x8aMNG\r\n\x1a\n", "MNG", _TO_PNG_OR_JPEG),
    (0, b"\x1aE\xdf\xa3", "A video", "send one of its frames as JPEG"),
    (8, b"AVI ", "A video", "send one of its frames as JPEG"),
    (0, b"PK\x03\x04", "A ZIP archive", "send the image inside it"),
    (0, b"\x1f\x8b", "A gzip file", "send the image inside it"),
    (0, b"7z\xbc\xaf\x27\x1c", "A 7z archive", "send the image inside it"),
    (0, b"Rar!\x1a\x07", "A RAR archive", "send the image inside it"),
)
_CAMERA_RAW, _CANON_RAW = ("A camera raw file", _TO_JPEG), b"ftypcrx "
_MARKUP = (
    (re.compile(rb"<svg[\s>]", re.IGNORECASE), "SVG", _TO_PNG_OR_JPEG),
    (re.compile(rb"<(?:!doctype html|html|head|body|script)\b", re.IGNORECASE), "A web page", "send the image itself"),
)
_NETPBM = re.compile(rb"P[1-7FfH][\s]")
_XBM = re.compile(rb"\s*(?:/\*.{0,200}?\*/\s*)?#define\s+\w+_width\b", re.DOTALL)


def rejection_message(encoded: bytes) -> str | None:
    """An error message for a file of a known but unsupported type; None if the type is unknown."""
    match = _identify(encoded[:1024])
    return f"{match[0]} is not supported: {match[1]}." if match else None


def is_photo(head: bytes) -> bool:
    """Whether the first 64 bytes or more are those of an unsupported photo format, whatever the file's name.

    Magic numbers of fewer than four bytes do not count: other files start with them by chance.
    """
    magic = any(len(magic) >= 4 and head.startswith(magic, offset) for offset, magic, _, remedy in _MAGIC if remedy == _TO_JPEG)
    return magic or head[4:12] == _CANON_RAW


def _identify(head: bytes) -> tuple[str, str] | None:
    for offset, magic, name, remedy in _MAGIC:
        if head.startswith(magic, offset):
            return name, remedy
    if head[4:8] == b"ftyp":
        return _CAMERA_RAW if head[4:12] == _CANON_RAW else ("A video", "send one of its frames as JPEG")
    if _NETPBM.match(head):
        return "PPM", _TO_JPEG
    if _XBM.match(head):
        return "XBM", _TO_PNG_OR_JPEG
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return next(((name, remedy) for pattern, name, remedy in _MARKUP if pattern.search(head)), None)
    return None

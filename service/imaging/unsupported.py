"""Recognizes unsupported file types by their magic numbers, to name the type and the remedy. Never parses them."""

import re

_PHOTO, _GRAPHIC = "convert to JPEG", "export it as PNG or JPEG"

# Offset, magic number, name of the type, and remedy.
_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"II*\0", "TIFF", _PHOTO),  # and many camera raw formats
    (0, b"MM\0*", "TIFF", _PHOTO),
    (0, b"II+\0", "TIFF", _PHOTO),
    (0, b"MM\0+", "TIFF", _PHOTO),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000", _PHOTO),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000", _PHOTO),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL", _PHOTO),
    (0, b"\xff\x0a", "JPEG XL", _PHOTO),
    (0, b"II\xbc", "JPEG XR", _PHOTO),
    (0, b"FUJIFILMCCD-RAW", "A camera raw file", _PHOTO),
    (0, b"v/1\x01", "OpenEXR", _PHOTO),
    (0, b"#?RADIANCE", "Radiance HDR", _PHOTO),
    (0, b"SIMPLE  =", "FITS", _GRAPHIC),
    (0, b"8BPS", "PSD", _GRAPHIC),
    (0, b"%PDF", "PDF", _GRAPHIC),
    (0, b"%!PS", "EPS", _GRAPHIC),
    (0, b"\xc5\xd0\xd3\xc6", "EPS", _GRAPHIC),
    (0, b"\xd7\xcd\xc6\x9a", "WMF", _GRAPHIC),
    (40, b" EMF", "EMF", _GRAPHIC),
    (0, b"\0\0\1\0", "ICO", _GRAPHIC),
    (0, b"\0\0\2\0", "CUR", _GRAPHIC),
    (0, b"icns", "ICNS", _GRAPHIC),
    (0, b"DDS ", "DDS", _GRAPHIC),
    (0, b"qoif", "QOI", _GRAPHIC),
    (0, b"gimp xcf", "XCF", _GRAPHIC),
    (0, b"\x8aMNG\r\n\x1a\n", "MNG", _GRAPHIC),
    (0, b"\x1aE\xdf\xa3", "A video", "send one of its frames as JPEG"),
    (8, b"AVI ", "A video", "send one of its frames as JPEG"),
    (0, b"PK\x03\x04", "A ZIP archive", "send the image inside it"),
    (0, b"\x1f\x8b", "A gzip file", "send the image inside it"),
)
_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1"}
_AVIF = {b"avif", b"avis"}
_MARKUP = (
    (re.compile(rb"<svg[\s>]", re.IGNORECASE), "SVG", _GRAPHIC),
    (re.compile(rb"<(?:!doctype html|html|head|body|script)\b", re.IGNORECASE), "A web page", "send the image itself"),
)
_PORTABLE = re.compile(rb"P[1-7FfH][\s]")
_BITMAP_IN_C = re.compile(rb"\s*(?:/\*.{0,200}?\*/\s*)?#define\s+\w+_width\b", re.DOTALL)


def told(encoded: bytes) -> str | None:
    """An error message for a file of a known but unsupported type; None if the type is unknown."""
    match = _named(encoded[:1024])
    return f"{match[0]} is not supported: {match[1]}." if match else None


def _named(head: bytes) -> tuple[str, str] | None:
    for offset, magic, name, remedy in _MAGIC:
        if head.startswith(magic, offset):
            return name, remedy
    if head[4:8] == b"ftyp":
        return _boxed(head)
    if _PORTABLE.match(head):
        return "PPM", _PHOTO
    if _BITMAP_IN_C.match(head):
        return "XBM", _GRAPHIC
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return next(((name, remedy) for pattern, name, remedy in _MARKUP if pattern.search(head)), None)
    return None


def _boxed(head: bytes) -> tuple[str, str]:
    """HEIC, AVIF and MP4 share the ISO base media format (ISOBMFF); only their brands differ."""
    size = max(16, min(int.from_bytes(head[:4]), len(head)))
    brands = {head[8:12], *(head[start : start + 4] for start in range(16, size, 4))}
    # Many AVIF files also declare mif1, so check for AVIF first.
    if brands & _AVIF:
        return "AVIF", _PHOTO
    return ("HEIC", _PHOTO) if brands & _HEIF else ("A video", "send one of its frames as JPEG")

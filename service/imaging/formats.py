"""The image formats that Graft reads. A new format needs its parser in `header_parsers` and a row here."""

from collections.abc import Callable
from dataclasses import dataclass

from . import header_parsers
from .header_parsers import Header


@dataclass(frozen=True)
class ImageFormat:
    """One format.

    Attributes:
        name: Pillow's name.
        label: the name as users write it.
        suffixes: of its files, in lower case.
        matches: whether a file's first 18 bytes are those of this format.
        read_header: the parser of its header.
        hidden_bytes_per_pixel: memory that its decoder needs beyond Pillow's, where a failed allocation looks like damage.
    """

    name: str
    label: str
    suffixes: tuple[str, ...]
    matches: Callable[[bytes], bool]
    read_header: Callable[[bytes], Header]
    hidden_bytes_per_pixel: Callable[[Header], int] = lambda header: 0


def _starts_with(*magic: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magic)


FORMATS = (
    ImageFormat(
        "JPEG",
        "JPEG",
        (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
        _starts_with(b"\xff\xd8\xff"),
        header_parsers.read_jpeg,
        lambda header: 8 if header.scans > 1 else 0,  # libjpeg keeps all coefficients of a multi-scan JPEG
    ),
    ImageFormat("PNG", "PNG", (".png", ".apng"), _starts_with(b"\x89PNG\r\n\x1a\n"), header_parsers.read_png),
    ImageFormat(
        "WEBP",
        "WebP",
        (".webp",),
        lambda head: head.startswith(b"RIFF") and head[8:12] == b"WEBP",
        header_parsers.read_webp,
        lambda header: 20,  # libwebp keeps several copies of the image
    ),
    ImageFormat("GIF", "GIF", (".gif",), _starts_with(b"GIF87a", b"GIF89a"), header_parsers.read_gif),
    ImageFormat("BMP", "BMP", (".bmp", ".dib"), header_parsers.is_bmp, header_parsers.read_bmp),
)
NAMES = tuple(image_format.name for image_format in FORMATS)
LABELS = tuple(image_format.label for image_format in FORMATS)
SUFFIXES = frozenset(suffix for image_format in FORMATS for suffix in image_format.suffixes)
BY_NAME = {image_format.name: image_format for image_format in FORMATS}


def detect_format(head: bytes) -> ImageFormat | None:
    """The format that the first 18 bytes of a file match, if any."""
    return next((image_format for image_format in FORMATS if image_format.matches(head)), None)

"""Checks an image's header before a decoder runs: format, size, number of scans. Plain Python: no Pillow, no numpy."""

import struct
from dataclasses import dataclass

from ..errors import ImageError
from .formats import LABELS, detect_format
from .header_parsers import Header, header_error
from .unsupported import rejection_message


@dataclass(frozen=True)
class ImageLimits:
    """Limits on the size declared in an image header. Training and serving share them, so both accept the same images."""

    max_pixels: int = 64_000_000
    max_side: int = 16_384
    max_aspect: int = 50
    max_scans: int = 100


def read_header(encoded: bytes) -> Header:
    """Reads the header. Raises ImageError if the file is not in a supported format."""
    if not encoded:
        raise ImageError("empty_image", "The image file is empty.")
    image_format = detect_format(encoded)
    if image_format is None:
        raise ImageError(
            "unsupported_format", rejection_message(encoded) or f"The file is not a supported image ({', '.join(LABELS)})."
        )
    try:
        return image_format.read_header(encoded)
    except (struct.error, IndexError):  # the file ends too early
        raise header_error("damaged or truncated") from None


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

"""Checks an image's header before a decoder runs: format, size, number of scans. Plain Python: no Pillow, no numpy."""

import struct
from collections.abc import Collection
from dataclasses import dataclass

from ..errors import ImageError
from .formats import INSTALLED, detect_format, labels
from .header_parsers import Header, header_error
from .unsupported import rejection_message


@dataclass(frozen=True)
class ImageLimits:
    """Limits on what an image header declares. Training and serving share them, so both accept the same images.

    Only `formats` differs: training reads every format whose decoder is installed, a service may accept fewer.
    """

    max_pixels: int = 64_000_000
    max_side: int = 16_384
    max_aspect: int = 50
    max_scans: int = 100
    max_scan_pixels: int = 640_000_000  # scans times pixels: every scan passes over the image; programs write up to ten
    formats: Collection[str] = INSTALLED  # Pillow's names


def read_header(encoded: bytes, formats: Collection[str] = INSTALLED) -> Header:
    """Reads the header. Raises ImageError if the file is not in one of the formats; then nothing of it was parsed."""
    if not encoded:
        raise ImageError("empty_image", "The image file is empty.")
    image_format = detect_format(encoded)
    if image_format is None:
        supported = ", ".join(labels(formats))
        raise ImageError(
            "unsupported_format", rejection_message(encoded) or f"The file is not a supported image ({supported})."
        )
    if image_format.name not in formats:
        remedy = f"not accepted here: send {', '.join(labels(formats))}"
        if not image_format.installed:
            remedy = f"not supported: convert to JPEG, or install {image_format.package}"
        raise ImageError("unsupported_format", f"{image_format.label} is {remedy}.")
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
    if header.scans > 1 and header.scans * width * height > limits.max_scan_pixels:
        detail = (
            f"{size} in each of {header.scans:,} scans; the limit is {limits.max_scan_pixels:,} pixels in all scans."
            " Save it as a baseline JPEG."
        )
        raise ImageError("too_many_scans", detail, "max_scan_pixels")

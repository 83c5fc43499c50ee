"""Estimates how long an image takes to decode, from its header and its length. Plain Python: no Pillow, no numpy.

A file of 34 bytes can hold 64 megapixels, so neither the length nor the format says what an image costs. The rates are
milliseconds of one core, rounded, on the machine where `benchmarks/decode_costs.py` ran: elsewhere, only their ratios hold.
"""

from collections.abc import Callable

from .header_parsers import Header

# A JPEG of 12 megapixels is at 91 with 10 MiB, the longest body, a PNG of 2 megapixels at 60, a WebP of 64 megapixels at 1,600.
COSTLY_MS = 100.0
MAX_REDUCTION = 8  # of libjpeg: it decodes at 1/8 scale

# Milliseconds from a header, the length of the file, and the side to which the shorter side is resized, in pixels.
EstimateMs = Callable[[Header, int, int], float]


def is_costly(decode_ms: float) -> bool:
    """Whether an image with this estimate must not hold up ordinary ones."""
    return decode_ms > COSTLY_MS


def rate(ms_per_megapixel: float, ms_per_mebibyte: float = 0.0) -> EstimateMs:
    """The estimate for a decoder that decodes every pixel. Channels of more than 8 bits take twice as long."""

    def estimate(header: Header, n_bytes: int, resize: int) -> float:
        depth = 2 if header.bits > 8 else 1
        return depth * ms_per_megapixel * _megapixels(header) + ms_per_mebibyte * n_bytes / 2**20

    return estimate


def png_ms(header: Header, n_bytes: int, resize: int) -> float:
    """The estimate for a PNG. Interlaced rows are decoded in seven passes."""
    return (1.25 if header.interlaced else 1.0) * rate(30)(header, n_bytes, resize)


def jpeg_ms(header: Header, n_bytes: int, resize: int) -> float:
    """The estimate for a JPEG, whose pixels are decoded at a reduced scale, but whose scans are read whole."""
    pixels_ms = 12 / reduction(header.width, header.height, resize) ** 2
    scans_ms, ms_per_mebibyte = (1.0, 7.0) if header.scans == 1 else (1.0 + 0.3 * header.scans, 35.0)
    return (pixels_ms + scans_ms) * _megapixels(header) + ms_per_mebibyte * n_bytes / 2**20


def reduction(width: int, height: int, resize: int) -> int:
    """By how much `preprocess.decode` lets libjpeg reduce a JPEG: 1, 2, 4 or 8, so that both sides keep twice `resize`."""
    largest = max(1, min(width, height) // max(1, 2 * resize))
    return next(scale for scale in (MAX_REDUCTION, 4, 2, 1) if scale <= largest)


def _megapixels(header: Header) -> float:
    return header.width * header.height / 1e6

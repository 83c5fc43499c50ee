"""Scales channels of more than 8 bits to 8 bits: one rule, for training and serving.

Cameras and scanners of 10, 12 or 14 bits store their values in 16 bits, mostly unscaled. Divided by 257, such an image is
nearly black. So values are divided by the largest value of the bits that are in use:

- `Preprocessing.sample_bits`, if the training images had more than 8 bits per channel: the fewest of `DEPTHS` that hold every
  value of them all. A dark image stays darker than a bright one, in training and in serving. Larger values become white.
- Otherwise the model has seen no such image, and the fewest bits that hold the values of the image itself are the best guess.

A TIFF of 12 bits per channel uses at most 12. Tags such as TIFF's MaxSampleValue and PNG's sBIT decide nothing: the former are
statistics, which the specification forbids to use for this, and the latter says what the values had before they were scaled.
"""

from collections.abc import Callable
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DEPTHS = (8, 10, 12, 14, 16)  # bits of common sensors
GRAY_MODES = ("I;16", "I;16B", "I;16L", "I;16N")
STRIP_PIXELS = 2**22  # converted at a time


def used_bits(image: Image.Image) -> int:
    """The fewest of `DEPTHS` that hold the values of an image of more than 8 bits per channel.

    Of color, Pillow keeps the high bytes, which are enough. 16 for images that are neither gray nor RGB: they are not scaled.
    """
    if image.mode == "I;16":
        _, largest = cast(tuple[int, int], image.getextrema())
        return _depth_of(largest)
    if image.mode in GRAY_MODES:  # for which Pillow has no getextrema
        return _depth_of(max(int(np.asarray(image.crop(box)).max()) for box in strips(image)))
    if image.mode == "RGB" and not image.has_transparency_data:
        channels = cast(tuple[tuple[int, int], ...], image.getextrema())
        return _depth_of(256 * max(high for _, high in channels) + 255)
    return 16


def to_8_bits(image: Image.Image, bits: int, inverted: bool, read_low_bytes: Callable[[], Image.Image]) -> Image.Image:
    """An image of more than 8 bits per channel, scaled to 8 bits.

    Args:
        image: 16-bit gray; or 8-bit color with the high byte of every value.
        bits: the number of bits that are in use.
        inverted: whether 0 is white, in gray.
        read_low_bytes: reads the low bytes of the values of an RGB image.
    """
    table = _scale(np.arange(2**16, dtype=np.uint16), bits)
    if image.mode in GRAY_MODES:
        table = 255 - table if inverted else table
        scaled = Image.new("L", image.size)
        for box in strips(image):
            scaled.paste(Image.fromarray(table[np.asarray(image.crop(box))]), box)
        return scaled
    if bits == 16:
        return image
    low_bytes, scaled = read_low_bytes(), Image.new("RGB", image.size)
    for box in strips(image):
        values = np.asarray(image.crop(box), dtype=np.uint16) * 256 + np.asarray(low_bytes.crop(box))
        scaled.paste(Image.fromarray(table[values]), box)
    return scaled


def _depth_of(largest_value: int) -> int:
    return next(bits for bits in DEPTHS if largest_value < 2**bits)


def strips(image: Image.Image) -> list[tuple[int, int, int, int]]:
    """Boxes of whole rows that cover an image, so that a conversion needs memory for one strip only."""
    width, height = image.size
    n_rows = max(1, STRIP_PIXELS // width)
    return [(0, top, width, min(top + n_rows, height)) for top in range(0, height, n_rows)]


def _scale(values: NDArray[np.uint16], bits: int) -> NDArray[np.uint8]:
    """Values in [0, 2**bits - 1] to [0, 255], rounded; larger values become 255."""
    largest = 2**bits - 1
    scaled: NDArray[np.uint8] = (np.minimum(values, largest) * np.float32(255 / largest) + np.float32(0.5)).astype(np.uint8)
    return scaled

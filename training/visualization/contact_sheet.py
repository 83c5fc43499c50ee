"""Contact sheets: many small images in one file, which a page loads faster than separate files. Numpy and Pillow only."""

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from graft.service.inference.engine import Pixels

GAP = 2  # pixels between tiles, transparent, so that the page background shows


def tile_sheet(tiles: Sequence[Pixels], columns: int, side: int, gap: int = GAP) -> bytes:
    """A PNG of tiles uint8 (h, w, 3) in row-major order, each enlarged to `side` pixels by nearest neighbor."""
    step = side + gap
    shape = (math.ceil(len(tiles) / columns) * step - gap, min(columns, len(tiles)) * step - gap, 4)
    canvas = Image.fromarray(np.zeros(shape, np.uint8))
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        canvas.paste(to_square(tile, side, Image.Resampling.NEAREST), (column * step, row * step))
    file = io.BytesIO()
    canvas.save(file, "PNG", optimize=True)
    return file.getvalue()


def contact_sheet(images: Sequence[Pixels], columns: int, side: int) -> bytes:
    """A WebP of photos uint8 (h, w, 3) in row-major order, each resized to `side` x `side` pixels, without gaps."""
    canvas = Image.new("RGB", (columns * side, math.ceil(len(images) / columns) * side))
    for index, pixels in enumerate(images):
        row, column = divmod(index, columns)
        canvas.paste(to_square(pixels, side, Image.Resampling.BOX), (column * side, row * side))
    return _encode_webp(canvas, 62)


def to_square(pixels: Pixels, side: int, resampling: Image.Resampling) -> Image.Image:
    """An image resized to `side` x `side` pixels; unchanged if it already has that size."""
    image = Image.fromarray(pixels)
    return image if image.size == (side, side) else image.resize((side, side), resampling)


def square_webp(pixels: Pixels, side: int) -> bytes:
    """A WebP of an image, resized to `side` x `side` pixels."""
    return _encode_webp(to_square(pixels, side, Image.Resampling.LANCZOS), 78)


def _encode_webp(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "WEBP", quality=quality, method=2)
    return file.getvalue()

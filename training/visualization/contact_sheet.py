"""Small pictures side by side in one file: a page loads one sheet faster than a thousand pictures. Numpy and Pillow only."""

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from graft.service.inference.engine import Pixels

GAP = 2  # pixels between tiles; nothing is there, so that a page's own colour shows


def sheet(tiles: Sequence[Pixels], columns: int, side: int, gap: int = GAP) -> bytes:
    """A PNG of tiles uint8 (h, w, 3), each enlarged to `side` pixels with all of its own pixels visible, row by row."""
    step = side + gap
    shape = (math.ceil(len(tiles) / columns) * step - gap, min(columns, len(tiles)) * step - gap, 4)
    paper = Image.fromarray(np.zeros(shape, np.uint8))
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        paper.paste(fitted(tile, side, Image.Resampling.NEAREST), (column * step, row * step))
    file = io.BytesIO()
    paper.save(file, "PNG", optimize=True)
    return file.getvalue()


def contact_sheet(pictures: Sequence[Pixels], columns: int, side: int) -> bytes:
    """A WebP of photos uint8 (h, w, 3), each made `side` pixels wide and high, row by row, with nothing between them."""
    paper = Image.new("RGB", (columns * side, math.ceil(len(pictures) / columns) * side))
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        paper.paste(fitted(picture, side, Image.Resampling.BOX), (column * side, row * side))
    return _webp(paper, 62)


def fitted(picture: Pixels, side: int, resampling: Image.Resampling) -> Image.Image:
    """A picture as a square of so many pixels; one that is already is left alone."""
    image = Image.fromarray(picture)
    return image if image.size == (side, side) else image.resize((side, side), resampling)


def photo(picture: Pixels, side: int) -> bytes:
    """A WebP of a picture, `side` pixels wide and high."""
    return _webp(fitted(picture, side, Image.Resampling.LANCZOS), 78)


def _webp(picture: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=quality, method=2)
    return file.getvalue()

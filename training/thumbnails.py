"""Encoded images -> pictures small enough to lie inside a page. Through the same decoder and limits as everything else."""

import base64
import io
from collections.abc import Callable

from PIL import Image, ImageOps

from service.artifact import Preprocessing
from service.preprocess import ImageError, dimensions, shrink

BOX = (128, 96)  # pixels
TINY = 48  # up to this side every pixel is kept, and lossless
BUDGET = 3 * 2**20  # bytes of pictures in one page


def thumbnail(encoded: bytes) -> bytes:
    """The whole image, upright, within 128x96 pixels: a PNG if it is tiny, else a JPEG of a few kilobytes.

    Raises:
        ImageError: if the bytes are no image that Graft reads.
    """
    side = min(BOX[1], *dimensions(encoded))
    whole = Image.fromarray(shrink(encoded, Preprocessing(resize=side, crop=side, mean=(0, 0, 0), std=(1, 1, 1))))
    small = ImageOps.contain(whole, BOX) if whole.width > BOX[0] or whole.height > BOX[1] else whole
    file = io.BytesIO()
    if max(small.size) <= TINY:
        small.save(file, "PNG", optimize=True)
    else:
        small.save(file, "JPEG", quality=78, optimize=True)
    return file.getvalue()


def data_uri(picture: bytes) -> str:
    """A picture as text that an `<img>` shows without asking anyone for anything."""
    kind = "png" if picture.startswith(b"\x89PNG") else "webp" if picture.startswith(b"RIFF") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


class Album:
    """Gives a page its pictures, and stops when the page has enough: a page of any data set stays a few megabytes."""

    def __init__(self, read: Callable[[str], bytes], budget: int = BUDGET) -> None:
        self._read = read
        self._left = budget
        self._made: dict[str, str] = {}

    def picture(self, path: str) -> str:
        """A data URI; "" if the file is no readable image, or the page is full."""
        if path not in self._made:
            self._made[path] = self._uri(path) if self._left > 0 else ""
        self._left -= len(self._made[path])  # counted again each time: it stands in the page again each time
        return self._made[path] if self._left >= 0 else ""

    def _uri(self, path: str) -> str:
        try:
            return data_uri(thumbnail(self._read(path)))
        except (ImageError, ValueError, OSError, KeyError):  # what cannot be shown was named where the data were checked
            return ""

"""Encoded images -> pictures small enough to lie inside a page or a package. Through the decoder and limits of all else."""

import base64
import io
from collections.abc import Callable, Sequence

from PIL import Image, ImageOps

from graft.service.artifact import Preprocessing
from graft.service.errors import ImageError
from graft.service.imaging.preprocess import dimensions, shrink
from graft.service.inference.devices import cores
from graft.service.inference.neighbours import Thumbnails
from graft.training.data.dataset import Dataset, DatasetError, Sample
from graft.training.runtime.progress import Progress
from graft.training.runtime.thread_map import each

BOX = (128, 96)  # pixels
TINY = 48  # up to this side every pixel is kept, and lossless
BUDGET = 3 * 2**20  # bytes of pictures in one page
PACKED = (96, 96)  # pixels, in a package
MOST_BYTES = 4096  # of a picture in a package, so that 3,000 of them stay below 12 MB


def thumbnail(encoded: bytes) -> bytes:
    """The whole image, upright, within 128x96 pixels: a PNG if it is tiny, else a JPEG of a few kilobytes.

    Raises:
        ImageError: if the bytes are no image that Graft reads.
    """
    small = _small(encoded, BOX)
    if max(small.size) > TINY:
        return _jpeg(small, 78)
    file = io.BytesIO()
    small.save(file, "PNG", optimize=True)
    return file.getvalue()


def packed(encoded: bytes) -> bytes:
    """The whole image, upright, within 96x96 pixels, as a JPEG of at most 4 kilobytes; b"" if no quality is so small.

    Raises:
        ImageError: if the bytes are no image that Graft reads.
    """
    small = _small(encoded, PACKED)
    made = (_jpeg(small, quality) for quality in (80, 50, 20))
    return next((picture for picture in made if len(picture) <= MOST_BYTES), b"")


def pictures(dataset: Dataset, samples: Sequence[Sample]) -> Thumbnails:
    """The samples as a package shows them; one whose file vanished meanwhile, or changed for the worse, has no picture."""

    def one(sample: Sample) -> bytes:
        try:
            return packed(dataset.read(sample))
        except (ImageError, DatasetError):
            return b""

    with Progress("thumbnails", len(samples), "images") as progress:
        return Thumbnails.of(progress.each(each(one, samples, cores())))


def _small(encoded: bytes, box: tuple[int, int]) -> Image.Image:
    """The whole image, upright, in RGB, within a box; never enlarged."""
    side = min(*box, *dimensions(encoded))
    whole = Image.fromarray(shrink(encoded, Preprocessing(resize=side, crop=side, mean=(0, 0, 0), std=(1, 1, 1))))
    return ImageOps.contain(whole, box) if whole.width > box[0] or whole.height > box[1] else whole


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, optimize=True)
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

"""Makes thumbnails for pages and packages from encoded images, with the decoder and limits of the service."""

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

BOX = (128, 96)  # pixels, in a page
TINY = 48  # pixels; up to this side, thumbnails are lossless and not resized
BUDGET = 3 * 2**20  # bytes of thumbnails in one page
PACKED = (96, 96)  # pixels, in a package
MOST_BYTES = 4096  # of a thumbnail in a package, so that 3,000 of them stay below 12 MB


def thumbnail(encoded: bytes) -> bytes:
    """A thumbnail within 128x96 pixels, with EXIF orientation applied: a PNG up to 48 pixels, else a JPEG of a few kilobytes.

    Raises:
        ImageError: if the bytes are not a supported image.
    """
    small = _small(encoded, BOX)
    if max(small.size) > TINY:
        return _jpeg(small, 78)
    file = io.BytesIO()
    small.save(file, "PNG", optimize=True)
    return file.getvalue()


def packed(encoded: bytes) -> bytes:
    """A thumbnail within 96x96 pixels, with EXIF orientation applied, as a JPEG of at most 4096 bytes; b"" if none fits.

    Raises:
        ImageError: if the bytes are not a supported image.
    """
    small = _small(encoded, PACKED)
    jpegs = (_jpeg(small, quality) for quality in (80, 50, 20))
    return next((jpeg for jpeg in jpegs if len(jpeg) <= MOST_BYTES), b"")


def pictures(dataset: Dataset, samples: Sequence[Sample]) -> Thumbnails:
    """The thumbnails of samples for a package; empty for a file that has become unreadable."""

    def make(sample: Sample) -> bytes:
        try:
            return packed(dataset.read(sample))
        except (ImageError, DatasetError):
            return b""

    with Progress("thumbnails", len(samples), "images") as progress:
        return Thumbnails.of(progress.each(each(make, samples, cores())))


def _small(encoded: bytes, box: tuple[int, int]) -> Image.Image:
    """The image in RGB, resized to fit within a box, with EXIF orientation applied; never enlarged."""
    side = min(*box, *dimensions(encoded))
    image = Image.fromarray(shrink(encoded, Preprocessing(resize=side, crop=side, mean=(0, 0, 0), std=(1, 1, 1))))
    return ImageOps.contain(image, box) if image.width > box[0] or image.height > box[1] else image


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()


def data_uri(picture: bytes) -> str:
    """An encoded image as a data URI."""
    subtype = "png" if picture.startswith(b"\x89PNG") else "webp" if picture.startswith(b"RIFF") else "jpeg"
    return f"data:image/{subtype};base64,{base64.b64encode(picture).decode()}"


class Album:
    """Makes and caches thumbnails for one page, within a byte budget, so that every page stays within a few megabytes."""

    def __init__(self, read: Callable[[str], bytes], budget: int = BUDGET) -> None:
        self._read = read
        self._left = budget
        self._made: dict[str, str] = {}

    def picture(self, path: str) -> str:
        """A data URI; "" if the file is not a readable image, or the budget is used up."""
        if path not in self._made:
            self._made[path] = self._uri(path) if self._left > 0 else ""
        self._left -= len(self._made[path])  # counted at each use, because each use adds it to the page
        return self._made[path] if self._left >= 0 else ""

    def _uri(self, path: str) -> str:
        try:
            return data_uri(thumbnail(self._read(path)))
        except (ImageError, ValueError, OSError, KeyError):  # the data audit has already reported the file
            return ""

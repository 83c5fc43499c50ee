"""Makes thumbnails for pages and packages from encoded images, with the decoder and limits of the service."""

import base64
import io
from collections.abc import Callable, Sequence

from PIL import Image, ImageOps

from graft.service.errors import ImageError
from graft.service.imaging.preprocess import decode_resized, image_size
from graft.service.inference.devices import available_cpus
from graft.service.inference.neighbors import Thumbnails
from graft.service.inference.thread_map import ordered_map
from graft.service.manifest import Preprocessing
from graft.service.package_contents import MAX_THUMBNAIL_BYTES, MAX_THUMBNAIL_SIDE
from graft.training.data.dataset import Dataset, DatasetError, Sample
from graft.training.runtime.progress import Progress

PAGE_SIZE = (320, 320)  # pixels, in a page, which shows them smaller and enlarges them on a click
LOSSLESS_MAX_SIDE = 48  # pixels; up to this side, thumbnails are lossless and not resized
PAGE_BUDGET_BYTES = 4 * 2**20  # bytes of thumbnails in one page
PACKAGE_SIZE = (MAX_THUMBNAIL_SIDE, MAX_THUMBNAIL_SIDE)  # pixels, in a package


def thumbnail(encoded: bytes) -> bytes:
    """A thumbnail within 320x320 pixels, with EXIF orientation applied: a PNG up to 48 pixels, else a WebP of about 8 KB.

    Raises:
        ImageError: if the bytes are not a supported image.
    """
    small = _resize_to_fit(encoded, PAGE_SIZE)
    file = io.BytesIO()
    if max(small.size) > LOSSLESS_MAX_SIDE:
        small.save(file, "WEBP", quality=62, method=4)
    else:
        small.save(file, "PNG", optimize=True)
    return file.getvalue()


def package_thumbnail(encoded: bytes) -> bytes:
    """A thumbnail within 96x96 pixels, with EXIF orientation applied, as a JPEG of at most 4096 bytes; b"" if none fits.

    Raises:
        ImageError: if the bytes are not a supported image.
    """
    small = _resize_to_fit(encoded, PACKAGE_SIZE)
    jpegs = (_encode_jpeg(small, quality) for quality in (80, 50, 20))
    return next((jpeg for jpeg in jpegs if len(jpeg) <= MAX_THUMBNAIL_BYTES), b"")


def package_thumbnails(dataset: Dataset, samples: Sequence[Sample]) -> Thumbnails:
    """The thumbnails of samples for a package; empty for a file that has become unreadable."""

    def make(sample: Sample) -> bytes:
        try:
            return package_thumbnail(dataset.read(sample))
        except (ImageError, DatasetError):
            return b""

    with Progress("thumbnails", len(samples), "images") as progress:
        return Thumbnails.from_jpegs(progress.track(ordered_map(make, samples, available_cpus())))


def _resize_to_fit(encoded: bytes, box: tuple[int, int]) -> Image.Image:
    """The image in RGB, resized to fit within a box, with EXIF orientation applied; never enlarged."""
    side = min(*box, *image_size(encoded))
    image = Image.fromarray(decode_resized(encoded, Preprocessing(resize=side, crop=side, mean=(0, 0, 0), std=(1, 1, 1))))
    return ImageOps.contain(image, box) if image.width > box[0] or image.height > box[1] else image


def _encode_jpeg(picture: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()


def data_uri(picture: bytes) -> str:
    """An encoded image as a data URI."""
    subtype = "png" if picture.startswith(b"\x89PNG") else "webp" if picture.startswith(b"RIFF") else "jpeg"
    return f"data:image/{subtype};base64,{base64.b64encode(picture).decode()}"


class ThumbnailCache:
    """Makes and caches thumbnails for one page, within a byte budget, so that every page stays within a few megabytes."""

    def __init__(self, read: Callable[[str], bytes], budget: int = PAGE_BUDGET_BYTES) -> None:
        self._read = read
        self._remaining = budget
        self._cache: dict[str, str] = {}

    def data_uri(self, path: str) -> str:
        """A data URI; "" if the file is not a readable image, or the budget is used up."""
        if path not in self._cache:
            self._cache[path] = self._make_data_uri(path) if self._remaining > 0 else ""
        self._remaining -= len(self._cache[path])  # counted at each use, because each use adds it to the page
        return self._cache[path] if self._remaining >= 0 else ""

    def _make_data_uri(self, path: str) -> str:
        try:
            return data_uri(thumbnail(self._read(path)))
        except (ImageError, ValueError, OSError, KeyError):  # the data audit has already reported the file
            return ""

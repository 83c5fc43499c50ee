"""Encoded bytes in, the network's pixels out. Training and service both call this; there is no second way.

Cheap checks come before dear ones: the header's claims are judged before a single pixel is decoded.
"""

import io
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from service.artifact import Preprocessing

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
EXIF_ORIENTATION = 0x0112
BACKGROUND = (255, 255, 255)  # what shows through transparent pixels

# Half a picture is not a picture: a cut file must be refused, not filled with grey.
ImageFile.LOAD_TRUNCATED_IMAGES = False
# `_check_header` is the limit, and says so in our words.
Image.MAX_IMAGE_PIXELS = None

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """This file cannot be classified, for a reason fit to show to whoever sent it.

    Attributes:
        code: a stable slug, as listed in `service.schemas`.
        limit: the name of the limit that was hit, if one was.
    """

    def __init__(self, code: str, detail: str, limit: str | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.limit = limit


@dataclass(frozen=True)
class ImageLimits:
    """What an image may claim to be. The same in training and service, so the network never meets what is refused."""

    max_pixels: int = 64_000_000
    max_side: int = 16_384
    max_aspect: int = 50
    max_scans: int = 100


@dataclass(frozen=True)
class Decoded:
    """One image, ready for the network.

    Attributes:
        pixels: uint8 (crop, crop, 3), RGB.
        width, height: of the image as a person sees it, EXIF orientation applied.
        format: Pillow's name of the file format, such as "JPEG".
        notes: what the sender should know about how the image was read.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    format: str
    notes: tuple[str, ...]


def decode(encoded: bytes, preprocessing: Preprocessing, limits: ImageLimits = ImageLimits()) -> Decoded:
    """The pixels that the network sees of an encoded image.

    Raises:
        ImageError: if the bytes are no image of an accepted kind, are damaged, or exceed a limit.
    """
    with _opened(encoded, limits) as image:
        orientation, (width, height) = _orientation(image), image.size
        pixels = _fitted(image, preprocessing, orientation)
        if orientation >= 5:
            width, height = height, width
        return Decoded(np.asarray(pixels), width, height, str(image.format), _notes(image))


@dataclass(frozen=True)
class Glance:
    """What a quick look at an image tells: its header's claims, and the whole of it made small.

    Attributes:
        pixels: uint8 (side, side, 3), RGB, upright, squashed to a square.
        width, height: of the image as a person sees it, EXIF orientation applied.
        format: Pillow's name of the file format, such as "JPEG".
        mode: Pillow's name of the kind of pixels, such as "RGB", "CMYK" or "I;16".
        orientation: EXIF's 1 to 8; 1 is upright.
        transparent: whether something may show through.
        filled: whether the last row is the flat grey that libjpeg puts where a JPEG's data are missing.
        notes: as in `Decoded`.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    format: str
    mode: str
    orientation: int
    transparent: bool
    filled: bool
    notes: tuple[str, ...]


def glance(encoded: bytes, side: int, limits: ImageLimits = ImageLimits()) -> Glance:
    """A quick look under the rules of `decode`: what is refused there is refused here, and every byte is read.

    Raises:
        ImageError: if the bytes are no image of an accepted kind, are damaged, or exceed a limit.
    """
    with _opened(encoded, limits) as image:
        orientation, mode, (width, height) = _orientation(image), image.mode, image.size
        image.draft(None, (2 * side, 2 * side))
        full = _rgb(image)
        pixels = np.asarray(_upright(full.resize((side, side), Image.Resampling.BOX, reducing_gap=2.0), orientation))
        if orientation >= 5:
            width, height = height, width
        transparent, filled = image.has_transparency_data, image.format == "JPEG" and _ends_in_grey(full)
        return Glance(pixels, width, height, str(image.format), mode, orientation, transparent, filled, _notes(image))


def dimensions(encoded: bytes, limits: ImageLimits = ImageLimits()) -> tuple[int, int]:
    """Width and height that the header claims, before any turning. Raises ImageError."""
    with _opened(encoded, limits) as image:
        return image.size


def shrink(encoded: bytes, preprocessing: Preprocessing, limits: ImageLimits = ImageLimits()) -> NDArray[np.uint8]:
    """The whole image, uncropped, with its shorter side at `preprocessing.resize`: what random changes start from.

    Returns:
        uint8 (H, W, 3), RGB, upright, min(H, W) == preprocessing.resize.
    """
    with _opened(encoded, limits) as image:
        orientation = _orientation(image)
        scale = preprocessing.resize / min(image.size)
        size = (math.ceil(image.width * scale - 1e-9), math.ceil(image.height * scale - 1e-9))
        _draft(image, preprocessing)
        small = _rgb(image).resize(size, _FILTERS[preprocessing.interpolation])
        return np.asarray(_upright(small, orientation))


@contextmanager
def _opened(encoded: bytes, limits: ImageLimits) -> Iterator[Image.Image]:
    """The image, its header checked; whatever Pillow raises meanwhile becomes an `ImageError`."""
    if not encoded:
        raise ImageError("empty_image", "The image has no bytes.")
    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except UnidentifiedImageError:
        raise _unidentified(encoded) from None
    except _DAMAGE as error:
        raise ImageError("corrupt_image", f"The image's header is damaged: {error}.") from None
    _check_header(image, limits)
    try:
        with image:
            yield image
    except ImageError:
        raise
    except _DAMAGE as error:
        raise ImageError("corrupt_image", f"The image is damaged or cut off: {error}.") from None


# Pillow raises SyntaxError on some broken PNGs, and IndexError or struct.error on broken tables inside other files.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")


def looks_like_image(head: bytes) -> bool:
    """Whether the first 16 bytes are those of an accepted format."""
    webp = head.startswith(b"RIFF") and head[8:12] in (b"WEBP", b"")
    bmp = head.startswith(b"BM") and head[6:10] in (b"\0\0\0\0", b"")
    return head.startswith(_MAGIC) or webp or bmp


def _unidentified(encoded: bytes) -> ImageError:
    if looks_like_image(encoded):
        return ImageError("corrupt_image", "The image's header is damaged or cut off.")
    if encoded[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
        return ImageError("unsupported_format", "HEIC is not supported: convert to JPEG.")
    return ImageError("unsupported_format", f"This is not an image of an accepted kind ({', '.join(FORMATS)}).")


def _check_header(image: Image.Image, limits: ImageLimits) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError("corrupt_image", f"The image claims to be {width}x{height} pixels.")
    if width * height > limits.max_pixels:
        detail = f"The image is {width}x{height} pixels; the most is {limits.max_pixels:,} in all."
        raise ImageError("image_too_large", detail, "max_pixels")
    if max(width, height) / min(width, height) > limits.max_aspect:
        detail = f"The image is {width}x{height} pixels; the longer side may be {limits.max_aspect} times the shorter."
        raise ImageError("bad_aspect", detail, "max_aspect")
    if max(width, height) > limits.max_side:
        detail = f"The image is {width}x{height} pixels; the longest side allowed is {limits.max_side:,}."
        raise ImageError("image_too_large", detail, "max_side")


def _orientation(image: Image.Image) -> int:
    """EXIF's 1 to 8; anything else, absent or unreadable, counts as 1 (upright)."""
    if image.format == "PNG":
        # A PNG's EXIF may stand behind its pixels, so Pillow decodes them to find it; damage met there is damage to the
        # picture, and must not be forgiven below.
        image.load()
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - a damaged note about the picture must not cost the picture
        return 1
    return orientation if isinstance(orientation, int) and orientation in _ORIENTATIONS else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_ORIENTATIONS[orientation]) if orientation in _ORIENTATIONS else image


def _rgb(image: Image.Image) -> Image.Image:
    """The picture in RGB, by one rule for every mode."""
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N"):
        # Pillow's own conversion clips 16 bits to white instead of scaling them.
        grey = (np.asarray(image, dtype=np.float32) / 257 + 0.5).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("I", "F"):
        raise ImageError("unsupported_mode", "Images of 32-bit numbers are not supported: save as 8 or 16 bit.")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (*BACKGROUND, 255)), layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _fitted(image: Image.Image, preprocessing: Preprocessing, orientation: int) -> Image.Image:
    """The square that the network sees.

    Turning upright comes after resampling: it commutes with every centred fit, and turning a small square is cheap.
    For the same reason resizing and cropping are one resampling of just the part that is kept.
    """
    crop, resampling = preprocessing.crop, _FILTERS[preprocessing.interpolation]
    _draft(image, preprocessing)
    width, height = image.size
    if preprocessing.fit == "letterbox":
        # Turned before it is laid on the square: an odd margin is wider on one side.
        small = _upright(ImageOps.contain(_rgb(image), (crop, crop), resampling), orientation)
        square = Image.new("RGB", (crop, crop), BACKGROUND)
        square.paste(small, ((crop - small.width) // 2, (crop - small.height) // 2))
        return square
    if preprocessing.fit == "squash":
        return _upright(_rgb(image).resize((crop, crop), resampling), orientation)
    side = min(width, height) * crop / preprocessing.resize
    box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    return _upright(_rgb(image).resize((crop, crop), resampling, box=box), orientation)


def _draft(image: Image.Image, preprocessing: Preprocessing) -> None:
    """Lets libjpeg decode a large photo at 1/2, 1/4 or 1/8 of its size: an exact box filter, and many times faster.

    Twice the target is kept, so the remaining scaling still has pixels to choose from. Does nothing to other formats.
    """
    scale = 2 * preprocessing.resize / min(image.size)
    if scale < 1:
        image.draft(None, (math.ceil(image.width * scale), math.ceil(image.height * scale)))


def _ends_in_grey(image: Image.Image) -> bool:
    last = np.asarray(image.crop((0, image.height - 1, image.width, image.height)))
    return bool((last == 128).all())


def _notes(image: Image.Image) -> tuple[str, ...]:
    notes = []
    # Not n_frames: that walks every frame of the file.
    if getattr(image, "is_animated", False):
        notes.append("animated: first frame used")
    if min(image.size) < 16:
        notes.append("tiny: fewer than 16 pixels on a side")
    return tuple(notes)

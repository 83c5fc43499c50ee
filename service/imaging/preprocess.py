"""Encoded bytes in, the network's pixels out. Training and service both call this; there is no second way.

Cheap checks come before dear ones: the header's claims are judged before Pillow sees a single byte.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from ..errors import ImageError
from .headers import FORMATS, Header, ImageLimits, check, sniff

if TYPE_CHECKING:  # pydantic would double the time that a decoding process takes to start
    from ..artifact import Preprocessing


__all__ = ["FORMATS", "Decoded", "Glance", "ImageError", "ImageLimits", "decode", "dimensions", "glance", "shrink"]

EXIF_ORIENTATION = 0x0112
BACKGROUND = (255, 255, 255)  # what shows through transparent pixels
STRIP_PIXELS = 2**22  # that are converted to RGB at once

# Half a picture is not a picture: a cut file must be refused, not filled with grey.
ImageFile.LOAD_TRUNCATED_IMAGES = False
# `graft.service.imaging.headers` is the limit, and says so in our words.
Image.MAX_IMAGE_PIXELS = None

FILTERS = {
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
        _draft(image, preprocessing)
        picture, invisible = _rgb(image)
        pixels = np.asarray(_fitted(picture, preprocessing, orientation))
        if orientation >= 5:
            width, height = height, width
        return Decoded(pixels, width, height, str(image.format), _notes(image, (width, height), invisible))


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
        full, invisible = _rgb(image)
        pixels = np.asarray(_upright(full.resize((side, side), Image.Resampling.BOX, reducing_gap=2.0), orientation))
        if orientation >= 5:
            width, height = height, width
        transparent, filled = image.has_transparency_data, image.format == "JPEG" and _ends_in_grey(full)
        notes = _notes(image, (width, height), invisible)
        return Glance(pixels, width, height, str(image.format), mode, orientation, transparent, filled, notes)


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
        picture, _ = _rgb(image)
        return np.asarray(_upright(picture.resize(size, FILTERS[preprocessing.interpolation]), orientation))


@contextmanager
def _opened(encoded: bytes, limits: ImageLimits) -> Iterator[Image.Image]:
    """The image, its header checked; whatever Pillow raises meanwhile becomes an `ImageError`."""
    header = sniff(encoded)
    check(header, limits)
    try:
        with Image.open(io.BytesIO(encoded), formats=[header.format]) as image:
            _agree(image, header)
            yield image
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("corrupt_image", "The image's header is damaged.") from None
    except _DAMAGE as error:
        raise ImageError("corrupt_image", f"The image is damaged or cut off: {error}.") from None


# Pillow raises SyntaxError on some broken PNGs, and IndexError or struct.error on broken tables inside other files.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)


def _agree(image: Image.Image, header: Header) -> None:
    """A file that two readers read differently was made to fool one of them."""
    if image.size != (header.width, header.height):
        raise ImageError("corrupt_image", f"The image claims to be {header.width}x{header.height} pixels, but is not.")
    # Pillow calls it MPO if more pictures follow, as in many a phone's; the first is a JPEG like any other.
    image.format = header.format


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


def _rgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """The picture in RGB, by one rule for every mode; and whether every pixel of it is fully transparent.

    Some rows at a time: on its way a pixel takes up to five times its own memory.
    """
    if image.mode in ("I", "F"):
        raise ImageError("unsupported_mode", "Images of 32-bit numbers are not supported: save as 8 or 16 bit.")
    if image.mode == "P" and image.palette is None:
        raise ImageError("corrupt_image", "The image is damaged: it has no palette.")
    if image.mode == "RGB" and not image.has_transparency_data:
        return image, False
    (width, height), invisible = image.size, True
    n_rows = max(1, STRIP_PIXELS // width)
    if height <= n_rows:
        return _rgb_at_once(image)
    picture = Image.new("RGB", image.size)
    for top in range(0, height, n_rows):
        box = (0, top, width, min(top + n_rows, height))
        strip, unseen = _rgb_at_once(image.crop(box))
        picture.paste(strip, box)
        invisible = invisible and unseen
    return picture, invisible


def _rgb_at_once(image: Image.Image) -> tuple[Image.Image, bool]:
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N"):
        # Pillow's own conversion clips 16 bits to white instead of scaling them.
        grey = (np.asarray(image, dtype=np.float32) / 257 + 0.5).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB"), False
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        background = Image.new("RGBA", layer.size, (*BACKGROUND, 255))
        return Image.alpha_composite(background, layer).convert("RGB"), layer.getbbox(alpha_only=True) is None
    return image.convert("RGB"), False


def _fitted(picture: Image.Image, preprocessing: Preprocessing, orientation: int) -> Image.Image:
    """The square that the network sees.

    Turning upright comes after resampling: it commutes with every centred fit, and turning a small square is cheap.
    For the same reason resizing and cropping are one resampling of just the part that is kept.
    """
    crop, resampling = preprocessing.crop, FILTERS[preprocessing.interpolation]
    width, height = picture.size
    if preprocessing.fit == "letterbox":
        # Turned before it is laid on the square: an odd margin is wider on one side.
        small = _upright(ImageOps.contain(picture, (crop, crop), resampling), orientation)
        square = Image.new("RGB", (crop, crop), BACKGROUND)
        square.paste(small, ((crop - small.width) // 2, (crop - small.height) // 2))
        return square
    if preprocessing.fit == "squash":
        return _upright(picture.resize((crop, crop), resampling), orientation)
    side = min(width, height) * crop / preprocessing.resize
    box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    return _upright(picture.resize((crop, crop), resampling, box=box), orientation)


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


def _notes(image: Image.Image, size: tuple[int, int], invisible: bool) -> tuple[str, ...]:
    notes = []
    # Not n_frames: that walks every frame of the file. What follows a JPEG are no frames of it.
    if image.format != "JPEG" and getattr(image, "is_animated", False):
        notes.append("animated: first frame used")
    if min(size) < 16:
        notes.append("tiny: fewer than 16 pixels on a side")
    if invisible:
        notes.append("transparent: every pixel is fully transparent")
    return tuple(notes)

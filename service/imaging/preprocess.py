"""Decodes and preprocesses images for the network. Training and serving share this code, so both use the same pixels.

Cheap checks come first: the header is checked before Pillow reads the file.
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
from .header_parsers import Header
from .headers import ImageLimits, check_limits, read_header

if TYPE_CHECKING:  # importing pydantic would double the start-up time of a decode worker
    from ..artifact import Preprocessing


__all__ = [
    "DecodedImage",
    "ImageError",
    "ImageLimits",
    "Preview",
    "decode",
    "decode_resized",
    "image_size",
    "load_preview",
    "preprocess",
]

EXIF_ORIENTATION = 0x0112
BACKGROUND = (255, 255, 255)  # white, behind transparent pixels
STRIP_PIXELS = 2**22  # converted to RGB at a time

# Reject truncated files instead of filling them with gray.
ImageFile.LOAD_TRUNCATED_IMAGES = False
# `graft.service.imaging.headers` enforces the limit and raises `ImageError`.
Image.MAX_IMAGE_PIXELS = None

RESAMPLING_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_EXIF_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class DecodedImage:
    """A decoded and preprocessed image.

    Attributes:
        pixels: uint8 (crop, crop, 3), RGB.
        width, height: of the original image, after EXIF orientation.
        format: Pillow's name for the file format, such as "JPEG"; "pixels" if there was no file.
        notes: warnings for the client about how the image was read.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    format: str
    notes: tuple[str, ...]


def decode(encoded: bytes, preprocessing: Preprocessing, limits: ImageLimits = ImageLimits()) -> DecodedImage:
    """Decodes an image and preprocesses it for the network.

    Raises:
        ImageError: if the format is unsupported, the file is damaged, or a limit is exceeded.
    """
    with _open(encoded, limits) as image:
        orientation, size = _exif_orientation(image), image.size
        _draft(image, preprocessing)
        return _preprocess(image, preprocessing, orientation, size)


def preprocess(image: Image.Image, preprocessing: Preprocessing) -> DecodedImage:
    """Preprocesses an image that Pillow has opened, as `decode` does with its file. The image stays as it is.

    A large JPEG is decoded at full size here and at reduced size in `decode`, so their pixels differ slightly.

    Raises:
        ImageError: if its mode is unsupported, it is empty, or its file is damaged.
    """
    if 0 in image.size:
        raise ImageError("empty_image", "The image has no pixels.")
    try:
        image.load()
        return _preprocess(image, preprocessing, _exif_orientation(image), image.size)
    except ImageError:
        raise
    except _DECODE_ERRORS as error:
        raise ImageError("corrupt_image", f"The image is damaged or truncated: {error}.") from None


def _preprocess(
    image: Image.Image, preprocessing: Preprocessing, orientation: int, original_size: tuple[int, int]
) -> DecodedImage:
    rgb, fully_transparent = _to_rgb(image)
    pixels = np.asarray(_fit_to_square(rgb, preprocessing, orientation))
    width, height = original_size if orientation < 5 else reversed(original_size)
    notes = _notes(image, (width, height), fully_transparent)
    return DecodedImage(pixels, width, height, str(image.format or "pixels"), notes)


@dataclass(frozen=True)
class Preview:
    """The metadata of an image and a small version of it.

    Attributes:
        pixels: uint8 (side, side, 3), RGB, upright, resized to a square without keeping the aspect ratio.
        width, height: of the original image, after EXIF orientation.
        format: Pillow's name for the file format, such as "JPEG".
        mode: Pillow's pixel mode, such as "RGB", "CMYK" or "I;16".
        orientation: EXIF orientation, 1 to 8; 1 is upright.
        transparent: whether the image has transparency data.
        gray_last_row: whether the last row is the uniform gray with which libjpeg fills missing JPEG data.
        notes: as in `DecodedImage`.
    """

    pixels: NDArray[np.uint8]
    width: int
    height: int
    format: str
    mode: str
    orientation: int
    transparent: bool
    gray_last_row: bool
    notes: tuple[str, ...]


def load_preview(encoded: bytes, side: int, limits: ImageLimits = ImageLimits()) -> Preview:
    """Reads the metadata and a small version of an image. Reads the whole file and rejects the same files as `decode`.

    Raises:
        ImageError: if the format is unsupported, the file is damaged, or a limit is exceeded.
    """
    with _open(encoded, limits) as image:
        orientation, mode, (width, height) = _exif_orientation(image), image.mode, image.size
        image.draft(None, (2 * side, 2 * side))
        rgb, fully_transparent = _to_rgb(image)
        pixels = np.asarray(_apply_orientation(rgb.resize((side, side), Image.Resampling.BOX, reducing_gap=2.0), orientation))
        if orientation >= 5:
            width, height = height, width
        transparent, filled = image.has_transparency_data, image.format == "JPEG" and _last_row_is_gray(rgb)
        notes = _notes(image, (width, height), fully_transparent)
        return Preview(pixels, width, height, str(image.format), mode, orientation, transparent, filled, notes)


def image_size(encoded: bytes, limits: ImageLimits = ImageLimits()) -> tuple[int, int]:
    """Width and height in the header, before EXIF orientation. Raises ImageError."""
    with _open(encoded, limits) as image:
        return image.size


def decode_resized(encoded: bytes, preprocessing: Preprocessing, limits: ImageLimits = ImageLimits()) -> NDArray[np.uint8]:
    """Decodes the whole image and resizes its shorter side to `preprocessing.resize`, without a crop: input for augmentation.

    Returns:
        uint8 (H, W, 3), RGB, upright, min(H, W) == preprocessing.resize.
    """
    with _open(encoded, limits) as image:
        orientation = _exif_orientation(image)
        scale = preprocessing.resize / min(image.size)
        size = (math.ceil(image.width * scale - 1e-9), math.ceil(image.height * scale - 1e-9))
        _draft(image, preprocessing)
        rgb, _ = _to_rgb(image)
        return np.asarray(_apply_orientation(rgb.resize(size, RESAMPLING_FILTERS[preprocessing.interpolation]), orientation))


@contextmanager
def _open(encoded: bytes, limits: ImageLimits) -> Iterator[Image.Image]:
    """Opens an image after checking its header. Turns Pillow's exceptions into `ImageError`."""
    header = read_header(encoded)
    check_limits(header, limits)
    try:
        with Image.open(io.BytesIO(encoded), formats=[header.format]) as image:
            _check_size(image, header)
            yield image
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("corrupt_image", "The image's header is damaged.") from None
    except _DECODE_ERRORS as error:
        raise ImageError("corrupt_image", f"The image is damaged or truncated: {error}.") from None


# Pillow raises SyntaxError for some damaged PNGs, and IndexError or struct.error for damaged tables in other formats.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)


def _check_size(image: Image.Image, header: Header) -> None:
    """Raises ImageError if Pillow reads another size than `headers`: such a file is an attack on one of the parsers."""
    if image.size != (header.width, header.height):
        raise ImageError(
            "corrupt_image", f"The image's header declares {header.width}x{header.height} pixels, but the size differs."
        )
    # Pillow reports MPO for a JPEG that is followed by more images, as from many phones; the first is a normal JPEG.
    image.format = header.format


def _exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) if it is missing, invalid or unreadable."""
    if image.format == "PNG":
        # The EXIF chunk of a PNG may follow the pixels, so Pillow decodes them to find it. Load them first: damaged pixels
        # must raise an error and not be ignored below.
        image.load()
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - damaged EXIF data must not reject the image
        return 1
    return orientation if isinstance(orientation, int) and orientation in _EXIF_TRANSPOSES else 1


def _apply_orientation(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_EXIF_TRANSPOSES[orientation]) if orientation in _EXIF_TRANSPOSES else image


def _to_rgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """Converts an image of any mode to RGB. Also returns whether every pixel is fully transparent.

    Works on strips of rows, because a conversion takes up to five times the memory of its pixels.
    """
    if image.mode in ("I", "F"):
        raise ImageError("unsupported_mode", "Images with 32-bit channels are not supported: save with 8 or 16 bits.")
    if image.mode == "P" and image.palette is None:
        raise ImageError("corrupt_image", "The image is damaged: it has no palette.")
    if image.mode == "RGB" and not image.has_transparency_data:
        return image, False
    (width, height), fully_transparent = image.size, True
    n_rows = max(1, STRIP_PIXELS // width)
    if height <= n_rows:
        return _strip_to_rgb(image)
    rgb = Image.new("RGB", image.size)
    for top in range(0, height, n_rows):
        box = (0, top, width, min(top + n_rows, height))
        strip, strip_transparent = _strip_to_rgb(image.crop(box))
        rgb.paste(strip, box)
        fully_transparent = fully_transparent and strip_transparent
    return rgb, fully_transparent


def _strip_to_rgb(image: Image.Image) -> tuple[Image.Image, bool]:
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N"):
        # Pillow would clip 16-bit values to white instead of scaling them.
        gray = (np.asarray(image, dtype=np.float32) / 257 + 0.5).astype(np.uint8)
        return Image.fromarray(gray).convert("RGB"), False
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        background = Image.new("RGBA", layer.size, (*BACKGROUND, 255))
        return Image.alpha_composite(background, layer).convert("RGB"), layer.getbbox(alpha_only=True) is None
    return image.convert("RGB"), False


def _fit_to_square(image: Image.Image, preprocessing: Preprocessing, orientation: int) -> Image.Image:
    """The square input of the network.

    The orientation is applied after resampling: the result is the same for a centered crop, and a small square is cheaper to
    rotate. For speed, resize and crop are one resampling of the cropped region.
    """
    crop, resampling = preprocessing.crop, RESAMPLING_FILTERS[preprocessing.interpolation]
    width, height = image.size
    if preprocessing.fit == "letterbox":
        # Rotate before pasting: an odd margin is wider on one side.
        small = _apply_orientation(ImageOps.contain(image, (crop, crop), resampling), orientation)
        square = Image.new("RGB", (crop, crop), BACKGROUND)
        square.paste(small, ((crop - small.width) // 2, (crop - small.height) // 2))
        return square
    if preprocessing.fit == "squash":
        return _apply_orientation(image.resize((crop, crop), resampling), orientation)
    side = min(width, height) * crop / preprocessing.resize
    box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    return _apply_orientation(image.resize((crop, crop), resampling, box=box), orientation)


def _draft(image: Image.Image, preprocessing: Preprocessing) -> None:
    """Lets libjpeg decode a large JPEG at 1/2, 1/4 or 1/8 scale: an exact box filter, and many times faster.

    Keeps at least twice the target size, so that the final resampling keeps its quality. Has no effect on other formats.
    """
    scale = 2 * preprocessing.resize / min(image.size)
    if scale < 1:
        image.draft(None, (math.ceil(image.width * scale), math.ceil(image.height * scale)))


def _last_row_is_gray(image: Image.Image) -> bool:
    last_row = np.asarray(image.crop((0, image.height - 1, image.width, image.height)))
    return bool((last_row == 128).all())


def _notes(image: Image.Image, size: tuple[int, int], fully_transparent: bool) -> tuple[str, ...]:
    notes = []
    # Not n_frames, which reads every frame. The images after a JPEG are not animation frames.
    if image.format != "JPEG" and getattr(image, "is_animated", False):
        notes.append("animated: first frame used")
    if min(size) < 16:
        notes.append("tiny: fewer than 16 pixels on a side")
    if fully_transparent:
        notes.append("transparent: every pixel is fully transparent")
    return tuple(notes)

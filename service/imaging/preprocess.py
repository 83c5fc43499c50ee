"""Decodes and preprocesses images for the network. Training and serving share this code, so both use the same pixels.

Cheap checks come first: the header is checked before Pillow reads the file. Channels of more than 8 bits are scaled by the
rule of `graft.service.imaging.sample_depth`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..errors import ImageError
from .color import BACKGROUND, to_rgb
from .header_parsers import Header
from .headers import ImageLimits
from .opened_image import DECODE_ERRORS, EXIF_ORIENTATION, OpenedImage, damaged, exif_orientation, open_image
from .sample_depth import GRAY_MODES

if TYPE_CHECKING:  # importing pydantic would double the start-up time of a decode worker
    from ..manifest import Preprocessing


__all__ = [
    "EXIF_ORIENTATION",
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
    with open_image(encoded, limits) as opened:
        orientation, size = opened.orientation(), opened.image.size
        _draft(opened.image, preprocessing)
        return _preprocess(opened, preprocessing, orientation, size)


def preprocess(image: Image.Image, preprocessing: Preprocessing) -> DecodedImage:
    """Preprocesses an image that Pillow has opened, as `decode` does with its file. The image stays as it is.

    A large JPEG is decoded at full size here and at reduced size in `decode`, so their pixels differ slightly. Of 16-bit color,
    Pillow has kept only the high bytes, so it is not scaled; 16-bit gray is.

    Raises:
        ImageError: if its mode is unsupported, it is empty, or its file is damaged.
    """
    if 0 in image.size:
        raise ImageError("empty_image", "The image has no pixels.")
    try:
        image.load()
        header = Header(str(image.format or "pixels"), *image.size, bits=16 if image.mode in GRAY_MODES else 8)
        return _preprocess(OpenedImage(image, header), preprocessing, exif_orientation(image), image.size)
    except ImageError:
        raise
    except DECODE_ERRORS as error:
        raise damaged(error) from None


def _preprocess(
    opened: OpenedImage, preprocessing: Preprocessing, orientation: int, original_size: tuple[int, int]
) -> DecodedImage:
    image, bits = opened.to_8_bits(preprocessing.sample_bits)
    rgb, fully_transparent = to_rgb(image)
    pixels = np.asarray(_fit_to_square(rgb, preprocessing, orientation))
    width, height = original_size if orientation < 5 else reversed(original_size)
    notes = _notes(opened, (width, height), fully_transparent)
    if bits and opened.used_bits > bits:
        notes += (f"clipped: values above {2**bits - 1}, the largest of the training images' {bits} bits, are white",)
    return DecodedImage(pixels, width, height, opened.header.format, notes)


@dataclass(frozen=True)
class Preview:
    """The metadata of an image and a small version of it.

    Attributes:
        pixels: uint8 (side, side, 3), RGB, upright, resized to a square without keeping the aspect ratio.
        width, height: of the original image, after EXIF orientation.
        format: Pillow's name for the file format, such as "JPEG".
        mode: Pillow's pixel mode, such as "RGB", "CMYK" or "I;16".
        used_bits: the fewest of 8, 10, 12, 14 or 16 bits that hold the values; 0 if the file has 8 bits per channel. The pixels
            are scaled from them.
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
    used_bits: int
    orientation: int
    transparent: bool
    gray_last_row: bool
    notes: tuple[str, ...]


def load_preview(encoded: bytes, side: int, limits: ImageLimits = ImageLimits()) -> Preview:
    """Reads the metadata and a small version of an image. Reads the whole file and rejects the same files as `decode`.

    Raises:
        ImageError: if the format is unsupported, the file is damaged, or a limit is exceeded.
    """
    with open_image(encoded, limits) as opened:
        image, header = opened.image, opened.header
        orientation, mode, (width, height) = opened.orientation(), image.mode, image.size
        if header.format == "JPEG":
            image.draft(None, (2 * side, 2 * side))
        rgb, fully_transparent = to_rgb(opened.to_8_bits(None)[0])
        pixels = np.asarray(_apply_orientation(rgb.resize((side, side), Image.Resampling.BOX, reducing_gap=2.0), orientation))
        if orientation >= 5:
            width, height = height, width
        transparent, filled = image.has_transparency_data, header.format == "JPEG" and _last_row_is_gray(rgb)
        notes = _notes(opened, (width, height), fully_transparent)
        return Preview(pixels, width, height, header.format, mode, opened.used_bits, orientation, transparent, filled, notes)


def image_size(encoded: bytes, limits: ImageLimits = ImageLimits()) -> tuple[int, int]:
    """Width and height in the header. Raises ImageError."""
    with open_image(encoded, limits) as opened:
        return opened.image.size


def decode_resized(encoded: bytes, preprocessing: Preprocessing, limits: ImageLimits = ImageLimits()) -> NDArray[np.uint8]:
    """Decodes the whole image and resizes its shorter side to `preprocessing.resize`, without a crop: input for augmentation.

    Returns:
        uint8 (H, W, 3), RGB, upright, min(H, W) == preprocessing.resize.
    """
    with open_image(encoded, limits) as opened:
        orientation, image = opened.orientation(), opened.image
        scale = preprocessing.resize / min(image.size)
        size = (math.ceil(image.width * scale - 1e-9), math.ceil(image.height * scale - 1e-9))
        _draft(image, preprocessing)
        rgb, _ = to_rgb(opened.to_8_bits(preprocessing.sample_bits)[0])
        return np.asarray(_apply_orientation(rgb.resize(size, RESAMPLING_FILTERS[preprocessing.interpolation]), orientation))


def _apply_orientation(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_EXIF_TRANSPOSES[orientation]) if orientation in _EXIF_TRANSPOSES else image


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

    Keeps at least twice the target size, so that the final resampling keeps its quality. Other formats are decoded in full: a
    HEIC image would be replaced by its embedded thumbnail, which may show anything.
    """
    scale = 2 * preprocessing.resize / min(image.size)
    if scale < 1 and image.format == "JPEG":
        image.draft(None, (math.ceil(image.width * scale), math.ceil(image.height * scale)))


def _last_row_is_gray(image: Image.Image) -> bool:
    last_row = np.asarray(image.crop((0, image.height - 1, image.width, image.height)))
    return bool((last_row == 128).all())


def _notes(opened: OpenedImage, size: tuple[int, int], fully_transparent: bool) -> tuple[str, ...]:
    notes = []
    if opened.header.format == "TIFF":
        if opened.header.more_pages:
            notes.append("several pages: first page used")
    elif opened.header.format == "HEIF":
        if getattr(opened.image, "is_animated", False):
            notes.append("several images: main image used")
    # Not n_frames, which reads every frame. The images after a JPEG are not animation frames.
    elif opened.header.format != "JPEG" and getattr(opened.image, "is_animated", False):
        notes.append("animated: first frame used")
    if min(size) < 16:
        notes.append("tiny: fewer than 16 pixels on a side")
    if fully_transparent:
        notes.append("transparent: every pixel is fully transparent")
    return tuple(notes)

"""Opens an encoded image with Pillow after its header has been checked. Decodes no pixels."""

import io
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from PIL import Image, ImageFile, UnidentifiedImageError

from ..errors import ImageError
from .decoders import register_decoder
from .formats import BY_NAME
from .header_parsers import Header
from .headers import ImageLimits, check_limits, read_header
from .sample_depth import GRAY_MODES, to_8_bits, used_bits
from .tiff_header import unsupported_layout

# Reject truncated files instead of filling them with gray.
ImageFile.LOAD_TRUNCATED_IMAGES = False
# `graft.service.imaging.headers` enforces the limit and raises `ImageError`.
Image.MAX_IMAGE_PIXELS = None

EXIF_ORIENTATION = 0x0112
# Pillow raises SyntaxError for some damaged PNGs, IndexError or struct.error for damaged tables in other formats, and
# RuntimeError for what libavif and libheif report.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, RuntimeError, struct.error)
_OTHER_BYTE = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}


@dataclass
class OpenedImage:
    """An image that Pillow has opened, with its header and its bytes."""

    image: Image.Image
    header: Header
    encoded: bytes = b""

    def orientation(self) -> int:
        """The EXIF orientation that is left to apply, 1 to 8; 1 (upright) if it is missing, invalid or unreadable."""
        if (image_format := BY_NAME.get(self.header.format)) and image_format.is_upright:
            self.image.load()
            _check_size(self.image, self.header)  # libheif learns the true size while it decodes
            return 1
        return exif_orientation(self.image)

    @cached_property
    def used_bits(self) -> int:
        """The fewest bits that hold the values, as `sample_depth.used_bits` does; 0 if there are 8 bits per channel."""
        return min(used_bits(self.image), self.header.bits) if self.header.bits > 8 else 0

    def to_8_bits(self, sample_bits: int | None) -> tuple[Image.Image, int]:
        """The image with 8 bits per channel, and the number of bits from which its values were scaled (0: not scaled).

        Args:
            sample_bits: as in `Preprocessing`.
        """
        if self.header.bits <= 8:
            return self.image, 0
        bits = min(sample_bits or self.used_bits, self.header.bits)
        if self.image.mode not in GRAY_MODES and (self.image.mode != "RGB" or self.image.has_transparency_data):
            bits = 16
        return to_8_bits(self.image, bits, self.header.inverted, self._read_low_bytes), bits

    def _read_low_bytes(self) -> Image.Image:
        """The low bytes of an RGB image with 16 bits per channel, of which Pillow keeps the high ones.

        Pillow takes them for the high bytes if the byte order is swapped.
        """
        with Image.open(io.BytesIO(self.encoded), formats=[self.header.format]) as image:
            image.tile = [tile._replace(args=_swap_byte_order(tile.args or "")) for tile in image.tile]
            image.load()
            return image


@contextmanager
def open_image(encoded: bytes, limits: ImageLimits) -> Iterator[OpenedImage]:
    """Opens an image after checking its header. Turns Pillow's exceptions into `ImageError`."""
    header = read_header(encoded, limits.formats)
    check_limits(header, limits)
    register_decoder(header.format)
    try:
        with Image.open(io.BytesIO(encoded), formats=[header.format]) as image:
            _check_size(image, header)
            # Pillow reports MPO for a JPEG that is followed by more images, as from many phones; the first is a normal JPEG.
            image.format = header.format
            yield OpenedImage(image, header, encoded)
    except ImageError:
        raise
    except UnidentifiedImageError:
        if header.format == "TIFF":
            raise unsupported_layout("this layout of channels") from None
        raise ImageError("corrupt_image", "The image's header is damaged.") from None
    except DECODE_ERRORS as error:
        raise damaged(error) from None


def damaged(error: Exception) -> ImageError:
    """The error for an image that its decoder rejects, with the reason on one line."""
    reason = " ".join(str(error).split()).rstrip(".")
    return ImageError("corrupt_image", f"The image is damaged or truncated: {reason}.")


def _check_size(image: Image.Image, header: Header) -> None:
    """Raises ImageError if Pillow reads another size than `headers`: such a file is an attack on one of the parsers."""
    if image.size != (header.width, header.height):
        raise ImageError(
            "corrupt_image", f"The image's header declares {header.width}x{header.height} pixels, but the size differs."
        )


def exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) if it is missing, invalid or unreadable."""
    if image.format == "PNG":
        # The EXIF chunk of a PNG may follow the pixels, so Pillow decodes them to find it. Load them first: damaged pixels
        # must raise an error and not be ignored below.
        image.load()
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - damaged EXIF data must not reject the image
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _swap_byte_order(arguments: str | tuple[object, ...]) -> str | tuple[object, ...]:
    """The arguments of a Pillow decoder, the first of which names the layout of the pixels, such as "RGB;16B"."""
    raw_mode, rest = (arguments, ()) if isinstance(arguments, str) else (str(arguments[0]), arguments[1:])
    channels, _, order = raw_mode.partition(";")
    swapped = f"{channels};{_OTHER_BYTE[order]}"
    return swapped if isinstance(arguments, str) else (swapped, *rest)

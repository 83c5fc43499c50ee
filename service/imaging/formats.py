"""The image formats that Graft reads. A new format needs its header parser and a row here. Plain Python: no Pillow."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec

from . import decode_cost, header_parsers, heif_header, tiff_header
from .decode_cost import EstimateMs
from .header_parsers import Header


@dataclass(frozen=True)
class ImageFormat:
    """One format.

    Attributes:
        name: Pillow's name.
        label: the name as users write it; in lower case, its name in GRAFT_FORMATS.
        suffixes: of its files, in lower case.
        matches: whether a file's first 64 bytes, or all of them, are those of this format.
        read_header: the parser of its header.
        plugin: the module that registers its decoder with Pillow.
        decode_ms: the estimate of what an image costs to decode; `benchmarks/decode_costs.py` measures it.
        decoder: a module that the plug-in needs and that may be missing.
        package: what to install if that module is missing.
        always_served: whether a service accepts it whatever the training images were. False for decoders that cost too much
            safety for a format that the model may never need.
        is_upright: whether the decoder applies the EXIF orientation itself, so that the size is that of the upright image.
        hidden_bytes_per_pixel: memory that its decoder needs beyond Pillow's, where a failed allocation looks like damage.
    """

    name: str
    label: str
    suffixes: tuple[str, ...]
    matches: Callable[[bytes], bool]
    read_header: Callable[[bytes], Header]
    plugin: str
    decode_ms: EstimateMs
    decoder: str = ""
    package: str = ""
    always_served: bool = True
    is_upright: bool = False
    hidden_bytes_per_pixel: Callable[[Header], int] = lambda header: 0

    @cached_property
    def installed(self) -> bool:
        """Whether its decoder is installed."""
        return not self.decoder or find_spec(self.decoder) is not None


def _starts_with(*magic: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magic)


FORMATS = (
    ImageFormat(
        "JPEG",
        "JPEG",
        (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
        _starts_with(b"\xff\xd8\xff"),
        header_parsers.read_jpeg,
        "PIL.JpegImagePlugin",
        decode_cost.jpeg_ms,
        hidden_bytes_per_pixel=lambda header: 8 if header.scans > 1 else 0,  # libjpeg keeps the coefficients of all scans
    ),
    ImageFormat(
        "PNG",
        "PNG",
        (".png", ".apng"),
        _starts_with(b"\x89PNG\r\n\x1a\n"),
        header_parsers.read_png,
        "PIL.PngImagePlugin",
        decode_cost.png_ms,
    ),
    ImageFormat(
        "WEBP",
        "WebP",
        (".webp",),
        lambda head: head.startswith(b"RIFF") and head[8:12] == b"WEBP",
        header_parsers.read_webp,
        "PIL.WebPImagePlugin",
        decode_cost.rate(25, ms_per_mebibyte=30),
        hidden_bytes_per_pixel=lambda header: 20,  # libwebp keeps several copies of the image
    ),
    ImageFormat(
        "GIF",
        "GIF",
        (".gif",),
        _starts_with(b"GIF87a", b"GIF89a"),
        header_parsers.read_gif,
        "PIL.GifImagePlugin",
        decode_cost.rate(20),
    ),
    ImageFormat(
        "BMP",
        "BMP",
        (".bmp", ".dib"),
        header_parsers.is_bmp,
        header_parsers.read_bmp,
        "PIL.BmpImagePlugin",
        decode_cost.rate(8),
    ),
    ImageFormat(
        "TIFF",
        "TIFF",
        (".tif", ".tiff"),
        _starts_with(*tiff_header.MAGIC),
        tiff_header.read_tiff,
        "PIL.TiffImagePlugin",
        decode_cost.rate(20),
        always_served=False,  # libtiff reads many rare layouts, and has had many vulnerabilities
        is_upright=True,
        hidden_bytes_per_pixel=lambda header: 8,  # libtiff keeps the file and decompressed strips
    ),
    ImageFormat(
        "AVIF",
        "AVIF",
        (".avif",),
        heif_header.is_avif,
        heif_header.read_avif,
        "PIL.AvifImagePlugin",
        decode_cost.rate(25, ms_per_mebibyte=30),
        decoder="PIL._avif",
        package="a Pillow that was built with libavif",
        always_served=False,  # a video decoder, and a file of 1 KB can hold 50 megapixels
        hidden_bytes_per_pixel=lambda header: 20,
    ),
    ImageFormat(
        "HEIF",
        "HEIC",
        (".heic", ".heif", ".hif"),
        heif_header.is_heif,
        heif_header.read_heif,
        "pillow_heif.HeifImagePlugin",
        decode_cost.rate(25, ms_per_mebibyte=30),
        decoder="pillow_heif",
        package="pillow-heif",
        always_served=False,  # a video decoder, and one that few installations have
        is_upright=True,
        hidden_bytes_per_pixel=lambda header: 20,
    ),
)
NAMES = tuple(image_format.name for image_format in FORMATS)
INSTALLED = tuple(image_format.name for image_format in FORMATS if image_format.installed)
ALWAYS_SERVED = tuple(image_format.name for image_format in FORMATS if image_format.always_served)
SUFFIXES = frozenset(suffix for image_format in FORMATS for suffix in image_format.suffixes)
BY_NAME = {image_format.name: image_format for image_format in FORMATS}


def detect_format(head: bytes) -> ImageFormat | None:
    """The format that the first 64 bytes of a file match, if any."""
    return next((image_format for image_format in FORMATS if image_format.matches(head)), None)


def labels(names: Collection[str]) -> tuple[str, ...]:
    """The names of formats as users write them, in the order of `FORMATS`."""
    return tuple(image_format.label for image_format in FORMATS if image_format.name in names)

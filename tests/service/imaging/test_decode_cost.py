"""The estimate of what an image costs to decode: ordinary photos are never costly, and tiny files of many pixels are."""

import io
from types import SimpleNamespace

import pytest
from handmade_files import encode_image, progressive, vp8l, webp
from PIL import Image

from graft.service.imaging import preprocess
from graft.service.imaging.decode_cost import COSTLY_MS, is_costly, reduction
from graft.service.imaging.formats import BY_NAME, FORMATS
from graft.service.imaging.header_parsers import Header
from graft.service.imaging.headers import read_header

RESIZE = 236
MIB = 2**20


def estimate_ms(header: Header, n_bytes: int = 0) -> float:
    return BY_NAME[header.format].decode_ms(header, n_bytes, RESIZE)


@pytest.mark.parametrize(
    ("header", "n_bytes"),
    [
        (Header("JPEG", 4000, 3000), 5 * MIB),
        (Header("JPEG", 4000, 3000), 10 * MIB),
        (Header("JPEG", 8064, 6048), 5 * MIB),
        (Header("JPEG", 4000, 3000, scans=10), MIB),
        (Header("PNG", 1600, 1250), 4 * MIB),
        (Header("PNG", 1170, 2532), 4 * MIB),
        (Header("WEBP", 2048, 1536), MIB // 2),
    ],
)
def test_an_ordinary_photo_is_not_costly(header, n_bytes):
    assert not is_costly(estimate_ms(header, n_bytes))


@pytest.mark.parametrize("image_format", [name for name in BY_NAME if name != "JPEG"])
def test_64_megapixels_are_costly(image_format):
    assert is_costly(estimate_ms(Header(image_format, 8000, 8000)))


@pytest.mark.parametrize(
    "encoded", [webp((b"VP8L", vp8l(4000, 3500))), progressive(8000, 8000, 10), progressive(2520, 2520, 100)]
)
def test_a_tiny_file_can_be_costly(encoded):
    assert is_costly(estimate_ms(read_header(encoded), len(encoded)))


@pytest.mark.parametrize("name", BY_NAME)
def test_more_pixels_cost_more(name):
    assert 0 < estimate_ms(Header(name, 1000, 1000)) < estimate_ms(Header(name, 2000, 2000))


@pytest.mark.parametrize(
    "harder",
    [Header("PNG", 1000, 1000, bits=16), Header("PNG", 1000, 1000, interlaced=True), Header("JPEG", 1000, 1000, scans=10)],
)
def test_depth_passes_and_scans_cost_more(harder):
    assert estimate_ms(harder) > estimate_ms(Header(harder.format, 1000, 1000))


@pytest.mark.parametrize("name", ["JPEG", "WEBP", "AVIF"])
def test_more_bytes_cost_more(name):
    assert estimate_ms(Header(name, 1000, 1000), MIB) > estimate_ms(Header(name, 1000, 1000))


@pytest.mark.parametrize(
    "size", [(300, 200), (471, 900), (944, 944), (1887, 2000), (1888, 2000), (3000, 4000), (3776, 4000), (9000, 400)]
)
def test_the_reduced_scale_is_the_one_that_pillow_takes(size):
    image = Image.open(io.BytesIO(encode_image(Image.new("L", size), "JPEG")))
    preprocess._draft(image, SimpleNamespace(resize=RESIZE))
    assert image.width == -(-size[0] // reduction(*size, RESIZE))


def test_every_format_has_an_estimate_below_the_threshold_for_a_small_image():
    assert all(0 < estimate_ms(Header(image_format.name, 200, 200)) < COSTLY_MS / 10 for image_format in FORMATS)

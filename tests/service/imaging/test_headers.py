"""Header parsing: agrees with Pillow, and raises only ImageError for arbitrary bytes."""

import io
import struct
import warnings

import numpy as np
import pytest
from handmade_files import encode_image, exif, gif, gif_frame, isobmff, progressive, segment
from hostile_corpus import corpus
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from graft.service.errors import ImageError
from graft.service.imaging.formats import NAMES, detect_format
from graft.service.imaging.header_parsers import Header
from graft.service.imaging.headers import ImageLimits, check_limits, read_header

CASES = corpus()
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"BM")
INNARDS = (
    b"\xff\xc0\0\x11\x08",
    b"\xff\xc2\0\x0b\x08",
    b"\xff\xda\0\x08\1",
    b"\xff\xd9",
    b"\0\0\0\rIHDR",
    b"VP8 ",
    b"VP8L",
    b"VP8X",
    b"\x2f",
    b"\x9d\x01\x2a",
    b"!\xff\x0bNETSCAPE2.0",
    b"!\xf9\4",
    b"!\xfe",
    b",",
    b"\x28\0\0\0",
    b"\x0c\0\0\0",
)
ANY = st.binary(max_size=300) | st.tuples(
    st.sampled_from(MAGIC), st.lists(st.sampled_from(INNARDS) | st.binary(max_size=20), max_size=12)
).map(lambda parts: parts[0] + b"".join(parts[1]))


def header_error(encoded: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read_header(encoded)
    return caught.value


def limit_error(header: Header, **limits: int) -> ImageError:
    with pytest.raises(ImageError) as caught:
        check_limits(header, ImageLimits(**limits))
    return caught.value


def pillow_header(encoded: bytes) -> tuple[str, int, int] | None:
    """Format and size according to Pillow; None if Pillow cannot read the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(encoded), formats=NAMES) as image:
                size = image.size
                image.load()
                return ("JPEG" if image.format == "MPO" else str(image.format)), *size
        except Exception:  # noqa: BLE001 - any error means that Pillow cannot read the file
            return None


def graft_header(encoded: bytes) -> tuple[str, int, int] | None:
    try:
        header = read_header(encoded)
    except ImageError:
        return None
    return header.format, header.width, header.height


def assert_header_or_image_error(encoded: bytes) -> None:
    try:
        header = read_header(encoded)
    except ImageError as error:
        code = error.code
    else:
        code = None
        assert header.format in NAMES
        assert min(header.width, header.height) >= 0
    assert code in {None, "empty_image", "unsupported_format", "corrupt_image"}


@settings(max_examples=1000, deadline=None)
@given(ANY)
def test_random_bytes_give_a_header_or_an_image_error(encoded):
    assert_header_or_image_error(encoded)


@pytest.mark.nightly
@settings(max_examples=10_000, deadline=None)
@given(ANY)
def test_arbitrary_bytes_give_a_header_or_an_image_error(encoded):
    assert_header_or_image_error(encoded)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(NAMES),
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from(["1", "L", "P", "RGB"]),
)
@example("GIF", 1, 300, "P")
def test_headers_written_by_pillow_agree_with_pillow(format, width, height, mode):
    image = Image.new(mode, (width, height))
    encoded = encode_image(image.convert("RGB") if format == "WEBP" or (format == "JPEG" and mode == "P") else image, format)
    assert read_header(encoded) == Header(format, width, height)


@pytest.mark.parametrize("format", NAMES)
def test_corrupted_headers_agree_with_pillow(format):
    seed = 20260102
    dice = np.random.default_rng(seed)
    whole = encode_image(dice.integers(0, 256, (30, 40, 3), dtype=np.uint8), format)
    for number in range(500):
        damaged = bytearray(whole)
        for place in dice.integers(0, min(len(whole), 100), 2):
            damaged[place] = dice.integers(0, 256)
        claims = graft_header(bytes(damaged))
        if claims and claims[1] * claims[2] > 1_000_000:
            continue  # rejected before Pillow would allocate memory for it
        found = pillow_header(bytes(damaged))
        assert found is None or found == claims, f"seed {seed}, {format}, damage {number}"


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.code is None])
def test_hostile_files_agree_with_pillow(name):
    assert graft_header(CASES[name].content) == pillow_header(CASES[name].content)


@pytest.mark.parametrize("name", CASES)
def test_a_truncated_file_gives_a_header_or_an_image_error(name):
    content = CASES[name].content[:2000]
    for end in range(0, len(content), 7):
        assert_header_or_image_error(content[:end])


def test_the_size_of_a_gif_covers_its_screen_and_first_frame():
    frames = gif_frame(30, 5, left=20), gif_frame(100, 100)
    assert read_header(gif(40, 20, *frames)) == Header("GIF", 50, 20)


@pytest.mark.parametrize("passes", [1, 2, 100, 5000])
def test_scans_are_counted(passes):
    assert read_header(progressive(64, 64, passes)).scans == passes


def test_a_baseline_jpeg_has_one_scan(encode, photo):
    assert read_header(encode(photo, "JPEG")).scans == 1


def test_scans_of_a_progressive_jpeg_from_pillow_are_counted(encode, photo):
    assert read_header(encode(photo, "JPEG", progressive=True)).scans == 10


def test_a_marker_inside_a_segment_is_not_counted():
    content = struct.pack(">BBHB", 0xFF, 0xDA, 8, 1) * 50
    assert read_header(progressive(64, 64, 3, segment(0xFE, content))).scans == 3


def test_exif_orientation_does_not_change_the_size(encode, photo):
    assert read_header(encode(photo, "JPEG", exif=exif((0x0112, 3, 1, 6)))) == Header("JPEG", 80, 60)


@pytest.mark.parametrize(
    ("header", "limits", "code", "limit"),
    [
        (Header("PNG", 81, 60), {"max_pixels": 4859}, "image_too_large", "max_pixels"),
        (Header("PNG", 81, 60), {"max_side": 80}, "image_too_large", "max_side"),
        (Header("PNG", 120, 59), {"max_aspect": 2}, "bad_aspect", "max_aspect"),
        (Header("JPEG", 81, 60, 11), {"max_scans": 10}, "too_many_scans", "max_scans"),
        (Header("PNG", 0, 60), {}, "corrupt_image", None),
        (Header("PNG", 60, 0), {}, "corrupt_image", None),
    ],
)
def test_exceeding_a_limit_names_it(header, limits, code, limit):
    error = limit_error(header, **limits)
    assert (error.code, error.limit) == (code, limit)


def test_a_header_exactly_at_every_limit_is_accepted():
    check_limits(Header("JPEG", 120, 60, 10), ImageLimits(max_pixels=7200, max_side=120, max_aspect=2, max_scans=10))


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (isobmff(b"heic", b"mif1"), "HEIC is not supported: convert to JPEG."),
        (isobmff(b"mif1", b"heic"), "HEIC is not supported: convert to JPEG."),
        (isobmff(b"mif1", b"avif"), "AVIF is not supported: convert to JPEG."),
        (isobmff(b"isom", b"mp42"), "A video is not supported: send one of its frames as JPEG."),
        (b"II*\0" + bytes(9), "TIFF is not supported: convert to JPEG."),
        (b"\xef\xbb\xbf \n<svg width='1'/>", "SVG is not supported: export it as PNG or JPEG."),
        (b"%PDF-1.7", "PDF is not supported: export it as PNG or JPEG."),
        (b"P6\n1 1\n255\n\0\0\0", "PPM is not supported: convert to JPEG."),
        (b"PK\x03\x04", "A ZIP archive is not supported: send the image inside it."),
        (b"hello", "The file is not a supported image (JPEG, PNG, WebP, GIF, BMP)."),
    ],
)
def test_unsupported_formats_get_a_remedy(encoded, message):
    error = header_error(encoded)
    assert (error.code, str(error)) == ("unsupported_format", message)


@pytest.mark.parametrize("format", NAMES)
def test_sixteen_bytes_identify_the_format(encode, photo, format):
    assert detect_format(encode(photo, format)[:18]).name == format


@pytest.mark.parametrize("head", [b"", b"hello", b"PK\x03\x04", b"%PDF", b"II*\0", b"BMW is not a bitmap", b"RIFF\0\0\0\0WAVE"])
def test_other_files_have_no_format(head):
    assert detect_format(head) is None

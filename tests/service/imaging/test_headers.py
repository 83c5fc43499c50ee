"""The header's claims: what Pillow will find, and nothing but an ImageError for any bytes at all."""

import io
import struct
import warnings

import numpy as np
import pytest
from handmade_files import boxed, exif, gif, gif_frame, progressive, saved, segment
from hostile_corpus import corpus
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from graft.service.errors import ImageError
from graft.service.imaging.headers import FORMATS, Header, ImageLimits, check, kind, sniff

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


def refusal(encoded: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        sniff(encoded)
    return caught.value


def checked(header: Header, **limits: int) -> ImageError:
    with pytest.raises(ImageError) as caught:
        check(header, ImageLimits(**limits))
    return caught.value


def pillows(encoded: bytes) -> tuple[str, int, int] | None:
    """What Pillow makes of a file: its format and size, if it can be read at all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
                size = image.size
                image.load()
                return ("JPEG" if image.format == "MPO" else str(image.format)), *size
        except Exception:  # noqa: BLE001 - whatever it is, Pillow did not read the file
            return None


def ours(encoded: bytes) -> tuple[str, int, int] | None:
    try:
        header = sniff(encoded)
    except ImageError:
        return None
    return header.format, header.width, header.height


def never_anything_else(encoded: bytes) -> None:
    try:
        header = sniff(encoded)
    except ImageError as error:
        code = error.code
    else:
        code = None
        assert header.format in FORMATS
        assert min(header.width, header.height) >= 0
    assert code in {None, "empty_image", "unsupported_format", "corrupt_image"}


@settings(max_examples=1000, deadline=None)
@given(ANY)
def test_any_bytes_are_a_header_or_refused(encoded):
    never_anything_else(encoded)


@pytest.mark.nightly
@settings(max_examples=10_000, deadline=None)
@given(ANY)
def test_any_bytes_at_all_are_a_header_or_refused(encoded):
    never_anything_else(encoded)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(FORMATS),
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from(["1", "L", "P", "RGB"]),
)
@example("GIF", 1, 300, "P")
def test_it_agrees_with_pillow_on_what_pillow_writes(format, width, height, mode):
    image = Image.new(mode, (width, height))
    encoded = saved(image.convert("RGB") if format == "WEBP" or (format == "JPEG" and mode == "P") else image, format)
    assert sniff(encoded) == Header(format, width, height)


@pytest.mark.parametrize("format", FORMATS)
def test_it_agrees_with_pillow_on_whatever_pillow_can_still_read(format):
    seed = 20260102
    dice = np.random.default_rng(seed)
    whole = saved(dice.integers(0, 256, (30, 40, 3), dtype=np.uint8), format)
    for number in range(500):
        damaged = bytearray(whole)
        for place in dice.integers(0, min(len(whole), 100), 2):
            damaged[place] = dice.integers(0, 256)
        claims = ours(bytes(damaged))
        if claims and claims[1] * claims[2] > 1_000_000:
            continue  # refused before Pillow would have to make room for it
        found = pillows(bytes(damaged))
        assert found is None or found == claims, f"seed {seed}, {format}, damage {number}"


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.code is None])
def test_it_agrees_with_pillow_on_every_file_that_is_answered(name):
    assert ours(CASES[name].content) == pillows(CASES[name].content)


@pytest.mark.parametrize("name", CASES)
def test_a_cut_file_is_a_header_or_refused(name):
    content = CASES[name].content[:2000]
    for end in range(0, len(content), 7):
        never_anything_else(content[:end])


def test_a_gif_is_as_large_as_its_screen_and_first_frame():
    frames = gif_frame(30, 5, left=20), gif_frame(100, 100)
    assert sniff(gif(40, 20, *frames)) == Header("GIF", 50, 20)


@pytest.mark.parametrize("passes", [1, 2, 100, 5000])
def test_passes_are_counted(passes):
    assert sniff(progressive(64, 64, passes)).scans == passes


def test_a_baseline_jpeg_makes_one_pass(encode, photo):
    assert sniff(encode(photo, "JPEG")).scans == 1


def test_passes_are_counted_as_pillow_writes_them(encode, photo):
    assert sniff(encode(photo, "JPEG", progressive=True)).scans == 10


def test_a_marker_inside_a_segment_is_no_pass():
    content = struct.pack(">BBHB", 0xFF, 0xDA, 8, 1) * 50
    assert sniff(progressive(64, 64, 3, segment(0xFE, content))).scans == 3


def test_exif_changes_no_size(encode, photo):
    assert sniff(encode(photo, "JPEG", exif=exif((0x0112, 3, 1, 6)))) == Header("JPEG", 80, 60)


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
def test_a_claim_over_a_limit_is_refused_by_its_name(header, limits, code, limit):
    error = checked(header, **limits)
    assert (error.code, error.limit) == (code, limit)


def test_a_claim_at_every_limit_is_let_through():
    check(Header("JPEG", 120, 60, 10), ImageLimits(max_pixels=7200, max_side=120, max_aspect=2, max_scans=10))


@pytest.mark.parametrize(
    ("encoded", "told"),
    [
        (boxed(b"heic", b"mif1"), "HEIC is not supported: convert to JPEG."),
        (boxed(b"mif1", b"heic"), "HEIC is not supported: convert to JPEG."),
        (boxed(b"mif1", b"avif"), "AVIF is not supported: convert to JPEG."),
        (boxed(b"isom", b"mp42"), "A video is not supported: send one of its frames as JPEG."),
        (b"II*\0" + bytes(9), "TIFF is not supported: convert to JPEG."),
        (b"\xef\xbb\xbf \n<svg width='1'/>", "SVG is not supported: export it as PNG or JPEG."),
        (b"%PDF-1.7", "PDF is not supported: export it as PNG or JPEG."),
        (b"P6\n1 1\n255\n\0\0\0", "PPM is not supported: convert to JPEG."),
        (b"PK\x03\x04", "A ZIP archive is not supported: send the image inside it."),
        (b"hello", "This is not an image of an accepted kind (JPEG, PNG, WEBP, GIF, BMP)."),
    ],
)
def test_another_kind_is_told_what_to_do(encoded, told):
    error = refusal(encoded)
    assert (error.code, str(error)) == ("unsupported_format", told)


@pytest.mark.parametrize("format", FORMATS)
def test_sixteen_bytes_tell_the_kind(encode, photo, format):
    assert kind(encode(photo, format)[:16]) == format


@pytest.mark.parametrize("head", [b"", b"hello", b"PK\x03\x04", b"%PDF", b"II*\0", b"BMW is not a bitmap", b"RIFF\0\0\0\0WAVE"])
def test_other_files_are_of_no_kind(head):
    assert kind(head) is None

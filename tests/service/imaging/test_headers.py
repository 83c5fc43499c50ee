"""Header parsing: agrees with Pillow, and raises only ImageError for arbitrary bytes."""

import io
import struct
import sys
import warnings
from importlib.util import find_spec

import numpy as np
import pytest
from handmade_files import (
    SOI,
    avif,
    bmp,
    box,
    chunk,
    encode_image,
    exif,
    frame,
    gif,
    gif_frame,
    gray_tiff,
    ihdr,
    isobmff,
    ispe,
    jpeg,
    os2_bmp,
    png,
    progressive,
    scan,
    segment,
    tiff,
    vp8l,
    vp8x,
    webp,
)
from hostile_corpus import corpus
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from graft.service.errors import ImageError
from graft.service.imaging import header_parsers, heif_header
from graft.service.imaging.formats import ALWAYS_SERVED, NAMES, detect_format
from graft.service.imaging.header_parsers import Header
from graft.service.imaging.headers import ImageLimits, check_limits, read_header

CASES = corpus()
FORMATS = tuple(name for name in NAMES if name != "HEIF")  # its decoder is rarely installed
MAGIC = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"BM"),
    *(b"II*\0\x08\0\0\0\3\0", b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0", b"\0\0\0\x10ftypavif\0\0\0\0"),
)
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
    b"\0\1\3\0\1\0\0\0\x28\0\0\0",
    b"\1\1\4\0\1\0\0\0\x28\0\0\0",
    b"\x11\1\4\0\1\0\0\0\x08\0\0\0",
    b"\0\0\0\x0emeta\0\0\0\0",
    b"\0\0\0\x0epitm\0\0\0\0\0\1",
    b"\0\0\0\x24iprp\0\0\0\x1cipco",
    b"\0\0\0\x14ispe\0\0\0\0\0\0\0\x28\0\0\0\x28",
    b"\0\0\0\x13ipma\0\0\0\0\0\0\0\1\0\1\1\1",
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
            with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
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
    assert code in {None, "empty_image", "unsupported_format", "unsupported_mode", "corrupt_image"}


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
    st.sampled_from(FORMATS),
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from(["1", "L", "P", "RGB"]),
)
@example("GIF", 1, 300, "P")
def test_headers_written_by_pillow_agree_with_pillow(format, width, height, mode):
    image = Image.new(mode, (width, height))
    is_rgb_only = format in ("WEBP", "AVIF") or (format == "JPEG" and mode == "P")
    encoded = encode_image(image.convert("RGB") if is_rgb_only else image, format)
    assert read_header(encoded) == Header(format, width, height)


@pytest.mark.parametrize("format", FORMATS)
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
        if format not in ALWAYS_SERVED and claims is None:
            continue  # TIFF and AVIF are refused where Pillow forgives
        found = pillow_header(bytes(damaged))
        assert found is None or found == claims, f"seed {seed}, {format}, damage {number}"


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.decode_code is None])
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
        (Header("JPEG", 81, 60, 11), {"max_scan_pixels": 53_459}, "too_many_scans", "max_scan_pixels"),
        (Header("PNG", 0, 60), {}, "corrupt_image", None),
        (Header("PNG", 60, 0), {}, "corrupt_image", None),
    ],
)
def test_exceeding_a_limit_names_it(header, limits, code, limit):
    error = limit_error(header, **limits)
    assert (error.code, error.limit) == (code, limit)


def test_a_header_exactly_at_every_limit_is_accepted():
    limits = ImageLimits(max_pixels=7200, max_side=120, max_aspect=2, max_scans=10, max_scan_pixels=72_000)
    check_limits(Header("JPEG", 120, 60, 10), limits)


def test_a_progressive_jpeg_of_the_most_pixels_is_accepted():
    check_limits(Header("JPEG", 8000, 8000, 10), ImageLimits())


def test_a_single_scan_may_have_more_pixels_than_all_scans_of_others():
    check_limits(Header("JPEG", 120, 60), ImageLimits(max_scan_pixels=7199))


def test_the_passes_of_a_png_are_read():
    assert read_header(png(ihdr(9, 9, interlaced=1))).interlaced
    assert not read_header(png(ihdr(9, 9))).interlaced


@pytest.mark.parametrize(("bits", "expected"), [(1, 8), (8, 8), (16, 16)])
def test_bits_of_a_png_are_read(bits, expected):
    assert read_header(png(ihdr(9, 7, bits=bits))) == Header("PNG", 9, 7, bits=expected)


@pytest.mark.parametrize(("length", "is_read"), [(12, False), (13, True), (14, True)])
def test_first_chunk_of_a_png_is_long_enough(length, is_read):
    encoded = png(chunk(b"IHDR", (struct.pack(">IIBBBBB", 9, 7, 8, 0, 0, 0, 0) + b"\0")[:length]), chunk(b"IDAT", bytes(99)))
    assert (graft_header(encoded) == ("PNG", 9, 7)) == is_read


def test_a_png_has_at_most_30_000_chunks():
    most = header_parsers.MAX_CHUNKS - 2  # besides the first and the last
    assert read_header(png(ihdr(9, 7), *[chunk(b"teXt", b"")] * most)) == Header("PNG", 9, 7)
    assert "30,000 chunks" in str(header_error(png(ihdr(9, 7), *[chunk(b"teXt", b"")] * (most + 1))))


def test_a_jpeg_has_at_most_10_000_segments():
    most = header_parsers.MAX_SEGMENTS - 4  # besides two tables, the frame and the scan
    assert read_header(jpeg(*[segment(0xE0, b"")] * most, frame(9, 7), scan())) == Header("JPEG", 9, 7)
    assert "10,000 segments" in str(header_error(jpeg(*[segment(0xE0, b"")] * (most + 1), frame(9, 7), scan())))


@pytest.mark.parametrize(("n_components", "in_first_scan", "scans"), [(1, 1, 1), (3, 3, 1), (3, 1, 3), (3, 2, 2), (2, 3, 1)])
def test_baseline_jpeg_has_one_scan_if_it_has_all_components(n_components, in_first_scan, scans):
    first = segment(0xDA, bytes([in_first_scan, *[1, 0] * in_first_scan, 0, 63, 0]))
    n_more = scans - 1 or 4  # libjpeg does not read what follows a scan of all components
    encoded = jpeg(frame(9, 7, n_components=n_components), first, scan(2) * n_more)
    assert read_header(encoded) == Header("JPEG", 9, 7, scans=scans)


@pytest.mark.parametrize("length", [0, 1, 2])
def test_segment_of_a_jpeg_has_two_bytes_at_least(length):
    short = b"\xff\xe0" + struct.pack(">H", length)
    assert read_header(jpeg(short, frame(9, 7), scan())) == Header("JPEG", 9, 7)
    assert read_header(progressive(9, 7, 3, short)) == Header("JPEG", 9, 7, scans=3)


@pytest.mark.parametrize(("height", "expected"), [(7, 7), (-7, 7), (-(2**24), 2**24), (-(2**24) - 1, 2**32 - 2**24 - 1)])
def test_height_of_a_bmp_is_negative_if_the_top_row_comes_first(height, expected):
    assert read_header(bmp(9, height)) == Header("BMP", 9, expected)


def test_os2_bmp_has_a_short_header():
    assert read_header(os2_bmp(300, 7)) == Header("BMP", 300, 7)


@pytest.mark.parametrize(
    ("reserved", "header_size", "is_bmp"),
    [(0, 99, True), (1, 40, True), (2**24, 124, True), (1, 41, False), (2**24, 99, False), (1, 40 + 2**24, False)],
)
def test_bmp_has_empty_reserved_bytes_or_a_known_header(reserved, header_size, is_bmp):
    head = b"BM" + struct.pack("<IIII", 1, reserved, 54, header_size)
    assert (detect_format(head) is not None) == is_bmp


def test_sizes_of_a_webp_have_14_or_24_bits():
    assert read_header(webp((b"VP8L", vp8l(2**14, 7)))) == Header("WEBP", 2**14, 7)
    assert read_header(webp((b"VP8L", vp8l(7, 2**14)))) == Header("WEBP", 7, 2**14)
    assert read_header(webp((b"VP8X", vp8x(2**24, 2**23 + 9)))) == Header("WEBP", 2**24, 2**23 + 9)
    for name, content in ((b"VP8L", b"\x2e" + vp8l(9, 9)[1:]), (b"VP8 ", bytes(3) + b"\x9d\x01\x2b" + bytes(8))):
        assert header_error(webp((name, content))).code == "corrupt_image"


def test_scaling_of_a_lossy_webp_is_no_size():
    content = bytes(3) + b"\x9d\x01\x2a" + struct.pack("<HH", 9 | 1 << 14, 7 | 3 << 14)
    assert read_header(webp((b"VP8 ", content))) == Header("WEBP", 9, 7)


def test_palette_of_a_gif_is_skipped():
    for bits, n_colors in ((0, 2), (7, 256), (2, 8)):
        start = b"GIF89a" + struct.pack("<HHBBB", 9, 7, 0x80 | 0x70 | bits, 0, 0)
        assert read_header(start + b"," * (3 * n_colors) + gif_frame(5, 30)) == Header("GIF", 9, 30)
    start = b"GIF89a" + struct.pack("<HHBBB", 9, 7, 0x77, 0, 0)
    assert read_header(start + gif_frame(5, 30, top=4)) == Header("GIF", 9, 34)


def test_extensions_of_a_gif_are_skipped():
    loop = b"!\xff\x0bNETSCAPE2.0\3\1\0\0\0"
    for extension in (b"!\xfe\3,,,\2,,\0", b"!\xfe\0", b"!\xf9\4,,,,\0", loop, b"!\x01\0\2,,\0", b"!\xff\1,\2,,\0"):
        assert read_header(gif(9, 7, extension, gif_frame(30, 5))) == Header("GIF", 30, 7)
    # Pillow reads one block after the name of a loop, even if it is empty.
    assert read_header(gif(9, 7, b"!\xff\x0bNETSCAPE2.0\0\2,,\0", gif_frame(30, 5))) == Header("GIF", 30, 7)
    assert "not followed by an image" in str(header_error(gif(9, 7)))
    assert [read_header(gif(*size, gif_frame(3, 3))).width for size in ((0, 9), (9, 0))] == [0, 9]


N_BYTES = 10 * 2**20  # the longest body
EMPTY_BOX, AVIF_START = box(b"free"), box(b"ftyp", b"avif", bytes(4), b"avifmif1")
ASSOCIATIONS = box(b"ipma", bytes(4), struct.pack(">I", 9_000), b"\0\2\0" * 9_000)
ITEM = box(b"pitm", bytes(4), b"\0\1")


def repeat(part: bytes) -> bytes:
    return part * (N_BYTES // len(part))


TEDIOUS = {  # files of the longest body, made of as many small parts as fit
    "JPEG segments": SOI + repeat(segment(0xE0, b"")),
    "JPEG markers without a length": SOI + repeat(b"\xff\xd0"),
    "JPEG padding before the frame": b"\xff\xd8\xff\xe0\0\2" + repeat(b"\xff"),
    "JPEG stuffed bytes before the frame": b"\xff\xd8\xff\xe0\0\2" + repeat(b"\xff\0"),
    "JPEG segments between scans": progressive(9, 9, 2)[:-2] + repeat(segment(0xFE, b"")),
    "JPEG stuffed bytes in a scan": progressive(9, 9, 2)[:-2] + repeat(b"\xff\0"),
    "JPEG restarts in a scan": progressive(9, 9, 2)[:-2] + repeat(b"\xff\xd3"),
    "JPEG padding in a scan": progressive(9, 9, 2)[:-2] + repeat(b"\xff"),
    "PNG chunks": png(ihdr(9, 9))[:-12] + repeat(chunk(b"teXt", b"")),
    "WebP chunks": webp((b"VP8X", vp8x(9, 9)), *[(b"EXIF", b"")] * (N_BYTES // 8)),
    "GIF extensions": gif(9, 9, repeat(b"!\xfe\0")),
    "GIF blocks of an extension": gif(9, 9, b"!\xf9\1\0" + repeat(b"\1\0"[:1] + b"x")),
    "GIF loops": gif(9, 9, repeat(b"!\xff\x0bNETSCAPE2.0\0\0")),
    "GIF bytes of no block": gif(9, 9, repeat(b"\0")),
    "TIFF tags": tiff([(tag, 3, 1, 1) for tag in range(1000, 2000)], data=bytes(N_BYTES)),
    "AVIF boxes": AVIF_START + repeat(EMPTY_BOX),
    "AVIF boxes in the metadata": AVIF_START + box(b"meta", bytes(4), repeat(EMPTY_BOX)),
    "AVIF properties": AVIF_START + box(b"meta", bytes(4), ITEM, box(b"iprp", box(b"ipco", repeat(EMPTY_BOX)))),
    "AVIF lists of properties": AVIF_START
    + box(b"meta", bytes(4), ITEM, box(b"iprp", box(b"ipco", ispe(9, 9)), repeat(ASSOCIATIONS))),
}


def count_steps(encoded: bytes) -> int:
    """How many functions of Python and C the parser calls."""
    n_steps = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal n_steps
        n_steps += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        assert_header_or_image_error(encoded)
    finally:
        sys.setprofile(None)
    return n_steps


@pytest.mark.parametrize("name", TEDIOUS)
def test_a_file_of_millions_of_parts_is_not_read_whole(name):
    assert count_steps(TEDIOUS[name]) < 100_000 < N_BYTES / 16  # the largest part has 16 bytes


@pytest.mark.parametrize("padding", [b"\xff", b"\xff\0", b"\xff\xd3"])
def test_a_search_of_millions_of_steps_is_refused(padding):
    n = header_parsers.MAX_MARKERS // padding.count(b"\xff")
    scans = progressive(9, 9, 2)
    n_others = scans.count(b"\xff", scans.index(b"\xff\xda") + 10)
    assert read_header(scans[:-2] + padding * (n - n_others) + scans[-2:]).scans == 2
    assert "300,000 markers" in str(header_error(scans[:-2] + padding * n + scans[-2:]))


@pytest.mark.parametrize(
    ("start", "rest"), [(SOI + segment(0xE0, b""), jpeg(frame(9, 9), scan())[2:]), (gif(9, 9)[:-1], gif_frame(9, 9))]
)
def test_bytes_between_segments_are_skipped_up_to_a_limit(start, rest):
    assert read_header(start + bytes(header_parsers.MAX_JUNK) + rest).width == 9
    assert header_error(start + bytes(header_parsers.MAX_JUNK + 1) + rest).code == "corrupt_image"
    halves = bytes(header_parsers.MAX_JUNK // 2 + 1)
    between = segment(0xE0, b"") if start.startswith(SOI) else b"!\xfe\0"
    assert header_error(start + halves + between + halves + rest).code == "corrupt_image"


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (isobmff(b"isom", b"mp42"), "A video is not supported: send one of its frames as JPEG."),
        (isobmff(b"crx "), "A camera raw file is not supported: convert to JPEG."),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(9), "A camera raw file is not supported: convert to JPEG."),
        (b"\xef\xbb\xbf \n<svg width='1'/>", "SVG is not supported: export it as PNG or JPEG."),
        (b"%PDF-1.7", "PDF is not supported: export it as PNG or JPEG."),
        (b"P6\n1 1\n255\n\0\0\0", "PPM is not supported: convert to JPEG."),
        (b"PK\x03\x04", "A ZIP archive is not supported: send the image inside it."),
        (b"7z\xbc\xaf\x27\x1c", "A 7z archive is not supported: send the image inside it."),
    ],
)
def test_unsupported_formats_get_a_remedy(encoded, message):
    error = header_error(encoded)
    assert (error.code, str(error)) == ("unsupported_format", message)


def test_file_of_no_known_type_is_told_the_formats():
    with pytest.raises(ImageError, match=r"The file is not a supported image \(JPEG, PNG\)\."):
        read_header(b"hello", ("JPEG", "PNG"))


@pytest.mark.parametrize("format", ["TIFF", "AVIF"])
def test_format_that_is_not_accepted_is_not_parsed(encode, photo, format):
    with pytest.raises(ImageError) as caught:
        read_header(encode(photo, format)[:20], ("JPEG", "PNG"))
    assert (caught.value.code, str(caught.value)) == ("unsupported_format", f"{format} is not accepted here: send JPEG, PNG.")


@pytest.mark.skipif(find_spec("pillow_heif") is not None, reason="pillow-heif is installed")
@pytest.mark.parametrize("encoded", [isobmff(b"heic", b"mif1"), isobmff(b"mif1", b"heic")])
def test_heic_without_its_decoder_names_it(encoded):
    assert str(header_error(encoded)) == "HEIC is not supported: convert to JPEG, or install pillow-heif."


@pytest.mark.parametrize("format", FORMATS)
def test_64_bytes_identify_the_format(encode, photo, format):
    assert detect_format(encode(photo, format)[:64]).name == format


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (isobmff(b"heic", b"mif1"), "HEIF"),
        (isobmff(b"mif1", b"heic"), "HEIF"),
        (isobmff(b"msf1"), "HEIF"),
        (isobmff(b"mif1", b"avif"), "AVIF"),
        (isobmff(b"avis", b"msf1"), "AVIF"),
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
        (b"II+\0", "TIFF"),
        (b"MM\0+", "TIFF"),
    ],
)
def test_brands_and_byte_orders_identify_the_format(head, name):
    assert detect_format(head).name == name


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ([ispe(80, 60)], (80, 60)),
        ([ispe(80, 60), box(b"irot", b"\1")], (60, 80)),
        ([ispe(80, 60), box(b"irot", b"\2")], (80, 60)),
        ([ispe(80, 60), box(b"clap", struct.pack(">8I", 50, 1, 40, 1, 0, 1, 0, 1)), box(b"irot", b"\3")], (40, 50)),
        ([ispe(80, 60), ispe(9, 9)], (80, 60)),
    ],
)
def test_size_of_a_heic_is_that_of_its_main_image_upright(properties, expected):
    header = heif_header.read_heif(avif(*properties))
    assert (header.width, header.height) == expected


@pytest.mark.parametrize(("bits", "expected"), [(8, 8), (12, 12), (16, 16)])
def test_bits_of_a_tiff_are_read(bits, expected):
    assert read_header(gray_tiff(bits=bits)) == Header("TIFF", 40, 40, bits=expected)


def test_more_pages_of_a_tiff_are_seen(encode, photo):
    assert read_header(encode(photo, "TIFF", save_all=True, append_images=[Image.fromarray(photo)])).more_pages


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (gray_tiff(40, 40, (339, 3, 1, 2)), "signed or floating-point values"),
        (gray_tiff(40, 40, (339, 3, 1, 3)), "signed or floating-point values"),
        (gray_tiff(bits=32), "32-bit channels"),
        (gray_tiff(compression=34_925), "the compression 34925"),
    ],
)
def test_unsupported_tiff_says_why(encoded, reason):
    error = header_error(encoded)
    expected = f"A TIFF with {reason} is not supported: save with 8 or 16 bits, in gray or RGB, and LZW or deflate."
    assert (error.code, str(error)) == ("unsupported_mode", expected)


@pytest.mark.parametrize("head", [b"", b"hello", b"PK\x03\x04", b"%PDF", b"II\0*", b"BMW is not a bitmap", b"RIFF\0\0\0\0WAVE"])
def test_other_files_have_no_format(head):
    assert detect_format(head) is None

"""Preprocessing: exact colors, every EXIF orientation, and an ImageError for every damaged or unsupported file."""

import io
import struct
import zlib

import numpy as np
import pytest
from handmade_files import gray_tiff
from PIL import Image

from graft.service.errors import ImageError
from graft.service.imaging.preprocess import EXIF_ORIENTATION, ImageLimits, decode, decode_resized, image_size, load_preview
from graft.service.manifest import Preprocessing

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]
FITS = ["crop", "squash", "letterbox"]
WHITE = [255, 255, 255]
# The transform of the stored pixels for each EXIF orientation.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def preprocessing(fit: str = "crop", resize: int = 36, crop: int = 32, sample_bits: int | None = None) -> Preprocessing:
    mean = std = (0.5, 0.5, 0.5)
    return Preprocessing(resize=resize, crop=crop, fit=fit, mean=mean, std=std, sample_bits=sample_bits)


def center(encoded: bytes, sample_bits: int | None = None) -> list[int]:
    return decode(encoded, preprocessing(sample_bits=sample_bits)).pixels[16, 16].tolist()


def image_error(encoded: bytes, limits: ImageLimits = ImageLimits()) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(encoded, preprocessing(), limits)
    return caught.value


def max_difference(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other).max())


def exif(orientation: int) -> Image.Exif:
    notes = Image.Exif()
    notes[EXIF_ORIENTATION] = orientation
    return notes


def rotated_file(scene: np.ndarray, orientation: int) -> Image.Image:
    image, turn = Image.fromarray(scene), STORED[orientation]
    return image if turn is None else image.transpose(turn)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *, bits: int = 8, color: int = 2, data: bytes = b"") -> bytes:
    """A PNG built by hand, for variants that Pillow cannot write."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.fixture
def noise() -> np.ndarray:
    """Incompressible pixels, so that every part of the file matters: uint8 (100, 120, 3)."""
    return np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGB", (40, 40), (10, 200, 30)), [10, 200, 30]),
        (Image.new("L", (40, 40), 77), [77, 77, 77]),
        (Image.new("1", (40, 40), 1), [255, 255, 255]),
        (Image.new("1", (40, 40), 0), [0, 0, 0]),
        (Image.new("LA", (40, 40), (77, 255)), [77, 77, 77]),
        (Image.new("LA", (40, 40), (77, 0)), WHITE),
        (Image.new("LA", (40, 40), (77, 128)), [166, 166, 166]),
        (Image.new("RGBA", (40, 40), (10, 200, 30, 255)), [10, 200, 30]),
        (Image.new("RGBA", (40, 40), (10, 200, 30, 0)), WHITE),
        (Image.new("RGBA", (40, 40), (0, 0, 0, 51)), [204, 204, 204]),
    ],
)
def test_every_mode_is_converted_to_rgb_on_white(encode, image, expected):
    assert center(encode(image)) == expected


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP"])
def test_palette_colors_are_resolved(encode, format):
    assert center(encode(green(), format)) == [10, 200, 30]


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(encode, format):
    assert center(encode(green(), format, transparency=1)) == WHITE


def green() -> Image.Image:
    image = Image.new("P", (40, 40), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    return image


@pytest.mark.parametrize(("mode", "color"), [("L", 77), ("RGB", (9, 8, 7))])
def test_a_color_declared_transparent_is_white(encode, mode, color):
    assert center(encode(Image.new(mode, (40, 40), color), transparency=color)) == WHITE


def test_cmyk_red_is_red(encode):
    red, green, blue = center(encode(Image.new("CMYK", (40, 40), (0, 255, 255, 0)), "JPEG", quality=95))
    assert (red >= 254, green, blue) == (True, 0, 0)


def gray16(value: int) -> np.ndarray:
    return np.full((40, 40), value, np.uint16)


def color16(*values: int) -> bytes:
    """A PNG of one color with 16 bits per channel."""
    return png(40, 40, bits=16, data=zlib.compress((b"\0" + struct.pack(">HHH", *values) * 40) * 40))


@pytest.mark.parametrize(("value", "expected"), [(65535, 255), (32768, 128), (25828, 100), (25829, 101), (257, 1), (0, 0)])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_gray_of_16_bits_is_scaled_and_rounded(encode, format, value, expected):
    assert center(encode(gray16(value), format), sample_bits=16) == [expected] * 3


@pytest.mark.parametrize(
    ("bits", "value", "expected"),
    [(8, 100, 100), (10, 1023, 255), (12, 4095, 255), (12, 2048, 128), (12, 512, 32), (14, 16383, 255)],
)
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_gray_is_divided_by_the_largest_value_of_the_training_images_bits(encode, format, bits, value, expected):
    assert center(encode(gray16(value), format), sample_bits=bits) == [expected] * 3


@pytest.mark.parametrize(
    ("value", "expected"), [(255, 255), (256, 64), (1023, 255), (1024, 64), (4095, 255), (4096, 64), (60_000, 233)]
)
def test_without_such_training_images_an_images_own_bits_count(encode, value, expected):
    assert center(encode(gray16(value))) == [expected] * 3


@pytest.mark.parametrize("write", [lambda image, encode: encode(image), lambda image, encode: encode(image, "TIFF")])
def test_a_dark_image_stays_darker_than_a_bright_one(encode, write):
    dark, bright = (center(write(gray16(value), encode), sample_bits=12) for value in (500, 4000))
    assert (dark, bright) == ([31] * 3, [249] * 3)


def test_values_above_the_training_images_bits_are_white_and_noted(encode):
    found = decode(encode(gray16(5000)), preprocessing(sample_bits=12))
    assert (found.pixels == 255).all()
    assert found.notes == ("clipped: values above 4095, the largest of the training images' 12 bits, are white",)


@pytest.mark.parametrize(
    ("bits", "values", "expected"),
    [(16, (65535, 32896, 0), [255, 128, 0]), (12, (4095, 2048, 1), [255, 128, 0]), (10, (1023, 511, 4), [255, 127, 1])],
)
def test_color_of_16_bits_is_scaled(bits, values, expected):
    assert center(color16(*values), sample_bits=bits) == expected
    assert center(color16(*values)) == expected


def test_color_of_12_bits_keeps_its_low_byte():
    assert [center(color16(value, value, value), sample_bits=12)[0] for value in (16, 32, 48)] == [1, 2, 3]


def test_16_bit_color_with_transparency_is_not_scaled():
    row = b"\0" + struct.pack(">HHHH", 4095, 2048, 256, 65535) * 40
    assert center(png(40, 40, bits=16, color=6, data=zlib.compress(row * 40)), sample_bits=12) == [15, 8, 1]


def test_12_bit_tiff_is_scaled_by_its_12_bits_whatever_the_training_images_were():
    pixels = struct.pack("<BBB", 0x80, 0x08, 0x00) * 800  # pairs of 0x800
    content = gray_tiff(bits=12, data=pixels)
    assert [center(content, bits) for bits in (None, 12, 16)] == [[128] * 3] * 3


@pytest.mark.parametrize(("bits", "white", "expected"), [(8, b"\0", 255), (16, b"\0\0", 255), (16, b"\xff\xff", 0)])
def test_tiff_in_which_zero_is_white_is_inverted(bits, white, expected):
    content = gray_tiff(bits=bits, data=white * 1600).replace(
        struct.pack("<HHII", 262, 3, 1, 1), struct.pack("<HHII", 262, 3, 1, 0)
    )
    assert center(content, sample_bits=16) == [expected] * 3


@pytest.mark.parametrize(
    "settings", [{}, *({"compression": name} for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd"))]
)
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16"])
def test_a_tiff_has_the_pixels_of_the_png(encode, photo, mode, settings):
    image = Image.fromarray(photo[:, :, 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(photo).convert(mode)
    lossless = image.convert("RGB") if mode == "CMYK" else image
    assert np.array_equal(
        decode(encode(image, "TIFF", **settings), preprocessing()).pixels, decode(encode(lossless), preprocessing()).pixels
    )


@pytest.mark.parametrize("format", ["TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(encode, photo, format, orientation):
    upright = decode(encode(photo), preprocessing())
    turned = decode(encode(rotated_file(photo, orientation), format, exif=exif(orientation)), preprocessing())
    assert (turned.width, turned.height) == (80, 60)
    assert max_difference(turned.pixels, upright.pixels) <= (12 if format == "AVIF" else 0)


def test_the_first_page_of_a_tiff_is_used_and_noted(encode, photo):
    pages = encode(photo, "TIFF", save_all=True, append_images=[Image.fromarray(255 - photo)])
    found = decode(pages, preprocessing())
    assert np.array_equal(found.pixels, decode(encode(photo), preprocessing()).pixels)
    assert found.notes == ("several pages: first page used",)


def test_the_first_frame_of_an_avif_is_used_and_noted(encode, photo):
    frames = encode(photo, "AVIF", save_all=True, append_images=[Image.fromarray(255 - photo)])
    found = decode(frames, preprocessing())
    assert max_difference(found.pixels, decode(encode(photo), preprocessing()).pixels) <= 30
    assert found.notes == ("animated: first frame used",)


def test_heic_is_read(encode, photo):
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed; its wheels have GPL parts")
    pillow_heif.register_heif_opener()
    found = decode(encode(photo, "HEIF", quality=95), preprocessing())
    assert (found.width, found.height, found.format, found.notes) == (80, 60, "HEIF", ())
    assert max_difference(found.pixels, decode(encode(photo), preprocessing()).pixels) <= 12


def test_preview_has_the_bits_in_use(encode):
    images = gray16(65_535), gray16(4_000), gray16(900), np.zeros((40, 40), np.uint8)
    assert [load_preview(encode(image), 8).used_bits for image in images] == [16, 12, 10, 0]
    assert [load_preview(encoded, 8).used_bits for encoded in (color16(0, 0, 4095), color16(0, 5000, 0))] == [12, 14]


@pytest.mark.parametrize("sizes", [(12, 12), (16, 12), (36, 32), (33, 31)])
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(encode, photo, orientation, fit, sizes):
    upright = decode(encode(photo), preprocessing(fit, *sizes))
    turned = decode(encode(rotated_file(photo, orientation), exif=exif(orientation)), preprocessing(fit, *sizes))
    assert max_difference(turned.pixels, upright.pixels) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("format", "settings"), [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 95})])
def test_the_reported_size_is_upright(encode, photo, orientation, format, settings):
    found = decode(encode(rotated_file(photo, orientation), format, exif=exif(orientation), **settings), preprocessing())
    assert (found.width, found.height, found.format) == (80, 60, format)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_a_large_photo_is_applied(encode, photo, orientation):
    scene = np.asarray(Image.fromarray(photo).resize((800, 600), Image.Resampling.BICUBIC))
    upright = decode(encode(scene, "JPEG", quality=95), preprocessing())
    turned = decode(encode(rotated_file(scene, orientation), "JPEG", quality=95, exif=exif(orientation)), preprocessing())
    assert max_difference(turned.pixels, upright.pixels) <= 4  # JPEG compression loss


@pytest.mark.parametrize("orientation", [0, 9, 99])
def test_an_invalid_orientation_counts_as_upright(encode, photo, orientation):
    found = decode(encode(photo, exif=exif(orientation)), preprocessing())
    assert np.array_equal(found.pixels, decode(encode(photo), preprocessing()).pixels)


@pytest.mark.parametrize("notes", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0", b"\xff" * 40])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_counts_as_upright(encode, photo, format, notes):
    found = decode(encode(photo, format, exif=notes), preprocessing())
    assert np.array_equal(found.pixels, decode(encode(photo, format), preprocessing()).pixels)


def test_crop_is_centered(encode):
    """A red frame of 10 pixels around 60x60 green pixels: resize 40 and crop 30 remove exactly the frame."""
    scene = np.full((80, 80, 3), (255, 0, 0), np.uint8)
    scene[10:70, 10:70] = (0, 255, 0)
    pixels = decode(encode(scene), preprocessing("crop", 40, 30)).pixels
    assert (pixels[2:-2, 2:-2] == (0, 255, 0)).all()


def test_crop_removes_the_ends_of_the_longer_side(encode):
    scene = np.full((40, 120, 3), (0, 255, 0), np.uint8)
    scene[:, :30], scene[:, -30:] = (255, 0, 0), (0, 0, 255)
    assert (decode(encode(scene), preprocessing("crop", 40, 40)).pixels == (0, 255, 0)).all()


def test_a_crop_as_large_as_the_image_changes_nothing(encode, photo):
    square = photo[:, 10:70]
    assert np.array_equal(decode(encode(square), preprocessing("crop", 60, 60)).pixels, square)


def test_squash_keeps_the_whole_image(encode):
    pixels = decode(encode(corners()), preprocessing("squash")).pixels
    assert [pixels[y, x].tolist() for y in (0, -1) for x in (0, -1)] == CORNERS


def test_letterbox_keeps_the_whole_image_and_pads_with_white(encode):
    pixels = decode(encode(corners()), preprocessing("letterbox")).pixels
    assert (pixels[:8] == 255).all()
    assert (pixels[-8:] == 255).all()
    assert [pixels[y, x].tolist() for y in (8, -9) for x in (0, -1)] == CORNERS


CORNERS = [[200, 0, 0], [0, 200, 0], [0, 0, 200], [200, 200, 0]]


def corners() -> np.ndarray:
    """Four uniform quadrants of 40x20 pixels."""
    return np.array(CORNERS, np.uint8).reshape(2, 2, 3).repeat(20, axis=0).repeat(40, axis=1)


@pytest.mark.parametrize("fit", FITS)
def test_pixels_are_a_square_of_bytes(encode, photo, fit):
    pixels = decode(encode(photo), preprocessing(fit, 37, 31)).pixels
    assert (pixels.shape, pixels.dtype) == ((31, 31, 3), np.uint8)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("format", "settings"), [("BMP", {}), ("WEBP", {"lossless": True}), ("PNG", {"compress_level": 0})])
def test_lossless_formats_give_equal_pixels(encode, photo, fit, format, settings):
    expected = decode(encode(photo), preprocessing(fit)).pixels
    assert np.array_equal(decode(encode(photo, format, **settings), preprocessing(fit)).pixels, expected)


@pytest.mark.parametrize("fit", FITS)
def test_jpeg_draft_mode_stays_close_to_full_decoding(encode, photo, fit):
    scene = np.asarray(Image.fromarray(photo).resize((801, 603), Image.Resampling.BICUBIC))
    encoded = encode(scene, "JPEG", quality=95)
    long_way = decode(encode(Image.open(io.BytesIO(encoded)).convert("RGB")), preprocessing(fit)).pixels
    assert np.abs(decode(encoded, preprocessing(fit)).pixels.astype(int) - long_way).mean() < 2


def test_an_empty_file_is_an_empty_image():
    assert image_error(b"").code == "empty_image"


@pytest.mark.parametrize(
    "encoded",
    [
        b"hello, this is no picture",
        b"<html><img src=x></html>",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"PK\x03\x04" + bytes(30),
        b"\x80\x04\x95\x05\0\0\0\0\0\0\0\x8c\x01a\x94.",
        b"8BPS\0\x01" + bytes(30),
        b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(30),
        b"P6 1 1 255\n\0\0\0",
        b"\0",
    ],
)
def test_other_file_types_are_unsupported(encoded):
    assert image_error(encoded).code == "unsupported_format"


@pytest.mark.parametrize("format", ["ICO", "TGA", "PPM", "DDS", "PCX"])
def test_other_image_formats_are_unsupported(encode, photo, format):
    assert image_error(encode(photo, format)).code == "unsupported_format"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_truncated_file_is_corrupt(encode, noise, format, share):
    encoded = encode(noise, format)
    assert image_error(encoded[: int(share * len(encoded))]).code == "corrupt_image"


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_truncated_in_its_header_is_corrupt(encode, noise, format):
    assert image_error(encode(noise, format)[:20]).code == "corrupt_image"


@pytest.mark.parametrize("read", [decode, decode_resized])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_flipped_byte_in_png_data_is_corrupt(encode, photo, read, share):
    encoded = bytearray(encode(photo))
    begin, end = encoded.index(b"IDAT") + 6, encoded.index(b"IEND") - 12
    encoded[begin + int(share * (end - begin))] ^= 0x10
    with pytest.raises(ImageError) as caught:
        read(bytes(encoded), preprocessing())
    assert caught.value.code == "corrupt_image"


@pytest.mark.parametrize("encoded", [png(0, 0), png(0, 5), b"GIF89a" + bytes(6) + b"\0;", b"GIF89a" + bytes(6) + b"\0"])
def test_an_image_without_pixels_is_corrupt(encoded):
    assert image_error(encoded).code == "corrupt_image"


def test_a_zero_sized_gif_with_a_frame_is_corrupt():
    frame = b"," + bytes(8) + b"\0" + b"\x02\x02\x44\x01\0;"
    assert image_error(b"GIF89a" + bytes(6) + b"\0" + frame).code == "corrupt_image"


def test_a_decompression_bomb_is_rejected_by_its_header():
    error = image_error(png(60_000, 60_000))
    assert (error.code, error.limit) == ("image_too_large", "max_pixels")


def test_a_tiny_webp_that_declares_a_huge_size_is_too_large():
    size = struct.pack("<I", 0x2F | ((11_999 | 11_999 << 14) << 8) & 0xFFFFFFFF)
    lossless = b"VP8L" + struct.pack("<I", 8) + size + bytes([(11_999 | 11_999 << 14) >> 24]) + bytes(3)
    assert image_error(b"RIFF" + struct.pack("<I", 20) + b"WEBP" + lossless).code == "image_too_large"


def test_a_real_decompression_bomb_is_too_large(encode):
    assert image_error(encode(Image.new("1", (12_000, 12_000)))).code == "image_too_large"


@pytest.mark.parametrize("size", [(1, 2000), (2000, 1), (30_000, 1), (51, 1)])
def test_an_extreme_aspect_ratio_is_rejected(encode, size):
    error = image_error(encode(Image.new("L", size)))
    assert (error.code, error.limit) == ("bad_aspect", "max_aspect")


@pytest.mark.parametrize(
    ("limits", "code", "limit"),
    [
        (ImageLimits(max_pixels=4799), "image_too_large", "max_pixels"),
        (ImageLimits(max_side=79), "image_too_large", "max_side"),
        (ImageLimits(max_aspect=1), "bad_aspect", "max_aspect"),
    ],
)
def test_an_exceeded_limit_is_named(encode, photo, limits, code, limit):
    error = image_error(encode(photo), limits)
    assert (error.code, error.limit) == (code, limit)


def test_an_image_exactly_at_the_limits_is_accepted(encode, photo):
    assert decode(encode(photo), preprocessing(), ImageLimits(max_pixels=4800, max_side=80, max_aspect=2)).width == 80


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_used(encode, format):
    frames = [Image.new("RGB", (40, 40), color) for color in ("#c80000", "#00c800", "#0000c8")]
    found = decode(encode(frames[0], format, save_all=True, append_images=frames[1:], lossless=True), preprocessing())
    assert max_difference(found.pixels, np.array([200, 0, 0])) <= 1
    assert found.notes == ("animated: first frame used",)


@pytest.mark.parametrize("fit", FITS)
def test_a_single_pixel_fills_the_square_with_a_note(encode, fit):
    found = decode(encode(np.array([[[10, 200, 30]]], np.uint8)), preprocessing(fit))
    assert (found.pixels == (10, 200, 30)).all()
    assert found.notes == ("tiny: fewer than 16 pixels on a side",)


def test_an_ordinary_image_has_no_notes(encode, photo):
    assert decode(encode(photo), preprocessing()).notes == ()


@pytest.mark.parametrize("format", FORMATS)
def test_trailing_bytes_change_nothing(encode, photo, format):
    encoded = encode(photo, format)
    found = decode(encoded + b"<script>alert(1)</script>PK\x03\x04", preprocessing())
    assert np.array_equal(found.pixels, decode(encoded, preprocessing()).pixels)


def test_a_color_profile_changes_nothing(encode, photo):
    found = decode(encode(photo, icc_profile=b"no profile at all"), preprocessing())
    assert np.array_equal(found.pixels, decode(encode(photo), preprocessing()).pixels)


@pytest.mark.parametrize("format", FORMATS)
def test_random_damage_gives_an_image_or_an_image_error(encode, photo, format):
    seed = 20260101
    dice, whole = np.random.default_rng(seed), encode(photo, format)
    for number in range(200):
        damaged = bytearray(whole)
        # Damage the header more often: it has more failure modes than the pixels.
        for place in dice.integers(0, min(len(whole), dice.choice([60, 300, len(whole)])), 2):
            damaged[place] = dice.integers(0, 256)
        try:
            found = decode(bytes(damaged), preprocessing(), ImageLimits(max_pixels=1_000_000)).pixels.shape
        except ImageError:
            continue
        assert found == (32, 32, 3), f"seed {seed}, {format}, damage {number}"


@pytest.mark.parametrize("size", [(80, 60), (60, 80), (37, 36), (36, 36), (20, 30), (1, 1), (7, 301), (801, 603)])
def test_decode_resized_scales_the_shorter_side_to_resize(encode, size):
    small = decode_resized(encode(Image.new("RGB", size), "JPEG"), preprocessing())
    assert (min(small.shape[:2]), small.shape[2], small.dtype) == (36, 3, np.uint8)


def test_decode_resized_keeps_the_aspect_ratio(encode, photo):
    assert decode_resized(encode(photo), preprocessing()).shape == (36, 48, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_resized_applies_the_orientation(encode, photo, orientation):
    turned = decode_resized(encode(rotated_file(photo, orientation), exif=exif(orientation)), preprocessing())
    assert max_difference(turned, decode_resized(encode(photo), preprocessing())) <= 1


def test_decode_resized_composites_on_white(encode):
    assert (decode_resized(encode(Image.new("RGBA", (40, 40), (1, 2, 3, 0))), preprocessing()) == 255).all()


def test_decode_resized_rejects_damaged_files(encode, noise):
    with pytest.raises(ImageError, match="truncated"):
        decode_resized(encode(noise)[:10_000], preprocessing())


def test_image_size_is_that_of_the_header(encode, photo):
    assert image_size(encode(rotated_file(photo, 6), exif=exif(6))) == (60, 80)


def test_image_size_does_not_decode_pixels():
    assert image_size(png(300, 200)) == (300, 200)


def test_image_size_rejects_a_decompression_bomb():
    with pytest.raises(ImageError, match="60000x60000"):
        image_size(png(60_000, 60_000))

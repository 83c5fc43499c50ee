"""Hostile and unusual image files with their expected status and code: rows 1 to 67 of BAD-INPUTS.

All files are generated from a fixed seed; nothing is downloaded, and the repository contains no binary files.
"""

import functools
import struct
import zlib
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from handmade_files import (
    EOI,
    SOI,
    avif,
    bmp,
    box,
    chunk,
    compressed_zeros,
    encode_image,
    exif,
    frame,
    gif,
    gif_frame,
    gray_png,
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
from PIL import Image

ACCEPTED = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
SWITCHED_OFF = ("TIFF", "AVIF")  # in a service whose training images had other formats


@dataclass(frozen=True)
class Case:
    """A file with the expected status and problem code of a service; the code is None if the file is accepted.

    Attributes:
        decode_code: the expected code where all formats are accepted, as in training.
    """

    content: bytes
    status: int
    code: str | None
    decode_code: str | None


def accepted(content: bytes) -> Case:
    return Case(content, 200, None, None)


def rejected(content: bytes, status: int, code: str) -> Case:
    return Case(content, status, code, code)


def corrupt(content: bytes) -> Case:
    return rejected(content, 422, "corrupt_image")


def unsupported(content: bytes) -> Case:
    return rejected(content, 415, "unsupported_format")


def unsupported_mode(content: bytes) -> Case:
    return rejected(content, 422, "unsupported_mode")


def too_large(content: bytes) -> Case:
    return rejected(content, 413, "image_too_large")


def bad_aspect(content: bytes) -> Case:
    return rejected(content, 422, "bad_aspect")


def too_many_scans(content: bytes) -> Case:
    return rejected(content, 422, "too_many_scans")


def switched_off(case: Case) -> Case:
    """A file in a format that a service does not accept by default."""
    return Case(case.content, 415, "unsupported_format", case.decode_code)


@functools.cache
def corpus() -> dict[str, Case]:
    """All files by name."""
    return (
        {"empty": rejected(b"", 422, "empty_image")}
        | _truncated()
        | _modified()
        | _unsupported_types()
        | _tiffs()
        | _heif_boxes()
        | _bombs()
        | _jpeg_scans()
        | _malformed()
        | _unusual_but_valid()
    )


def _noise(channels: int = 3) -> np.ndarray:
    """Incompressible noise, so that every part of the file matters: uint8 (60, 80, channels)."""
    return np.random.default_rng(20260101).integers(0, 256, (60, 80, channels), dtype=np.uint8)


def _scene() -> np.ndarray:
    rows, columns = np.mgrid[0:60, 0:80]
    return np.stack([rows * 4, columns * 3, 255 - rows * 2 - columns], axis=-1).astype(np.uint8)


def _truncated() -> dict[str, Case]:
    """Rows 2 to 23: truncated files."""
    encoded_images = {format: encode_image(_noise(), format) for format in (*ACCEPTED, *SWITCHED_OFF)}
    magic = {"JPEG": 2, "PNG": 7, "WEBP": 11, "GIF": 5, "BMP": 1}
    cases = {f"{format} cut in its magic": unsupported(encoded_images[format][:end]) for format, end in magic.items()}
    for format, encoded in encoded_images.items():
        for name, end in {"cut in its header": 20, "cut in half": len(encoded) // 2}.items():
            case = corrupt(encoded[:end])
            cases[f"{format} {name}"] = case if format in ACCEPTED else switched_off(case)
        case = corrupt(encoded[: len(encoded) * 19 // 20])
        cases[f"{format} without its last twentieth"] = case if format in ACCEPTED else switched_off(case)
    photo = encoded_images["JPEG"]
    size_offset = photo.index(b"\xff\xc0") + 5
    return cases | {
        "JPEG of nothing but its magic": corrupt(photo[:3]),
        "JPEG cut and closed": accepted(photo[: len(photo) // 2] + EOI),
        "JPEG that claims more rows than it has": accepted(
            photo[:size_offset] + struct.pack(">H", 90) + photo[size_offset + 2 :]
        ),
        "JPEG without an end": corrupt(photo[:-2]),
    }


def _flipped(encoded: bytes, fraction: float) -> bytes:
    offset = int(fraction * len(encoded))
    return encoded[:offset] + bytes([encoded[offset] ^ 0x10]) + encoded[offset + 1 :]


def _modified() -> dict[str, Case]:
    """Rows 24 and 28: flipped bytes, and polyglot files."""
    encoded_images = {format: encode_image(_noise(), format) for format in ACCEPTED}
    page, archive = b"<script>alert(1)</script>", b"PK\x03\x04" + bytes(40)
    cases = {f"{format} that is also a web page": accepted(encoded + page) for format, encoded in encoded_images.items()}
    cases |= {f"{format} that is also a ZIP": accepted(encoded + archive) for format, encoded in encoded_images.items()}
    return cases | {
        "PNG with a flipped byte": corrupt(_flipped(encoded_images["PNG"], 0.5)),
        "PNG with a flipped byte in its header": corrupt(_flipped(encoded_images["PNG"], 30 / len(encoded_images["PNG"]))),
        "JPEG with a flipped byte": accepted(_flipped(encoded_images["JPEG"], 0.5)),
        "BMP with a flipped byte": accepted(_flipped(encoded_images["BMP"], 0.5)),
        "PNG with PHP in its text": accepted(gray_png(40, 40, chunk(b"tEXt", b"Comment\0<?php system($_GET[0]); ?>"))),
    }


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
XXE = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY y SYSTEM "file:///etc/passwd">]>' + SVG.replace(b"/>", b">&y;</svg>")
PICKLE = b"\x80\x04\x95\x05\0\0\0\0\0\0\0\x8c\x01a\x94."


def _unsupported_types() -> dict[str, Case]:
    """Rows 25 to 27, 40, 64 and 65: unsupported file types, which must never be parsed."""
    scene = Image.fromarray(_scene())
    other_formats = {
        format: encode_image(scene, format) for format in ("ICO", "TGA", "PPM", "DDS", "PCX", "JPEG2000", "EPS", "PDF")
    }
    texts = {
        "text": b"hello, this is not an image",
        "one zero": b"\0",
        "text that begins like a BMP": b"BMW makes cars, and this is no picture of one",
        "web page": b"<!DOCTYPE html><html><body><img src=x></body></html>",
        "ZIP": b"PK\x03\x04" + bytes(30),
        "gzip": b"\x1f\x8b\x08" + bytes(30),
        "pickle": PICKLE,
        "SVG": SVG,
        "SVG with an external entity": XXE,
        "PSD": b"8BPS\0\x01" + bytes(30),
        "PostScript with a DOS preview": b"\xc5\xd0\xd3\xc6" + bytes(30),
        "PostScript that would run a command": b"%!PS\n(%pipe%touch /tmp/graft-was-here) (w) file\n",
        "WMF": b"\xd7\xcd\xc6\x9a" + bytes(30),
        "EMF": b"\1\0\0\0" + bytes(36) + b" EMF" + bytes(40),
        "XBM": b"#define a_width 8\n#define a_height 1\nstatic char a_bits[] = {0};",
        "JPEG 2000 codestream": b"\xff\x4f\xff\x51" + bytes(30),
        "JPEG XL": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(30),
        "JPEG XL codestream": b"\xff\x0a" + bytes(30),
        "ICNS": b"icns" + bytes(30),
        "QOI": b"qoif" + bytes(30),
        "WAV": b"RIFF" + bytes(4) + b"WAVEfmt " + bytes(30),
        "AVI": b"RIFF" + bytes(4) + b"AVI LIST" + bytes(30),
        "URL": b"http://169.254.169.254/latest/meta-data/",
    }
    cases = other_formats | texts
    cases |= {f"box of brand {brand.strip()}": isobmff(brand.encode()) for brand in ("mp42", "qt  ", "crx ", "M4A ")}
    return {name: unsupported(content) for name, content in cases.items()}


def _tiffs() -> dict[str, Case]:
    """Rows 34, 40, 45 and 49: TIFF is a container of many layouts, and its tags can point anywhere."""
    scene = Image.fromarray(_scene())
    strips = [(256, 4, 1, 40), (257, 4, 1, 40), (273, 4, 1, 8), (279, 4, 1, 1)]
    rgb_jpeg = [
        (256, 4, 1, 40),
        (257, 4, 1, 40),
        (259, 3, 1, 7),
        (262, 3, 1, 1),
        (273, 4, 1, 98),
        (277, 3, 1, 1),
        (278, 4, 1, 40),
    ]
    big_jpeg, many_scans = jpeg(frame(60_000, 60_000), scan()), progressive(40, 40, 20_000)
    lab, pages = encode_image(scene.convert("RGB").convert("LAB"), "TIFF"), {"save_all": True, "append_images": [scene]}
    cases = {
        "in LAB": unsupported_mode(lab),
        "in YCbCr": accepted(encode_image(scene.convert("YCbCr"), "TIFF")),
        "in CMYK": accepted(encode_image(scene.convert("CMYK"), "TIFF")),
        "of one bit": accepted(encode_image(scene.convert("1"), "TIFF", compression="group4")),
        "of 32-bit integers": unsupported_mode(encode_image(Image.new("I", (40, 40), 70_000), "TIFF")),
        "of floats": unsupported_mode(encode_image(Image.new("F", (40, 40), 0.5), "TIFF")),
        "of several pages": accepted(encode_image(scene, "TIFF", **pages)),
        "bomb": too_large(tiff([(256, 4, 1, 60_000), (257, 4, 1, 60_000), (273, 4, 1, 8), (279, 4, 1, 1)])),
        "of 4 billion squared": too_large(
            tiff([(256, 4, 1, 2**32 - 1), (257, 4, 1, 2**32 - 1), (273, 4, 1, 8), (279, 4, 1, 1)])
        ),
        "with a circular directory": accepted(gray_tiff(following=8)),
        "without pixels": corrupt(tiff([(256, 4, 1, 40), (257, 4, 1, 40)], following=8)),
        "without width": corrupt(tiff(strips[1:])),
        "with two widths": corrupt(tiff([(256, 4, 2, 8), *strips[1:]])),
        "with its width twice": corrupt(tiff([strips[0], *strips])),
        "with a negative width": corrupt(tiff([(256, 9, 1, 2**32 - 40), *strips[1:]])),
        "with 65,535 tags": corrupt(b"II*\0\x08\0\0\0\xff\xff" + struct.pack("<HHII", 270, 2, 2**20, 0) * 65_535),
        "with tags that all point to the whole file": corrupt(
            gray_tiff(400, 400, *[(n, 7, 160_000, 0) for n in range(300, 320)])
        ),
        "with a billion strips": corrupt(tiff([*strips[:2], (273, 4, 2**30, 8), (279, 4, 2**30, 8)])),
        "with a strip outside the file": corrupt(tiff([*strips[:2], (273, 4, 1, 2**31), (278, 4, 1, 40), (279, 4, 1, 1600)])),
        "with tiles of 2 billion squared": corrupt(
            tiff([*strips[:2], (322, 4, 1, 2**31), (323, 4, 1, 2**31), (324, 4, 1, 8), (325, 4, 1, 9)])
        ),
        "with 60,000 channels": unsupported_mode(tiff([*strips, (277, 3, 1, 60_000)])),
        "with a directory outside the file": corrupt(b"II*\0\xff\xff\xff\xff" + bytes(40)),
        "with a directory far outside the file": corrupt(b"II+\0\x08\0\0\0" + b"\xff" * 8 + bytes(40)),
        "in big-endian BigTIFF": unsupported_mode(b"MM\0+\0\x08\0\0" + bytes(60)),
        "of zeros": corrupt(b"II*\0\x08\0\0\0" + bytes(60)),
        "compressed as nobody does": unsupported_mode(gray_tiff(compression=34_661)),
        "of old JPEG": unsupported_mode(gray_tiff(compression=6)),
        "of a deflate bomb": accepted(gray_tiff(compression=8, data=compressed_zeros(50 * 2**20))),
        "of no LZW": corrupt(gray_tiff(compression=5, data=b"\xff" * 400)),
        "of too few bytes": corrupt(gray_tiff(400, 400, data=bytes(100))),
        "that holds a JPEG of another size": corrupt(tiff([*rgb_jpeg, (279, 4, 1, len(big_jpeg))], data=big_jpeg)),
        "that holds a JPEG with 20,000 scans": corrupt(tiff([*rgb_jpeg, (279, 4, 1, len(many_scans))], data=many_scans)),
        "with a palette of nothing": corrupt(
            tiff([*strips[:2], (258, 3, 1, 8), (262, 3, 1, 3), (273, 4, 1, 8), (279, 4, 1, 1600)])
        ),
        "that is also a web page": accepted(encode_image(scene, "TIFF") + b"<script>alert(1)</script>"),
        "1x2000": bad_aspect(encode_image(Image.new("L", (1, 2000)), "TIFF")),
        "of a sensor": unsupported(gray_tiff(40, 40, (254, 4, 1, 1))),
        "from a Canon camera": unsupported(b"II*\0\x10\0\0\0CR\2\0" + bytes(60)),
    }
    return {f"TIFF {name}": switched_off(case) for name, case in cases.items()}


def _heif_boxes() -> dict[str, Case]:
    """Rows 36 and 64: AVIF and HEIC are boxes in boxes."""
    photo = encode_image(_noise(), "AVIF")
    claims_more = photo.replace(struct.pack(">II", 80, 60), struct.pack(">II", 96, 60))
    cases = {
        "that claims 60000x60000": too_large(avif(ispe(60_000, 60_000))),
        "that claims 4 billion squared": too_large(avif(ispe(2**32 - 1, 2**32 - 1))),
        "without width": corrupt(avif(ispe(0, 40))),
        "without pixels": corrupt(avif(ispe(40, 40))),
        "without a size": corrupt(avif(box(b"pixi", bytes(8)))),
        "without properties": corrupt(avif()),
        "of another item": corrupt(avif(ispe(40, 40), item=b"\0\7")),
        "with 4 billion items": corrupt(avif(ispe(40, 40), item=b"\0\7", n_entries=2**32 - 1)),
        "of nothing but its brand": corrupt(isobmff(b"avif")),
        "sequence of nothing but its brand": corrupt(isobmff(b"avis")),
        "that calls itself mif1": corrupt(isobmff(b"mif1", b"mif1", b"avif")),
        "with a box of one byte": corrupt(isobmff(b"avif")[:16] + b"\0\0\0\1meta" + bytes(40)),
        "with a box larger than the file": corrupt(box(b"ftyp", b"avif", bytes(4)) + b"\0\0\0\1meta" + b"\x7f" + bytes(40)),
        "with a million boxes": corrupt(box(b"ftyp", b"avif", bytes(4)) + box(b"free") * 1_000_000),
        "that claims more columns than it has": accepted(claims_more),  # libavif stretches it
    }
    boxes = {f"AVIF {name}": switched_off(case) for name, case in cases.items()}
    heic = switched_off if find_spec("pillow_heif") else lambda case: unsupported(case.content)
    brands = ("heic", "heix", "hevc", "mif1", "msf1")
    return boxes | {f"HEIC of nothing but the brand {brand}": heic(corrupt(isobmff(brand.encode()))) for brand in brands}


def _bombs() -> dict[str, Case]:
    """Rows 29 to 38 and 59 to 63: decompression bombs, and files that claim huge or zero sizes."""
    bomb = compressed_zeros(8 * 2**20)
    return {
        "PNG of 400 million zeros": too_large(gray_png(20_000, 20_000)),
        "PNG that claims 60000x60000": too_large(gray_png(60_000, 60_000, data=b"")),
        "PNG that claims 13000x13000": too_large(gray_png(13_000, 13_000, data=b"")),
        "PNG that claims 4 billion squared": too_large(gray_png(2**32 - 1, 2**32 - 1, data=b"")),
        "PNG just over the limit": too_large(gray_png(8_001, 8_000, data=b"")),
        "PNG over the side's limit": too_large(gray_png(16_385, 400, data=b"")),
        "JPEG that claims 65500x65500": too_large(jpeg(frame(65_500, 65_500), scan())),
        "GIF with a screen of 65535x65535": too_large(gif(65_535, 65_535, gif_frame(1, 1))),
        "GIF with its first frame outside the canvas": too_large(gif(9, 9, gif_frame(65_535, 65_535, 65_535, 65_535))),
        "GIF with a disposal method in its first frame": too_large(
            gif(9, 9, b"!\xf9\4\x08\0\0\0\0", gif_frame(65_535, 65_535))
        ),
        "WebP of 34 bytes that claims 12000x12000": too_large(webp((b"VP8L", vp8l(12_000, 12_000)))),
        "WebP with a canvas of 16 million squared": too_large(webp((b"VP8X", vp8x(2**24, 2**24)))),
        "WebP that claims 16383x16383": too_large(webp((b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + b"\xff\x3f" * 2 + bytes(9)))),
        "BMP that claims 100000x100000": too_large(bmp(100_000, 100_000)),
        "top-down BMP that claims 100000x100000": too_large(bmp(100_000, -100_000)),
        "BMP of a negative width": too_large(bmp(-40, 40)),
        "BMP of OS/2 that claims 65535x65535": too_large(os2_bmp(65_535, 65_535)),
        "PNG with 8 MB of text in 8 KB": corrupt(gray_png(40, 40, chunk(b"zTXt", b"Comment\0\0" + bomb))),
        "PNG with 8 MB of Unicode in 8 KB": corrupt(gray_png(40, 40, chunk(b"iTXt", b"Comment\0\1\0\0\0" + bomb))),
        "PNG with 8 MB of profile in 8 KB": corrupt(gray_png(40, 40, chunk(b"iCCP", b"ICC\0\0" + bomb))),
        "PNG with ever more text": corrupt(gray_png(40, 40, chunk(b"zTXt", b"a\0\0" + compressed_zeros(2**20 - 9)) * 80)),
        "PNG that unpacks to more than it claims": accepted(gray_png(40, 40, data=compressed_zeros(50 * 2**20))),
        "PNG without width and height": corrupt(gray_png(0, 0, data=b"")),
        "PNG without width": corrupt(gray_png(0, 5, data=b"")),
        "JPEG without width and height": corrupt(jpeg(frame(0, 0), scan())),
        "JPEG with its height in a later segment": corrupt(jpeg(frame(40, 0), scan(), segment(0xDC, b"\0\x28"))),
        "GIF without width and height": corrupt(gif(0, 0, gif_frame(5, 5))),
        "GIF without height": corrupt(gif(5, 0, gif_frame(5, 5))),
        "GIF without anything": corrupt(gif(0, 0)),
        "BMP without width and height": corrupt(bmp(0, 0)),
        "WebP without width and height": corrupt(webp((b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + bytes(13)))),
        "1x2000": bad_aspect(encode_image(Image.new("L", (1, 2000)))),
        "2000x1": bad_aspect(encode_image(Image.new("L", (2000, 1)))),
        "30000x1": bad_aspect(encode_image(Image.new("L", (30_000, 1)))),
        "51x1": bad_aspect(encode_image(Image.new("L", (51, 1)))),
        "50x1": accepted(encode_image(Image.new("L", (50, 1)))),
    }


def _jpeg_scans() -> dict[str, Case]:
    """Row 37: JPEGs with many scans, and files that only seem to have many."""
    photo, smooth = encode_image(_noise(), "JPEG"), encode_image(_scene(), "JPEG", progressive=True)
    many = scan() * 200
    thumbnail = segment(0xE1, b"Exif\0\0" + many)
    return {
        "JPEG with 20,000 scans": too_many_scans(progressive(1000, 1000, 20_000)),
        "JPEG with 101 scans": too_many_scans(progressive(40, 40, 101)),
        "JPEG with 100 scans": accepted(progressive(40, 40, 100)),
        "JPEG that hides its scans after a false end marker": too_many_scans(progressive(40, 40, 200, segment(0xFE, EOI))),
        "JPEG that hides its scans after padding": too_many_scans(progressive(40, 40, 200, b"\xff" * 1000)),
        "non-progressive JPEG with 200 scans": too_many_scans(jpeg(frame(40, 40, n_components=3), scan() * 200)),
        "JPEG with scans in its thumbnail": accepted(smooth[:2] + thumbnail + smooth[2:]),
        "JPEG with scans in a comment between its own": accepted(progressive(40, 40, 3, segment(0xFE, many))),
        "JPEG with scans after its end": accepted(smooth + many),
        "JPEG that is complete after its first scan": corrupt(photo[:-2] + many + EOI),
        "JPEG with a million segments": corrupt(SOI + segment(0xFE, b"") * 1_000_000 + photo[2:]),
        "JPEG with a million segments between its scans": corrupt(progressive(40, 40, 3, segment(0xFE, b"") * 1_000_000)),
    }


def _malformed() -> dict[str, Case]:
    """Rows 38 to 42, 58 and more: malformed structures written byte by byte."""
    black = chunk(b"IDAT", compressed_zeros(41 * 40))
    photo, frames_of_two_colors = encode_image(_scene(), "JPEG"), [Image.new("P", (40, 40), number % 2) for number in range(2)]
    control, frame_block = b"!\xf9\4\0\0\0\0\0", gif_frame(1, 1)
    circular_exif = exif((0x8769, 4, 1, 8), (0x0112, 3, 1, 6), following=8)
    return {
        "PNG with 20,000 texts": accepted(gray_png(40, 40, chunk(b"tEXt", b"Comment\0x") * 20_000)),
        "PNG with a million chunks": corrupt(gray_png(40, 40, chunk(b"teXt", b"") * 800_000)),
        "PNG with a million chunks after its pixels": corrupt(gray_png(40, 40)[:-12] + chunk(b"teXt", b"") * 800_000),
        "PNG with two headers, the second of a bomb": corrupt(png(ihdr(40, 40), ihdr(30_000, 30_000), black)),
        "PNG with its header in second place": corrupt(png(chunk(b"tEXt", b"a\0b"), ihdr(40, 40), black)),
        "PNG of an unknown color type": corrupt(png(ihdr(40, 40, color_type=5), black)),
        "PNG of an unknown filter": corrupt(png(ihdr(2, 2), chunk(b"IDAT", zlib.compress(b"\x09\0\0" * 2)))),
        "PNG without pixels": corrupt(png(ihdr(40, 40))),
        "PNG with too few pixels, in good order": accepted(png(ihdr(40, 40), chunk(b"IDAT", compressed_zeros(41 * 20)))),
        "PNG without a zlib stream": corrupt(png(ihdr(40, 40), chunk(b"IDAT", b"not zlib at all"))),
        "PNG with a palette of nothing": corrupt(png(ihdr(40, 40, color_type=3), black)),
        "PNG that claims to be animated": accepted(gray_png(40, 40, chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)))),
        "PNG interlaced": accepted(png(ihdr(1, 1, interlaced=1), chunk(b"IDAT", zlib.compress(b"\0\0")))),
        "JPEG with circular EXIF": accepted(photo[:2] + segment(0xE1, circular_exif) + photo[2:]),
        "JPEG with EXIF that claims a billion entries": accepted(
            photo[:2] + segment(0xE1, exif((0x0112, 3, 2**30, 8))) + photo[2:]
        ),
        "JPEG of 12 bits": corrupt(jpeg(frame(40, 40, 0xC1, bits=12), scan())),
        "JPEG of two components": corrupt(jpeg(frame(40, 40, n_components=2), scan())),
        "JPEG without loss": corrupt(jpeg(frame(40, 40, 0xC3), scan())),
        "JPEG with two frames": corrupt(jpeg(frame(40, 40), frame(50, 50), scan())),
        "JPEG without tables": corrupt(SOI + frame(40, 40) + scan(data=bytes(9)) + EOI),
        "JPEG without pixels": corrupt(jpeg(frame(40, 40))),
        "JPEG without a frame": corrupt(jpeg(scan())),
        "GIF of 10,000 frames": accepted(gif(40, 40, control, frame_block, (control + frame_block) * 9_999)),
        "GIF with a later frame larger than the first": accepted(gif(40, 40, frame_block, gif_frame(60_000, 60_000))),
        "GIF without a frame": corrupt(gif(40, 40)),
        "GIF with a million empty extensions": corrupt(gif(40, 40, b"!\xfe\0" * 1_000_000, frame_block)),
        "GIF with an extension of a million blocks": corrupt(gif(40, 40, b"!\xfe" + b"\1x" * 1_000_000 + b"\0", frame_block)),
        "GIF of impossible codes": corrupt(gif(40, 40, gif_frame(40, 40, data=b"\x0d\2\xff\xff\0"))),
        "WebP with a canvas of another size than its image": corrupt(webp((b"VP8X", vp8x(40, 40)), (b"VP8L", vp8l(80, 80)))),
        "WebP of nothing but a canvas": corrupt(webp((b"VP8X", vp8x(40, 40)))),
        "WebP that claims to be animated": corrupt(webp((b"VP8X", vp8x(40, 40, 2)), (b"ANIM", bytes(6)))),
        "WebP of an unknown chunk": corrupt(webp((b"JUNK", bytes(40)))),
        "BMP that holds a PNG": corrupt(bmp(40, 40, compression=5, data=encode_image(frames_of_two_colors[0]))),
        "BMP of too few bytes": corrupt(bmp(4000, 4000, data=bytes(100))),
        "BMP with a palette of 4 billion": corrupt(bmp(40, 40, bits=8, n_colors=2**32 - 1)),
        "BMP of run lengths that jump ahead": accepted(
            bmp(40, 40, bits=8, compression=1, n_colors=2, data=b"\0\2\xff\xff" * 99)
        ),
    }


TRANSPOSE_BY_ORIENTATION = {
    1: None,
    2: 0,
    3: 3,
    4: 1,
    5: 5,
    6: 2,
    7: 6,
    8: 4,
}  # Image.Transpose of the stored image, by EXIF orientation


def _unusual_but_valid() -> dict[str, Case]:
    """Rows 41 to 48, 50 to 60 and 66: unusual but valid files."""
    scene = Image.fromarray(_scene())
    alpha = np.concatenate([_scene(), np.zeros((60, 80, 1), np.uint8)], axis=-1)
    gray16 = np.arange(4800, dtype=np.uint16).reshape(60, 80) * 13
    cmyk = encode_image(scene.convert("CMYK"), "JPEG")
    adobe = cmyk.index(b"Adobe") + 11
    profile = bytes(2**23)
    animation = [scene, Image.eval(scene, lambda value: 255 - value)]
    cases = {
        "CMYK": cmyk,
        "YCCK": cmyk[:adobe] + b"\2" + cmyk[adobe + 1 :],
        "CMYK that is red": encode_image(Image.new("CMYK", (40, 40), (0, 255, 255, 0)), "JPEG"),
        "16-bit gray": encode_image(gray16),
        "16-bit color": png(ihdr(40, 40, 16, 2), chunk(b"IDAT", compressed_zeros(241 * 40))),
        "16-bit gray with alpha": png(ihdr(40, 40, 16, 4), chunk(b"IDAT", compressed_zeros(161 * 40))),
        "16-bit color with alpha": png(ihdr(40, 40, 16, 6), chunk(b"IDAT", compressed_zeros(321 * 40))),
        "palette of 2 colors": png(
            ihdr(40, 40, 1, 3), chunk(b"PLTE", b"\xff\0\0\0\xff\0"), chunk(b"IDAT", compressed_zeros(240))
        ),
        "palette with transparency": encode_image(scene.quantize(16), transparency=bytes(range(0, 256, 16))),
        "GIF with transparency": encode_image(scene.quantize(16), "GIF", transparency=3),
        "color with transparency": encode_image(Image.new("RGB", (40, 40), (9, 8, 7)), transparency=(9, 8, 7)),
        "gray with transparency": encode_image(Image.new("L", (40, 40), 77), transparency=77),
        "invisible PNG": encode_image(alpha),
        "invisible WebP": encode_image(alpha, "WEBP", lossless=True),
        "invisible GIF": encode_image(Image.new("P", (40, 40), 1), "GIF", transparency=1),
        "progressive JPEG": encode_image(scene, "JPEG", progressive=True),
        "lossy WebP": encode_image(scene, "WEBP", quality=50),
        "top-down BMP": bmp(40, -40, data=bytes(4800)),
        "BMP of OS/2": os2_bmp(40, 40, data=bytes(4800)),
        "PNG with a profile of garbage": encode_image(scene, icc_profile=b"not a profile"),
        "JPEG with a profile of 8 MB": encode_image(scene, "JPEG", icc_profile=profile),
        "several JPEGs in one": encode_image(scene, "MPO", save_all=True, append_images=animation[1:]),
    }
    for mode in ("1", "L", "LA", "P"):
        cases[f"PNG of mode {mode}"] = encode_image(scene.convert(mode))
    for format in ACCEPTED:
        cases[f"{format} of one pixel"] = encode_image(scene.crop((0, 0, 1, 1)), format)
    for format in ("GIF", "WEBP", "PNG"):
        cases[f"animated {format}"] = encode_image(animation[0], format, save_all=True, append_images=animation[1:])
    return {name: accepted(content) for name, content in (cases | _exif_orientations(scene)).items()}


def _exif_orientations(scene: Image.Image) -> dict[str, bytes]:
    cases = {}
    for orientation, transpose in TRANSPOSE_BY_ORIENTATION.items():
        stored = scene if transpose is None else scene.transpose(Image.Transpose(transpose))
        for format in ("JPEG", "PNG", "WEBP"):
            exif_bytes = exif((0x0112, 3, 1, orientation))
            cases[f"{format} of orientation {orientation}"] = encode_image(stored, format, exif=exif_bytes)
    for orientation in (0, 9, 99, 65_535):
        cases[f"JPEG of orientation {orientation}"] = encode_image(scene, "JPEG", exif=exif((0x0112, 3, 1, orientation)))
    broken_exif = {"garbage": b"Exif\0\0garbage", "nothing": b"Exif\0\0", "a far directory": b"Exif\0\0II*\0\xff\xff\xff\xff"}
    for name, exif_bytes in broken_exif.items():
        for format in ("JPEG", "PNG", "WEBP"):
            cases[f"{format} with EXIF of {name}"] = encode_image(scene, format, exif=exif_bytes)
    return cases

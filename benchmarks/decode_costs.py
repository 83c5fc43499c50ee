"""What images of each format cost to decode: milliseconds per megapixel, beside the estimate that the service makes.

    .venv/bin/python benchmarks/decode_costs.py [IMAGES.zip] [--rounds 3]

Decodes in this process, on one core, as a decode worker does. The images are a photo of ../shared/data/imagenet-100.zip by
default, noise, and one color, each of 2 and of 12 megapixels, and the files of few bytes that are costly. The last column is
measured / estimated: on another machine the ratios differ from those here by a common factor. A row far above the others
means that `decode_ms` in `graft/service/imaging/formats.py` is too low for that format.
"""

import argparse
import io
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from graft.service.imaging.formats import BY_NAME
from graft.service.imaging.headers import ImageLimits, read_header
from graft.service.imaging.preprocess import decode
from graft.service.manifest import Preprocessing

# First, so that its modules take precedence over those of this folder.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
import handmade_files as handmade

PHOTOS = Path(__file__).parent.parent.parent / "shared" / "data" / "imagenet-100.zip"
PREPROCESSING = Preprocessing(resize=236, crop=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
SIZES = ((1600, 1250), (4000, 3000))
LIMITS = ImageLimits()
ENCODINGS: dict[str, tuple[str, dict[str, object]]] = {
    "JPEG": ("JPEG", {"quality": 90}),
    "JPEG, progressive": ("JPEG", {"quality": 90, "progressive": True}),
    "PNG": ("PNG", {}),
    "WebP": ("WEBP", {"method": 0}),
    "WebP, lossless": ("WEBP", {"method": 0, "lossless": True}),
    "GIF": ("GIF", {}),
    "BMP": ("BMP", {}),
    "TIFF": ("TIFF", {}),
    "TIFF, LZW": ("TIFF", {"compression": "tiff_lzw"}),
    "AVIF": ("AVIF", {"speed": 10}),
    "HEIC": ("HEIF", {}),
}


def first_photo(archive: Path) -> Image.Image:
    with zipfile.ZipFile(archive) as file:
        name = next(name for name in file.namelist() if name.lower().endswith((".jpg", ".jpeg", ".png")))
        return Image.open(io.BytesIO(file.read(name))).convert("RGB")


def contents(photo: Image.Image, size: tuple[int, int]) -> dict[str, Image.Image]:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    resized = photo.resize(size, Image.Resampling.BICUBIC)
    return {"photo": resized, "noise": Image.fromarray(noise), "one color": Image.new("RGB", size, (90, 80, 70))}


def files(photo: Image.Image) -> Iterator[tuple[str, bytes]]:
    for size in SIZES:
        for content, image in contents(photo, size).items():
            for name, (image_format, options) in ENCODINGS.items():
                if BY_NAME[image_format].installed:
                    yield f"{name}, {content}", handmade.encode_image(image, image_format, **options)
    yield from small_files()


def small_files() -> Iterator[tuple[str, bytes]]:
    """Files of few bytes and many pixels."""
    for bits, color_type, n_bytes in ((8, 0, 1), (8, 6, 4), (16, 0, 2), (16, 2, 6)):
        header = handmade.ihdr(2000, 2000, bits, color_type)
        pixels = handmade.chunk(b"IDAT", handmade.compressed_zeros((1 + 2000 * n_bytes) * 2000))
        yield f"PNG, {n_bytes} bytes per pixel", handmade.png(header, pixels)
    for n_scans in (2, 10, 100):
        yield f"JPEG, {n_scans} scans", handmade.progressive(2000, 2000, n_scans)
    yield "JPEG, 10 scans", handmade.progressive(8000, 8000, 10)
    yield "WebP, lossless", handmade.encode_image(Image.new("RGB", (7000, 7000)), "WEBP", lossless=True, method=0)


def decode_ms(encoded: bytes, rounds: int) -> float:
    """The fastest of several rounds, in milliseconds of processor time."""
    times = []
    for _ in range(rounds):
        started = time.process_time()
        decode(encoded, PREPROCESSING, LIMITS)
        times.append(1e3 * (time.process_time() - started))
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("images", type=Path, nargs="?", default=PHOTOS)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print("| file | MP | MiB | ms | ms / MP | estimated ms | measured / estimated |\n|---|---|---|---|---|---|---|")
    for name, encoded in files(first_photo(arguments.images)):
        header, measured = read_header(encoded), decode_ms(encoded, arguments.rounds)
        megapixels, estimated = header.width * header.height / 1e6, estimate_ms(encoded)
        sizes = f"{megapixels:.0f} | {len(encoded) / 2**20:.2f}"
        costs = f"{measured:.0f} | {measured / megapixels:.1f} | {estimated:.0f} | {measured / estimated:.2f}"
        print(f"| {name} | {sizes} | {costs} |", flush=True)


def estimate_ms(encoded: bytes) -> float:
    header = read_header(encoded)
    return BY_NAME[header.format].decode_ms(header, len(encoded), PREPROCESSING.resize)


if __name__ == "__main__":
    main()

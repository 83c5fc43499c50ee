"""Decoding in child processes against a pool of threads: images per second, and what a process costs beside the decoding.

    .venv/bin/python benchmarks/decoders.py [IMAGES.zip] [--workers 2] [--rounds 9]

The images are those of ../shared/data/imagenet-100.zip (photos of 40 KB) unless others are given, and one JPEG of 12
megapixels made of the first of them. In turns, medians, the ratio first: on a shared machine only that means something.
"""

import argparse
import io
import statistics
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image

from graft.service.artifact import Preprocessing
from graft.service.decoding.pool import Decoder
from graft.service.imaging.headers import ImageLimits
from graft.service.imaging.preprocess import Decoded, decode

PHOTOS = Path(__file__).parent.parent.parent / "shared" / "data" / "imagenet-100.zip"
RECIPE = Preprocessing(resize=236, crop=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

Submit = Callable[[bytes], Future[Decoded]]


def photos(archive: Path) -> list[bytes]:
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in opened.namelist() if name.lower().endswith((".jpg", ".jpeg", ".png"))]
        return [opened.read(name) for name in names[:100]]


def enlarged(photo: bytes) -> bytes:
    """A photo as a camera of 12 megapixels would have taken it."""
    file = io.BytesIO()
    Image.open(io.BytesIO(photo)).convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def together(submit: Submit, images: list[bytes]) -> float:
    """Seconds for all images, all submitted at once."""
    begun = time.perf_counter()
    for promise in [submit(image) for image in images]:
        promise.result()
    return time.perf_counter() - begun


def alone(submit: Submit, images: list[bytes]) -> float:
    """Seconds for all images, each submitted when the one before is done."""
    begun = time.perf_counter()
    for image in images:
        submit(image).result()
    return time.perf_counter() - begun


def row(what: str, ways: dict[str, Callable[[], float]], n_images: int, rounds: int) -> str:
    """One row of the table: both ways in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            seconds[name].append(way())
    threads, processes = (seconds[name][1:] for name in ("threads", "processes"))  # the first round warms up
    ratio = statistics.median(old / new for old, new in zip(threads, processes, strict=True))
    old, new = (statistics.median(times) / n_images for times in (threads, processes))
    return f"| {what} | **{ratio:.2f}** | {1 / old:.0f} | {1 / new:.0f} | {1e6 * (new - old):+.0f} |"


def deaths(decoder: Decoder, rounds: int) -> float:
    """Median milliseconds from killing a child to another that is ready."""
    times = []
    for _ in range(rounds):
        child = decoder._child()
        begun = time.perf_counter()
        child.kill()
        decoder._child().close()
        times.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("images", type=Path, nargs="?", default=PHOTOS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    small = photos(arguments.images)
    large = [enlarged(small[0])] * 10

    pool = ThreadPoolExecutor(arguments.workers)
    in_threads: Submit = lambda encoded: pool.submit(decode, encoded, RECIPE)  # noqa: E731
    begun = time.perf_counter()
    decoder = Decoder(RECIPE, ImageLimits(), arguments.workers, 1000, 60.0, 2**30)
    started = time.perf_counter() - begun

    print(
        f"| {arguments.workers} workers | processes over threads | threads, images/s | processes, images/s | us an image more |"
    )
    print("|---|---|---|---|---|")
    for kind, images in (("photos", small), ("12 megapixels", large)):
        mean = sum(map(len, images)) / len(images) / 1000
        for how in (together, alone):
            ways = {"threads": partial(how, in_threads, images), "processes": partial(how, decoder.submit, images)}
            print(row(f"{kind} of {mean:.0f} KB, {how.__name__}", ways, len(images), arguments.rounds))
    print(f"\nstart: {1e3 * started:.0f} ms; another child in place of a killed one: {deaths(decoder, 20):.1f} ms")
    decoder.close()
    pool.shutdown()


if __name__ == "__main__":
    main()

"""Decoding in worker processes compared with a thread pool: images per second, and the overhead per image.

    .venv/bin/python benchmarks/decoders.py [IMAGES.zip] [--workers 2] [--rounds 9]

The images are those of ../shared/data/imagenet-100.zip (photos of 40 KB) by default, and a 12-megapixel JPEG made from the
first one. Both alternate; medians are reported, the ratio first: on a shared machine only the ratio means something.
"""

import argparse
import asyncio
import io
import statistics
import time
import zipfile
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import uvloop
from PIL import Image

from graft.service.decoding.pool import DecoderPool
from graft.service.imaging.headers import ImageLimits
from graft.service.imaging.preprocess import DecodedImage, decode
from graft.service.manifest import Preprocessing

PHOTOS = Path(__file__).parent.parent.parent / "shared" / "data" / "imagenet-100.zip"
PREPROCESSING = Preprocessing(resize=236, crop=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

Submit = Callable[[bytes], Awaitable[DecodedImage]]


def read_photos(archive: Path) -> list[bytes]:
    with zipfile.ZipFile(archive) as file:
        names = [name for name in file.namelist() if name.lower().endswith((".jpg", ".jpeg", ".png"))]
        return [file.read(name) for name in names[:100]]


def upscale(photo: bytes) -> bytes:
    """Upscale a photo to 12 megapixels."""
    file = io.BytesIO()
    Image.open(io.BytesIO(photo)).convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


async def concurrent(submit: Submit, images: list[bytes]) -> float:
    """Seconds for all images, all submitted at once."""
    started = time.perf_counter()
    for decoding in [submit(image) for image in images]:
        await decoding
    return time.perf_counter() - started


async def sequential(submit: Submit, images: list[bytes]) -> float:
    """Seconds for all images, each submitted when the one before is done."""
    started = time.perf_counter()
    for image in images:
        await submit(image)
    return time.perf_counter() - started


async def row(title: str, candidates: dict[str, Callable[[], Awaitable[float]]], n_images: int, rounds: int) -> str:
    """Measure threads and processes in alternation; return one row of the table."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds + 1):
        for name, measure in candidates.items():
            seconds[name].append(await measure())
    threads, processes = (seconds[name][1:] for name in ("threads", "processes"))  # the first round is a warm-up
    ratio = statistics.median(thread_s / process_s for thread_s, process_s in zip(threads, processes, strict=True))
    thread_s, process_s = (statistics.median(times) / n_images for times in (threads, processes))
    return f"| {title} | **{ratio:.2f}** | {1 / thread_s:.0f} | {1 / process_s:.0f} | {1e6 * (process_s - thread_s):+.0f} |"


def respawn_ms(pool: DecoderPool, rounds: int) -> float:
    """Median milliseconds from killing a worker until a new one is ready."""
    times = []
    for _ in range(rounds):
        worker = pool._spawn(pool._ordinary)
        started = time.perf_counter()
        worker.kill()
        pool._spawn(pool._ordinary).close()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("images", type=Path, nargs="?", default=PHOTOS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    small = read_photos(arguments.images)
    large = [upscale(small[0])] * 10

    pool = ThreadPoolExecutor(arguments.workers)
    loop = asyncio.get_running_loop()
    in_threads: Submit = lambda encoded: loop.run_in_executor(pool, decode, encoded, PREPROCESSING)  # noqa: E731
    started = time.perf_counter()
    decoder = DecoderPool(PREPROCESSING, ImageLimits(), arguments.workers, 1000, 60.0, 2**30)
    startup_s = time.perf_counter() - started

    print(
        f"| {arguments.workers} workers | processes / threads | threads, images/s | processes, images/s | extra us per image |"
    )
    print("|---|---|---|---|---|")
    for kind, images in (("photos", small), ("12 megapixels", large)):
        mean = sum(map(len, images)) / len(images) / 1000
        for mode in (concurrent, sequential):
            ways = {"threads": partial(mode, in_threads, images), "processes": partial(mode, decoder.submit, images)}
            print(await row(f"{kind} of {mean:.0f} KB, {mode.__name__}", ways, len(images), arguments.rounds))
    print(f"\nstart: {1e3 * startup_s:.0f} ms; replacement of a killed worker: {respawn_ms(decoder, 20):.1f} ms")
    await decoder.close()
    pool.shutdown()


if __name__ == "__main__":
    uvloop.run(main())

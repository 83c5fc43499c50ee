"""Upper bound for serving and feature extraction: decoding, preprocessing and inference on all cores, without HTTP.

    .venv/bin/python benchmarks/floor.py PACKAGE [IMAGES.zip] [--seconds 3] [--rounds 5]

Measures two ways to use all cores, alternating: one thread per core in this process, and one process pinned to each core. The
faster of the two is called the floor. Also measures the latency of a single image, for comparison with that over HTTP.
"""

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from measuring.pictures import PHOTOS, read_photos

from graft.service.inference import model
from graft.service.inference.devices import available_cpus
from graft.service.inference.model import Model

_model: Model  # in a worker process


@dataclass(frozen=True)
class Floor:
    """A package loaded in this process and in one process per core."""

    model: Model
    processes: ProcessPoolExecutor

    def thread_rate(self, images: Sequence[bytes], seconds: float) -> float:
        """Images per second with one thread per core."""
        started = time.perf_counter()
        with ThreadPoolExecutor(available_cpus()) as threads:
            counts = threads.map(
                lambda index: _process_until(self.model, images, index, started + seconds), range(available_cpus())
            )
        return sum(counts) / (time.perf_counter() - started)

    def process_rate(self, images: Sequence[bytes], seconds: float) -> float:
        """Images per second with one process per core."""
        return sum(
            self.processes.map(
                _run_in_worker, [images] * available_cpus(), range(available_cpus()), [seconds] * available_cpus()
            )
        )

    def max_rate(self, images: Sequence[bytes], seconds: float) -> float:
        """Images per second of the faster way."""
        return max(self.thread_rate(images, seconds / 2), self.process_rate(images, seconds / 2))

    def single_image_s(self, images: Sequence[bytes], seconds: float) -> float:
        """Median seconds per image, one image at a time."""
        times, end, index = [], time.perf_counter() + seconds, 0
        while (started := time.perf_counter()) < end:
            _process_image(self.model, images[index % len(images)])
            times.append(time.perf_counter() - started)
            index += 1
        return statistics.median(times)


@contextmanager
def load_floor(package: Path) -> Iterator[Floor]:
    """Load a package in this process and in a pinned process per core, and warm up."""
    context = multiprocessing.get_context("spawn")
    core_queue = context.Queue()
    for core in sorted(os.sched_getaffinity(0)):
        core_queue.put(core)
    with ProcessPoolExecutor(available_cpus(), context, initializer=_init_worker, initargs=(package, core_queue)) as processes:
        here = model.load(package)
        here.compile_for_latency()  # as the service does
        loaded = Floor(here, processes)
        list(processes.map(time.sleep, [0.5] * available_cpus()))  # until each process has started
        yield loaded


def _init_worker(package: Path, core_queue: "multiprocessing.Queue[int]") -> None:
    """Pin the process to one core before loading the engine, which creates a thread per available core."""
    global _model
    os.sched_setaffinity(0, {core_queue.get()})
    _model = model.load(package)


def _run_in_worker(images: Sequence[bytes], offset: int, seconds: float) -> float:
    started = time.perf_counter()
    return _process_until(_model, images, offset, started + seconds) / (time.perf_counter() - started)


def _process_until(model: Model, images: Sequence[bytes], offset: int, end: float) -> int:
    """Number of images processed until `end`; each worker starts at a different image."""
    n_done = 0
    while time.perf_counter() < end:
        _process_image(model, images[(offset * len(images) // 2 + n_done) % len(images)])
        n_done += 1
    return n_done


def _process_image(model: Model, image: bytes) -> None:
    model.engine(model.decode(image).pixels[None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("package", type=Path)
    parser.add_argument("images", type=Path, nargs="?", default=PHOTOS)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    images, rows = read_photos(arguments.images), []
    with load_floor(arguments.package) as loaded:
        for _ in range(arguments.rounds):
            rates = loaded.thread_rate(images, arguments.seconds), loaded.process_rate(images, arguments.seconds)
            rows.append((*rates, 1e3 * loaded.single_image_s(images, arguments.seconds / 2)))
    threads, processes, single_ms = (statistics.median(column) for column in zip(*rows, strict=True))
    print("| threads / processes | threads, images/s | processes, images/s | single image, ms |\n|---|---|---|---|")
    print(f"| {threads / processes:.2f} | {threads:.0f} | {processes:.0f} | {single_ms:.2f} |")


if __name__ == "__main__":
    main()

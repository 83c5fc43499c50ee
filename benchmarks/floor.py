"""What serving or extracting cannot beat: decode, preprocess and engine in one process, no HTTP, all cores busy.

    .venv/bin/python benchmarks/floor.py PACKAGE [IMAGES.zip] [--seconds 3] [--rounds 5]

Two ways to keep the cores busy, in turns: a thread a core in this process, and a process a core, each held to its own; the
faster of the two is the floor. Also the time of one image alone, which an answer over HTTP is compared with.
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

from measuring.pictures import PHOTOS, photos

from graft.service.inference import model
from graft.service.inference.devices import cores
from graft.service.inference.model import Model

_ours: Model  # in a process of the pool


@dataclass(frozen=True)
class Floor:
    """A package in this process, and in one process for each core."""

    model: Model
    processes: ProcessPoolExecutor

    def in_threads(self, images: Sequence[bytes], seconds: float) -> float:
        """Images a second by a thread for each lane of the engine."""
        begun = time.perf_counter()
        with ThreadPoolExecutor(cores()) as threads:
            counts = threads.map(lambda turn: _loop(self.model, images, turn, begun + seconds), range(cores()))
        return sum(counts) / (time.perf_counter() - begun)

    def in_processes(self, images: Sequence[bytes], seconds: float) -> float:
        """Images a second by a process for each core."""
        return sum(self.processes.map(_alone, [images] * cores(), range(cores()), [seconds] * cores()))

    def fastest(self, images: Sequence[bytes], seconds: float) -> float:
        """Images a second the better way."""
        return max(self.in_threads(images, seconds / 2), self.in_processes(images, seconds / 2))

    def one_s(self, images: Sequence[bytes], seconds: float) -> float:
        """The median seconds of one image, with nothing beside it."""
        times, end, turn = [], time.perf_counter() + seconds, 0
        while (begun := time.perf_counter()) < end:
            _once(self.model, images[turn % len(images)])
            times.append(time.perf_counter() - begun)
            turn += 1
        return statistics.median(times)


@contextmanager
def floor(package: Path) -> Iterator[Floor]:
    """The floor of a package, warm."""
    context = multiprocessing.get_context("spawn")
    places = context.Queue()
    for core in sorted(os.sched_getaffinity(0)):
        places.put(core)
    with ProcessPoolExecutor(cores(), context, initializer=_settle, initargs=(package, places)) as processes:
        found = Floor(model.load(package), processes)
        list(processes.map(time.sleep, [0.5] * cores()))  # each of them has begun
        yield found


def _settle(package: Path, places: "multiprocessing.Queue[int]") -> None:
    """Before the engine is loaded, which has a thread for every core that it may use."""
    global _ours
    os.sched_setaffinity(0, {places.get()})
    _ours = model.load(package)


def _alone(images: Sequence[bytes], turn: int, seconds: float) -> float:
    begun = time.perf_counter()
    return _loop(_ours, images, turn, begun + seconds) / (time.perf_counter() - begun)


def _loop(loaded: Model, images: Sequence[bytes], turn: int, end: float) -> int:
    """How many images it gets through until then, beginning somewhere else in each turn."""
    n_done = 0
    while time.perf_counter() < end:
        _once(loaded, images[(turn * len(images) // 2 + n_done) % len(images)])
        n_done += 1
    return n_done


def _once(loaded: Model, image: bytes) -> None:
    loaded.engine(loaded.decode(image).pixels[None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("package", type=Path)
    parser.add_argument("images", type=Path, nargs="?", default=PHOTOS)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    images, rows = photos(arguments.images), []
    with floor(arguments.package) as found:
        for _ in range(arguments.rounds):
            both = found.in_threads(images, arguments.seconds), found.in_processes(images, arguments.seconds)
            rows.append((*both, 1e3 * found.one_s(images, arguments.seconds / 2)))
    threads, processes, one = (statistics.median(column) for column in zip(*rows, strict=True))
    print("| threads over processes | threads, images/s | processes, images/s | one image alone, ms |\n|---|---|---|---|")
    print(f"| {threads / processes:.2f} | {threads:.0f} | {processes:.0f} | {one:.2f} |")


if __name__ == "__main__":
    main()

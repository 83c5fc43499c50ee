"""Measures how many images per second engines compute in a busy service, side by side; and the latency of one image."""

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .engine import Engine

ROUNDS = 3
CALLS_PER_STREAM = 4  # in each round
WARM_UP_CALLS, LATENCY_CALLS = 5, 25


def images_per_second(engines: Sequence[Engine], side: int) -> list[float]:
    """The throughput of each engine: full batches from as many threads as it has streams.

    The engines take turns, and the best round of each counts: whatever else the machine does can only slow a round down.

    Args:
        side: of the square images, in pixels.
    """
    best = [0.0] * len(engines)
    for _ in range(ROUNDS):
        for index, engine in enumerate(engines):
            best[index] = max(best[index], _measure(engine, side))
    return best


def latency(engine: Engine, side: int) -> float:
    """The median time that the engine takes for one image alone, in seconds; decoding is not part of it.

    Args:
        side: of the square image, in pixels.
    """
    image = np.zeros((1, side, side, 3), np.uint8)
    return median_seconds(lambda: engine(image), WARM_UP_CALLS, LATENCY_CALLS)


def median_seconds(call: Callable[[], object], n_warm_up: int, n_calls: int) -> float:
    """The median duration of a call, measured after some calls that warm up."""
    seconds = []
    for _ in range(n_warm_up + n_calls):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[n_warm_up:])


def _measure(engine: Engine, side: int) -> float:
    batch = np.zeros((engine.max_batch, side, side, 3), np.uint8)
    n_calls = CALLS_PER_STREAM * engine.streams
    with ThreadPoolExecutor(engine.streams) as pool:
        list(pool.map(engine, [batch] * engine.streams))  # each thread's first call also prepares its buffers
        started = time.perf_counter()
        list(pool.map(engine, [batch] * n_calls))
        return n_calls * len(batch) / (time.perf_counter() - started)

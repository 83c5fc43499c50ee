"""Many images through one engine: decoded in threads, computed in batches, results in input order. No files, no HTTP."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from ..errors import ImageError
from ..imaging.preprocess import DecodedImage
from .batcher import Batcher
from .devices import available_cpus
from .engine import Engine
from .model import InferenceResult
from .thread_map import ordered_map

T = TypeVar("T")
NO_TIMEOUT_S = 1e9  # there is no client that could time out


def infer(engine: Engine, items: Iterable[T], load: Callable[[T], DecodedImage]) -> Iterator[InferenceResult | ImageError]:
    """Yields the outputs of each item, or its error, in input order. Only a few items are ahead of the consumer.

    Args:
        load: returns an item's pixels. It is called in several threads and may raise ImageError, which is yielded.
    """
    workers = available_cpus() + engine.streams * engine.max_batch  # enough concurrent items to fill every batch
    batcher = Batcher(engine, workers, NO_TIMEOUT_S)

    def infer_one(item: T) -> InferenceResult | ImageError:
        start = time.perf_counter()
        try:
            decoded = load(item)
        except ImageError as error:
            return error
        decoded_at = time.perf_counter()
        outputs = batcher.submit(decoded.pixels).result()
        return InferenceResult(decoded, outputs, timing_ms(start, decoded_at, time.perf_counter()))

    try:
        yield from ordered_map(infer_one, items, workers)
    finally:
        batcher.close()


def timing_ms(start: float, decoded_at: float, end: float) -> dict[str, float]:
    """Milliseconds by stage, from times of time.perf_counter()."""
    return {"decode": round(1e3 * (decoded_at - start), 3), "network": round(1e3 * (end - decoded_at), 3)}

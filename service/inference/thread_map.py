"""Ordered thread-pool map with bounded look-ahead."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
MAX_PENDING_PER_WORKER = 8  # pending items per worker, so that one slow file does not block the others


def ordered_map(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """Map `function` over `items` in `workers` threads, lazily; results have the order of the items.

    `ThreadPoolExecutor.map` consumes all items at once: a million items would mean a million pending calls and results.

    Raises:
        Exception: the exception of `function`, in item order. Calls that have not started are cancelled.
    """
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= workers * MAX_PENDING_PER_WORKER:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

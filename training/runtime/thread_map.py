"""One function over many items in several threads: results in order, and only a few items ever in flight."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 8  # items a worker may run ahead of the slowest one, so that one slow file does not stop the others


def each(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """`map` in `workers` threads: the results in the order of the items, which are taken only as they are needed.

    `ThreadPoolExecutor.map` takes all items at once: of a million, a million waiting calls and finished results.

    Raises:
        whatever `function` raises, at that item's turn; what has not begun by then never does.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= workers * AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for call in waiting:
                call.cancel()

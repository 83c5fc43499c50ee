"""Progress reports on stderr: a progress bar on a terminal, otherwise one plain line every 15 s."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
LINE_EVERY_S = 15.0


class Progress:
    """Shows the number of items done, the rate and the remaining time.

    Args:
        description: the task, such as "reading".
        total: the number of items; 0 if unknown.
        unit: the unit of the items, such as "images".
    """

    def __init__(self, what: str, total: int, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._done = 0
        self._begun = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._every_s = 0.1 if self._terminal else LINE_EVERY_S

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """Iterate over the items and count them."""
        for item in items:
            yield item
            self.advance(1)

    def advance(self, count: int, note: str = "") -> None:
        """Count `count` more items as done and refresh the output if the interval has passed."""
        self._done += count
        now = time.monotonic()
        if now - self._shown < self._every_s:
            return
        self._shown = now
        line = describe(self._what, self._done, self._total, self._unit, now - self._begun) + note
        if self._terminal:
            n_filled = round(24 * self._done / max(1, self._total))
            bar = f"{'█' * n_filled}{'░' * (24 - n_filled)} " if self._total else ""
            sys.stderr.write(f"\r\x1b[K{bar}{line}")
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()


def say(line: str) -> None:
    """Print a status line to stderr; results go to stdout."""
    print(line, file=sys.stderr, flush=True)


def describe(what: str, done: int, total: int, unit: str, seconds: float) -> str:
    """Format one line: `reading 1,200/5,000 images, 310/s, 12 s left`; without a total: `listing 1,200 files, 310/s`."""
    rate = done / max(seconds, 1e-9)
    if total == 0:
        return f"{what} {done:,} {unit}, {rate:,.0f}/s"
    remaining_s = (total - done) / max(rate, 1e-9)
    return f"{what} {done:,}/{total:,} {unit}, {rate:,.0f}/s, {duration(remaining_s)} left"


def duration(seconds: float) -> str:
    """Format a duration: `12 s`, `3 min 05 s`, `2 h 10 min`."""
    n_seconds = round(seconds)
    if n_seconds < 60:
        return f"{n_seconds} s"
    if n_seconds < 3600:
        return f"{n_seconds // 60} min {n_seconds % 60:02d} s"
    return f"{n_seconds // 3600} h {n_seconds % 3600 // 60:02d} min"

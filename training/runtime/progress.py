"""Progress reports on stderr: a progress bar on a terminal, otherwise one plain line every 15 s."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
LOG_INTERVAL_S = 15.0


class Progress:
    """Shows the number of items done, the rate and the remaining time.

    Args:
        description: the task, such as "reading".
        total: the number of items; 0 if unknown.
        unit: the unit of the items, such as "images".
    """

    def __init__(self, description: str, total: int, unit: str) -> None:
        self._description, self._total, self._unit = description, total, unit
        self._done = 0
        self._started_at = self._refreshed_at = time.monotonic()
        self._is_terminal = sys.stderr.isatty()
        self._interval_s = 0.1 if self._is_terminal else LOG_INTERVAL_S

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def track(self, items: Iterable[T]) -> Iterator[T]:
        """Iterate over the items and count them."""
        for item in items:
            yield item
            self.advance(1)

    def advance(self, count: int, note: str = "") -> None:
        """Count `count` more items as done and refresh the output if the interval has passed."""
        self._done += count
        now = time.monotonic()
        if now - self._refreshed_at < self._interval_s:
            return
        self._refreshed_at = now
        line = format_progress(self._description, self._done, self._total, self._unit, now - self._started_at) + note
        if self._is_terminal:
            n_filled = round(24 * self._done / max(1, self._total))
            bar = f"{'█' * n_filled}{'░' * (24 - n_filled)} " if self._total else ""
            sys.stderr.write(f"\r\x1b[K{bar}{line}")
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()


def log(line: str) -> None:
    """Print a status line to stderr; results go to stdout."""
    print(line, file=sys.stderr, flush=True)


def format_progress(description: str, done: int, total: int, unit: str, seconds: float) -> str:
    """Format one line: `reading 1,200/5,000 images, 310/s, 12 s left`; without a total: `listing 1,200 files, 310/s`."""
    rate = done / max(seconds, 1e-9)
    if total == 0:
        return f"{description} {done:,} {unit}, {rate:,.0f}/s"
    remaining_s = (total - done) / max(rate, 1e-9)
    return f"{description} {done:,}/{total:,} {unit}, {rate:,.0f}/s, {format_duration(remaining_s)} left"


def format_duration(seconds: float) -> str:
    """Format a duration: `12 s`, `3 min 05 s`, `2 h 10 min`."""
    n_seconds = round(seconds)
    if n_seconds < 60:
        return f"{n_seconds} s"
    if n_seconds < 3600:
        return f"{n_seconds // 60} min {n_seconds % 60:02d} s"
    return f"{n_seconds // 3600} h {n_seconds % 3600 // 60:02d} min"

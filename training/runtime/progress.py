"""How far a long piece of work is: a bar on a terminal, one plain line now and then elsewhere; always on stderr."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
LINE_EVERY_S = 15.0


class Progress:
    """Counts things done, with their rate and the time left.

    Args:
        what: a word for the work, such as "reading".
        total: how many there are; 0 if nobody knows yet.
        unit: what is counted, such as "images".
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
        """The same items, counted as they pass."""
        for item in items:
            yield item
            self.advance(1)

    def advance(self, count: int, note: str = "") -> None:
        """Counts `count` more as done, and shows so if it is time to."""
        self._done += count
        now = time.monotonic()
        if now - self._shown < self._every_s:
            return
        self._shown = now
        line = describe(self._what, self._done, self._total, self._unit, now - self._begun) + note
        if self._terminal:
            filled = round(24 * self._done / max(1, self._total))
            bar = f"{'█' * filled}{'░' * (24 - filled)} " if self._total else ""
            sys.stderr.write(f"\r\x1b[K{bar}{line}")
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()


def say(line: str) -> None:
    """Tells whoever watches; results proper go to stdout."""
    print(line, file=sys.stderr, flush=True)


def describe(what: str, done: int, total: int, unit: str, seconds: float) -> str:
    """One line: `reading 1,200/5,000 images, 310/s, 12 s left`; `listing 1,200 files, 310/s` where the end is unknown."""
    rate = done / max(seconds, 1e-9)
    if total == 0:
        return f"{what} {done:,} {unit}, {rate:,.0f}/s"
    left = (total - done) / max(rate, 1e-9)
    return f"{what} {done:,}/{total:,} {unit}, {rate:,.0f}/s, {duration(left)} left"


def duration(seconds: float) -> str:
    """A span of time as a person says it: `12 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"

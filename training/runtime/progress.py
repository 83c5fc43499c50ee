"""Progress and status lines on stderr; results go to stdout.

On a terminal, colored bars that update in place; in a notebook, one output that updates in place; elsewhere, plain lines so
that it is never silent for more than 5 s. rich is imported only on a terminal.
"""

import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Literal, Protocol, TypeVar

from graft.training.runtime import heartbeat
from graft.training.runtime.terminal import is_notebook, is_terminal, sanitize

T = TypeVar("T")
Verbosity = Literal["quiet", "normal", "verbose"]

_verbosity: Verbosity = "normal"


class _View(Protocol):
    """Where the progress of one task is shown."""

    interval_s: float  # between two updates

    def show(self, done: int, details: Sequence[str]) -> None: ...

    def close(self) -> None: ...


class Progress:
    """Shows the number of items done, the rate and the remaining time.

    Several can be open at the same time, nested or in threads.

    Args:
        description: the task, such as "reading".
        total: the number of items; 0 if unknown.
        unit: the unit of the items, such as "images".
    """

    def __init__(self, description: str, total: int, unit: str) -> None:
        self._description, self._total, self._unit = sanitize(description), total, unit
        self._done = 0
        self._started_at = self._refreshed_at = time.monotonic()
        self._view: _View | None = None

    def __enter__(self) -> "Progress":
        if _verbosity != "quiet":
            self._view = self._open_view()
        return self

    def __exit__(self, *_: object) -> None:
        view, self._view = self._view, None
        if view is not None:
            view.close()

    def _open_view(self) -> _View:
        details = _details(0, self._total, self._unit, 0)[:1]
        if is_terminal(sys.stderr):
            from graft.training.runtime.live_display import Bar

            return Bar(self._description, self._total, details)
        if is_notebook():
            from graft.training.runtime.notebook_display import NotebookLine

            return NotebookLine(self._description, self._total, details)
        return _PlainView(self._describe)

    def _describe(self) -> str:
        """One line: `reading 1,200/5,000 images, 310/s, 12 s left`; without items to count: `importing torch, 8 s`."""
        seconds = time.monotonic() - self._started_at
        if not self._unit:
            return f"{self._description}, {format_duration(seconds)}"
        return format_progress(self._description, self._done, self._total, self._unit, seconds)

    def track(self, items: Iterable[T]) -> Iterator[T]:
        """Iterate over the items and count them."""
        for item in items:
            yield item
            self.advance(1)

    def advance(self, count: int) -> None:
        """Count `count` more items as done and refresh the output if the interval has passed."""
        self._done += count
        view = self._view
        if view is None or (now := time.monotonic()) - self._refreshed_at < view.interval_s:
            return
        self._refreshed_at = now
        view.show(self._done, _details(self._done, self._total, self._unit, now - self._started_at))


class _PlainView(heartbeat.PlainLines):
    """The progress of one task as plain lines, which a thread prints."""

    interval_s = math.inf  # the thread asks for the numbers itself

    def show(self, done: int, details: Sequence[str]) -> None:
        """Nothing is pushed."""


@contextmanager
def step(description: str) -> Iterator[None]:
    """Says what is being done while the block runs, for work without items to count, such as `importing torch`."""
    with Progress(description, 0, ""):
        yield


def log(line: str) -> None:
    """Print a status line to stderr; results go to stdout. With `--quiet`, only `warning:` and `error:` lines are printed."""
    if _verbosity == "quiet" and not line.startswith(("warning:", "error:")):
        return
    heartbeat.note_line()
    if is_terminal(sys.stderr):
        from graft.training.runtime.live_display import print_line

        print_line(sanitize(line))
    else:
        print(sanitize(line), file=sys.stderr, flush=True)


@contextmanager
def verbosity(level: Verbosity) -> Iterator[None]:
    """Sets how much is printed inside the block: "quiet" only warnings and errors, "verbose" also messages of libraries.

    For the process, not for one thread: the command line sets it once. Bars that an exception has left behind are erased.
    """
    global _verbosity
    previous, _verbosity = _verbosity, level
    try:
        with _library_messages() if level == "verbose" else nullcontext():
            yield
    finally:
        _verbosity = previous
        close_bars()


def is_verbose() -> bool:
    """Whether the messages of libraries are wanted too."""
    return _verbosity == "verbose"


def is_quiet() -> bool:
    """Whether only results, warnings and errors are wanted."""
    return _verbosity == "quiet"


def close_bars() -> None:
    """Erases all bars from the terminal, and ends the lines of all tasks elsewhere."""
    heartbeat.close_all()
    if live_display := sys.modules.get("graft.training.runtime.live_display"):
        live_display.close_all()


@contextmanager
def _library_messages() -> Iterator[None]:
    """Prints what libraries log, from the level INFO on."""
    import logging

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            log(self.format(record))

    root, handler = logging.getLogger(), Handler()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    previous = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(previous)


def _details(done: int, total: int, unit: str, seconds: float) -> tuple[str, ...]:
    """The numbers as text: ("1,200/5,000 images", "310/s", "12 s left"); without a total, ("1,200 files", "310/s")."""
    if not unit:
        return ("",)
    if done == 0:
        return (f"{done:,}/{total:,} {unit}" if total else f"{done:,} {unit}",)
    rate = done / max(seconds, 1e-9)
    if total == 0:
        return f"{done:,} {unit}", format_rate(rate)
    remaining_s = (total - done) / max(rate, 1e-9)
    left = f"{format_duration(remaining_s)} left"
    return f"{done:,}/{total:,} {unit}", format_rate(rate), left


def format_progress(description: str, done: int, total: int, unit: str, seconds: float) -> str:
    """Format one line: `reading 1,200/5,000 images, 310/s, 12 s left`; without a total: `listing 1,200 files, 310/s`."""
    return f"{description} {', '.join(_details(done, total, unit, seconds))}"


def format_rate(per_second: float, unit: str = "") -> str:
    """Format a rate with two digits or more: `310/s`, `2.4 images/s`, `9.0/min`."""
    number, per = (per_second, "s") if per_second >= 0.95 or per_second <= 0 else (60 * per_second, "min")
    return f"{f'{number:.1f}' if 0 < number < 9.95 else f'{number:,.0f}'}{f' {unit}' * bool(unit)}/{per}"


def format_duration(seconds: float) -> str:
    """Format a duration: `12 s`, `3 min 05 s`, `2 h 10 min`."""
    n_seconds = round(seconds)
    if n_seconds < 60:
        return f"{n_seconds} s"
    if n_seconds < 3600:
        return f"{n_seconds // 60} min {n_seconds % 60:02d} s"
    return f"{n_seconds // 3600} h {n_seconds % 3600 // 60:02d} min"

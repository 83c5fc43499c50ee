"""Progress bars on a terminal: the bars of all running tasks stay at the bottom, and all other output appears above them."""

import atexit
import os
import sys
import threading
from collections.abc import Sequence
from typing import IO, Any, TextIO, cast

from rich.console import RenderableType
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress_bar import ProgressBar
from rich.text import Text

from graft.training.runtime.terminal import is_terminal, make_console

REFRESHES_PER_SECOND = 8
BAR_COLUMNS = 70  # a narrower terminal shows no bar, only numbers
RATE_COLUMNS = 60  # a narrower terminal shows no count and no rate, only the percentage
PREFIX_STYLES = {"error:": "bold red", "warning:": "yellow"}

_lock = threading.RLock()  # reentrant, because a signal handler may log while the main thread opens a bar
_display: "LiveDisplay | None" = None


class Bar:
    """The bar of one task.

    Args:
        total: the number of items; 0 if unknown, which shows numbers only.
    """

    interval_s = 0.1

    def __init__(self, description: str, total: int, details: Sequence[str]) -> None:
        global _display
        with _lock:
            self._total, self._display = total, _display or LiveDisplay()
            _display = self._display
            self._task = self._display.add(description, total, details)

    def show(self, done: int, details: Sequence[str]) -> None:
        """Updates the numbers, such as ("120/500 images", "310/s", "12 s left")."""
        self._display.update(self._task, done, self._total, details)

    def close(self) -> None:
        """Removes the bar, and the display with the last bar."""
        global _display
        with _lock:
            if not self._display.remove(self._task) and self._display is _display:
                self._display.stop()
                _display = None


class LiveDisplay:
    """All bars, drawn with rich on stderr until `stop`."""

    def __init__(self) -> None:
        self.console = make_console(sys.stderr)
        self._progress = Progress(
            *_columns(self.console.width),
            console=self.console,
            transient=True,
            refresh_per_second=REFRESHES_PER_SECOND,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._streams = sys.stdout, sys.stderr
        self._progress.start()
        # rich hides the cursor. Show it, because a killed process could not.
        self.console.show_cursor(True)
        sys.stderr = cast(TextIO, _AboveBars(self, sys.stderr))
        if is_terminal(sys.stdout):  # a file or a pipe is not on the screen
            sys.stdout = cast(TextIO, _AboveBars(self, sys.stdout))

    def add(self, description: str, total: int, details: Sequence[str]) -> Any:
        """Adds a bar; returns its identifier."""
        return self._progress.add_task(description, total=total or None, **_fields(0, total, details))

    def update(self, task: Any, done: int, total: int, details: Sequence[str]) -> None:
        """Updates a bar; ignores a removed one."""
        if task in self._progress.task_ids:
            self._progress.update(task, completed=done, **_fields(done, total, details))

    def remove(self, task: Any) -> int:
        """Removes a bar; returns the number of bars that remain."""
        if task in self._progress.task_ids:
            self._progress.remove_task(task)
        return len(self._progress.task_ids)

    def print(self, text: Text) -> None:
        """Prints lines above the bars. A long line is wrapped by the terminal, so that it can be copied whole."""
        self.console.print(text, soft_wrap=True)

    def stop(self) -> None:
        """Erases the bars and restores the streams."""
        self.restore_streams()
        self._progress.stop()

    def restore_streams(self) -> None:
        """Undoes the redirection, unless somebody has replaced the stream meanwhile."""
        for name, original in zip(("stdout", "stderr"), self._streams, strict=True):
            stream = getattr(sys, name)
            if isinstance(stream, _AboveBars):
                stream.close_line()
                setattr(sys, name, original)


class _AboveBars:
    """Stands in for sys.stdout or sys.stderr: prints complete lines above the bars."""

    def __init__(self, display: LiveDisplay, stream: IO[str]) -> None:
        self._display, self._stream, self._line = display, stream, ""

    def write(self, text: str) -> int:
        if self._display is not _display:  # a library has kept this object beyond the end of the display
            return self._stream.write(text)
        *lines, self._line = (self._line + text).split("\n")
        if lines:
            self._display.print(Text("\n").join(map(Text.from_ansi, lines)))
        return len(text)

    def flush(self) -> None:
        """Keeps an incomplete line until its end arrives."""

    def close_line(self) -> None:
        """Prints an incomplete line."""
        if self._line:
            self._display.print(Text.from_ansi(self._line))
            self._line = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _BarColumn(ProgressColumn):
    """A bar, or nothing if the total is unknown."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._width = width

    def render(self, task: Task) -> RenderableType:
        if task.total is None:
            return Text()
        return ProgressBar(task.total, task.completed, self._width, complete_style="cyan", finished_style="green")


def print_line(line: str) -> None:
    """Prints a line on stderr, above the bars if there are any; `warning:` and `error:` at its start are colored."""
    text = Text(line)
    for prefix, style in PREFIX_STYLES.items():
        if line.startswith(prefix):
            text.stylize(style, 0, len(prefix))
    with _lock:
        if _display:
            _display.print(text)
        else:
            make_console(sys.stderr).print(text, soft_wrap=True)


def close_all() -> None:
    """Erases bars that an exception has left behind."""
    global _display
    with _lock:
        if _display:
            _display.stop()
            _display = None


def _columns(width: int) -> list[ProgressColumn]:
    """The columns that fit into a terminal of this width."""
    description = TextColumn("{task.description}", markup=False)
    names = ("percent", "count", "rate", "left")
    percent, count, rate, left = (TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in names)
    if width < RATE_COLUMNS:
        return [description, percent, left]
    if width < BAR_COLUMNS:
        return [description, count, rate, left]
    bar = _BarColumn(max(8, min(30, width - BAR_COLUMNS)))
    return [SpinnerColumn(style="cyan"), description, bar, count, rate, left]


def _fields(done: int, total: int, details: Sequence[str]) -> dict[str, Any]:
    """The texts of the columns."""
    count, rate, left = (*details, "", "")[:3]
    return {"percent": f"{done / total:.0%}" if total else count, "count": count, "rate": rate, "left": left}


def _forget() -> None:
    """In a forked process: the bars belong to the parent, whose locks may be held at this moment."""
    global _lock, _display
    _lock = threading.RLock()
    if _display:
        streams, _display = _display._streams, None
        for name, original in zip(("stdout", "stderr"), streams, strict=True):
            if isinstance(getattr(sys, name), _AboveBars):
                setattr(sys, name, original)


os.register_at_fork(after_in_child=_forget)
atexit.register(close_all)

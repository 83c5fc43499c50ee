"""Progress without a terminal: whenever nothing was printed for some seconds, a line says what is being done."""

import os
import sys
import threading
import time
from collections.abc import Callable

SILENCE_S = 3.5
MIN_TASK_S = 1.0  # of a task that prints a line
CHECKS_PER_SILENCE = 16

_lock = threading.Lock()
_tasks: list["PlainLines"] = []  # the running ones, in the order in which they began
_thread: threading.Thread | None = None
_stop = threading.Event()
_last_line_at = time.monotonic()


class PlainLines:
    """The lines of one task. Of several that run, the one that began last is shown.

    Args:
        describe: returns the line.
    """

    def __init__(self, describe: Callable[[], str]) -> None:
        global _thread, _stop
        self.describe = describe
        with _lock:
            _tasks.append(self)
            if _thread is None:
                _stop = threading.Event()
                _thread = threading.Thread(target=_print_lines, args=[_stop], name="graft-progress", daemon=True)
                _thread.start()

    def close(self) -> None:
        """Ends the lines, and the thread with the last task."""
        with _lock:
            if self in _tasks:
                _tasks.remove(self)
        _stop_if_idle()


def note_line() -> None:
    """Remembers that something was printed just now."""
    global _last_line_at
    _last_line_at = time.monotonic()


def close_all() -> None:
    """Ends tasks that an exception has left behind."""
    with _lock:
        _tasks.clear()
    _stop_if_idle()


def _stop_if_idle() -> None:
    global _thread
    with _lock:
        thread = None if _tasks else _thread
        if thread:
            _thread = None
            _stop.set()
    if thread and thread is not threading.current_thread():
        thread.join()


def _print_lines(stop: threading.Event) -> None:
    global _last_line_at
    # Many short tasks in a row are one long silence; but a short task after an idle time prints nothing.
    _last_line_at = max(_last_line_at, time.monotonic() - SILENCE_S + MIN_TASK_S)
    while not stop.wait(SILENCE_S / CHECKS_PER_SILENCE):
        with _lock:
            task = _tasks[-1] if _tasks else None
        if task is None or time.monotonic() - _last_line_at < SILENCE_S:
            continue
        try:
            sys.stderr.write(f"{task.describe()}\n")
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):  # nobody reads it, or it is closed
            return
        note_line()


def _forget() -> None:
    """In a forked process: the tasks belong to the parent, and its thread does not exist here."""
    global _lock, _thread
    _lock, _thread = threading.Lock(), None
    _tasks.clear()


os.register_at_fork(after_in_child=_forget)

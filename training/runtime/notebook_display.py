"""Progress in a Jupyter notebook: one output per cell, updated in place. Needs no ipywidgets."""

import importlib
import threading
from collections.abc import Sequence
from typing import Any

BAR_WIDTH = 24  # characters

_lock = threading.RLock()
_lines: dict[int, str] = {}  # the line of each running task
_handle: Any = None  # IPython's handle of the output, and the number of its cell
_cell: int | None = None


class NotebookLine:
    """The line of one task. It appears with the first update, so that a short task shows nothing."""

    interval_s = 0.5

    def __init__(self, description: str, total: int, details: Sequence[str]) -> None:
        self._description, self._total = description, total

    def show(self, done: int, details: Sequence[str]) -> None:
        """Updates the numbers, such as ("120/500 images", "310/s", "12 s left")."""
        n_filled = round(BAR_WIDTH * min(1, done / self._total)) if self._total else 0
        bar = f"{'█' * n_filled}{'░' * (BAR_WIDTH - n_filled)} " if self._total else ""
        with _lock:
            _lines[id(self)] = f"{bar}{self._description} {', '.join(details)}"
            _draw()

    def close(self) -> None:
        """Removes the line."""
        with _lock:
            if _lines.pop(id(self), None) is not None:
                _draw()


def _draw() -> None:
    """Shows all lines in one output of the current cell; creates it for the first line."""
    global _handle, _cell
    ipython = importlib.import_module("IPython")
    cell = ipython.get_ipython().execution_count
    content = {"text/plain": "\n".join(_lines.values())}
    if _handle is None or cell != _cell:
        _handle, _cell = importlib.import_module("IPython.display").display(content, raw=True, display_id=True), cell
    else:
        _handle.update(content, raw=True)

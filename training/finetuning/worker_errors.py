"""Tracks the current file of each data loader worker, to name it if the worker fails, dies or hangs."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch.utils.data import get_worker_info
from torch.utils.data._utils.signal_handling import _set_SIGCHLD_handler

from graft.training.data.errors import DatasetError, examples

MAX_WORKERS = 32  # more would need gigabytes of shared memory, and feed any card
IDLE = -1


class WorkerProgress:
    """Current row of each worker process, in shared memory that outlives the worker."""

    def __init__(self) -> None:
        self._rows = torch.full((MAX_WORKERS,), IDLE, dtype=torch.int64)
        with suppress(RuntimeError):  # no shared memory; then there are no workers either
            self._rows.share_memory_()  # type: ignore[no-untyped-call]

    def set_row(self, row: int = IDLE) -> None:
        """Records the current row of this worker; without a row, it is idle."""
        worker = get_worker_info()
        self._rows[worker.id if worker else 0] = row

    def current_rows(self) -> list[int]:
        """Rows that the workers are reading."""
        return [row for row in self._rows.tolist() if row != IDLE]


@contextmanager
def explain_worker_failure(*loaders: Any) -> Iterator[None]:
    """Converts data loader failures to a one-line error with the file that the worker was reading.

    Raises:
        DatasetError: if a file cannot be read, or if its worker died or hung.
    """
    # Lightning restores all signal handlers to their state at its start, which would remove torch's handler for dead
    # workers. Therefore that handler must be installed before Lightning starts.
    _set_SIGCHLD_handler()
    try:
        yield
    except DatasetError as error:
        # torch wraps the message in the traceback of the worker.
        raise DatasetError(str(error).rpartition("DatasetError: ")[2].strip()) from None
    except (RuntimeError, ConnectionError, EOFError) as error:
        # torch's own error, or that of the connection through which the worker was passing on a batch.
        if isinstance(error, RuntimeError) and "DataLoader" not in str(error):
            raise
        files = [
            loader.dataset.images.samples[row].path
            for loader in loaders
            for row in loader.dataset.worker_progress.current_rows()
        ]
        is_torch = isinstance(error, RuntimeError)
        reason = (
            str(error).partition(". ")[0].rstrip(".") if is_torch else "DataLoader worker exited while it passed on a batch"
        )
        location = f" at {examples(files)}" if files else ""
        remedy = "Check that file, or try a smaller --batch-size if memory ran out." if files else "Memory may have run out."
        raise DatasetError(f"A data loader worker failed{location} ({reason}). {remedy}") from None

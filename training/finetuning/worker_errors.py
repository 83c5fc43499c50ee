"""Which file each of a loader's processes is at, so that one that fails, dies or hangs can be named."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import get_worker_info
from torch.utils.data._utils.signal_handling import _set_SIGCHLD_handler

from graft.training.data.errors import DatasetError, examples

MOST_WORKERS = 16
IDLE = -1


class Reading:
    """A note from each process of the row that it is at, in memory that outlives the process."""

    def __init__(self) -> None:
        self._rows = torch.full((MOST_WORKERS,), IDLE, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def note(self, row: int = IDLE) -> None:
        """Written by the process that reads; without a row it is at none."""
        worker = get_worker_info()
        self._rows[worker.id if worker else 0] = row

    def rows(self) -> list[int]:
        """Where the processes are."""
        return [row for row in self._rows.tolist() if row != IDLE]


@contextmanager
def explained(*loaders: Any) -> Iterator[None]:
    """Says in one line why a loader's process gave nothing, and which file it was at.

    Raises:
        DatasetError: if a file could not be read, or the process that read it died or hung.
    """
    # Lightning puts all handlers back as they were when it began, and with them takes away the one by which torch hears at
    # once of a process that died. So it must be there before Lightning begins.
    _set_SIGCHLD_handler()
    try:
        yield
    except DatasetError as error:
        # torch puts the other process's whole traceback around it.
        raise DatasetError(str(error).rpartition("DatasetError: ")[2].strip()) from None
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        files = [loader.dataset.images.samples[row].path for loader in loaders for row in loader.dataset.reading.rows()]
        reason = str(error).partition(". ")[0].rstrip(".")
        at = f", at {examples(files)}" if files else ""
        way = "Look at that file, or try a smaller --batch-size if memory ran short." if files else "Did memory run short?"
        raise DatasetError(f"A process that reads images gave nothing more{at} ({reason}). {way}") from None

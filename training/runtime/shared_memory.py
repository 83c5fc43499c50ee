"""The shared memory through which data loader workers send batches: a container has 64 MB of it by default."""

import math
import os
import shutil
import sys
from functools import cache
from pathlib import Path

from graft.training.runtime.progress import log

BATCHES_PER_WORKER = 3  # two in its queue, by default, and one that is in use
MB = 10**6


def affordable_workers(n_workers: int, batch_bytes: int, folder: Path = Path("/dev/shm")) -> int:
    """Return how many data loader workers the shared memory has room for; 0 for loading in the main process.

    With too little of it, a worker would be killed in the middle of an epoch. If there is room for fewer workers than
    requested, a note says so.

    Args:
        batch_bytes: the size of one batch.
        folder: where Linux keeps shared memory.
    """
    if sys.platform != "linux" or not n_workers:  # other systems have no limit
        return n_workers
    free = shutil.disk_usage(folder).free if os.access(folder, os.W_OK) else 0
    n_affordable = min(n_workers, free // (BATCHES_PER_WORKER * batch_bytes))
    if n_affordable < n_workers:
        needed = math.ceil(n_workers * BATCHES_PER_WORKER * batch_bytes / MB)
        _note_once(
            f"loading images in {n_workers} processes needs {needed} MB of shared memory, but {folder} has {free // MB} MB:"
            f" {n_affordable or 'no'} processes are used, which is slower. In Docker, set"
            f" --shm-size={math.ceil(needed / 1000)}g"
        )
    return n_affordable


@cache
def _note_once(note: str) -> None:
    log(note)

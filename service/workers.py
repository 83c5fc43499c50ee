"""Several worker processes: one for each GPU, each with its part of the cores. A service on CPUs has one worker."""

import atexit
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Workers:
    """The workers of one service.

    Attributes:
        n: how many there are.
        metrics: the folder in which they share their metrics; "" if there is only one.
    """

    n: int = 1
    metrics: str = ""

    @classmethod
    def create(cls, n: int) -> "Workers":
        """Runs in the supervisor: the shared folder is removed when it exits."""
        if n == 1:
            return cls()
        folder = tempfile.mkdtemp(prefix="graft-metrics-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return cls(n, folder)

    def take_share(self, index: int) -> None:
        """Runs in a worker, before torch is imported: leaves one GPU and an equal part of the cores to this process.

        Args:
            index: of the worker, from 0.
        """
        if self.n == 1:
            return
        visible = os.environ.get(VISIBLE)
        cards = [card.strip() for card in visible.split(",")] if visible else [str(number) for number in range(self.n)]
        os.environ[VISIBLE] = cards[index % len(cards)]
        with suppress(AttributeError, OSError):  # only on Linux, and some containers forbid it
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, core_share(cores, index, self.n))


def core_share(cores: list[int], index: int, n_workers: int) -> list[int]:
    """The cores of one worker: neighbors, which have caches and memory in common; at least one."""
    start, end = (position * len(cores) // n_workers for position in (index, index + 1))
    return cores[start:end] or [cores[index % len(cores)]]

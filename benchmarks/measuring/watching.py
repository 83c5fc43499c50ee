"""Samples the anonymous memory of a process and its descendants (Linux)."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EVERY_S = 0.05


def tree(process: int) -> Iterator[int]:
    """PIDs of a process and all its descendants."""
    yield process
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in read(task).split():
            yield from tree(int(child))


def anonymous_mb(process: int) -> float:
    """Current anonymous memory (RssAnon) of a process and its descendants, in MiB."""
    lines = (line for pid in tree(process) for line in read(Path(f"/proc/{pid}/status")).splitlines())
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def read(path: Path) -> str:
    """Read a file in /proc; "" if its process has just exited."""
    try:
        return path.read_text()
    except OSError:
        return ""


@contextmanager
def watched(process: int) -> Iterator[list[float]]:
    """Sample the anonymous memory of a process and its descendants every `SAMPLE_INTERVAL_S` until the block ends."""
    samples, done = [0.0], threading.Event()

    def sample() -> None:
        while not done.wait(EVERY_S):
            samples.append(anonymous_mb(process))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()

"""Samples the anonymous memory of a process and its descendants (Linux)."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SAMPLE_INTERVAL_S = 0.05


def process_tree(root_pid: int) -> Iterator[int]:
    """PIDs of a process and all its descendants."""
    yield root_pid
    for task in Path(f"/proc/{root_pid}/task").glob("*/children"):
        for child in read_proc(task).split():
            yield from process_tree(int(child))


def anonymous_mb(root_pid: int) -> float:
    """Current anonymous memory (RssAnon) of a process and its descendants, in MiB."""
    lines = (line for pid in process_tree(root_pid) for line in read_proc(Path(f"/proc/{pid}/status")).splitlines())
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def read_proc(path: Path) -> str:
    """Read a file in /proc; "" if its process has just exited."""
    try:
        return path.read_text()
    except OSError:
        return ""


@contextmanager
def sample_memory(root_pid: int) -> Iterator[list[float]]:
    """Sample the anonymous memory of a process and its descendants every `SAMPLE_INTERVAL_S` until the block ends."""
    samples, done = [0.0], threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_INTERVAL_S):
            samples.append(anonymous_mb(root_pid))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()

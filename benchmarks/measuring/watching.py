"""What a process and its children hold in memory that no file backs, watched while they run (Linux)."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EVERY_S = 0.05


def tree(process: int) -> Iterator[int]:
    """A process and all that it started, directly or not."""
    yield process
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in read(task).split():
            yield from tree(int(child))


def anonymous_mb(process: int) -> float:
    """What a process and its children hold that no file backs, now."""
    lines = (line for each in tree(process) for line in read(Path(f"/proc/{each}/status")).splitlines())
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def read(path: Path) -> str:
    """A file of /proc, whose process may have just ended."""
    try:
        return path.read_text()
    except OSError:
        return ""


@contextmanager
def watched(process: int) -> Iterator[list[float]]:
    """Collects the anonymous memory of a process and its children, many times a second."""
    found, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(EVERY_S):
            found.append(anonymous_mb(process))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()

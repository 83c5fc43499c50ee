"""Log lines are written by a thread: a reader that stalls costs lines, which are counted, and nothing else."""

import json
import logging
import os
import sys
import threading

import pytest
from server_process import poll_until

from graft.service.monitoring import logs
from graft.service.monitoring.logs import MAX_LINES, LineHandler, LineWriter


@pytest.fixture
def pipe():
    read_end, write_end = os.pipe()
    yield read_end, write_end
    os.close(read_end)
    os.close(write_end)


def read_lines(read_end: int, n: int) -> list[str]:
    received = b""
    while received.count(b"\n") < n:
        received += os.read(read_end, 2**16)
    return received.decode().splitlines()


def test_lines_are_written_in_order(pipe):
    writer = LineWriter(pipe[1])
    for number in range(100):
        writer.write(f"line {number}")
    assert read_lines(pipe[0], 100) == [f"line {number}" for number in range(100)]


def test_flush_waits_until_all_lines_are_written(pipe):
    writer = LineWriter(pipe[1])
    writer.write("last words")
    writer.flush(timeout_s=60)
    os.set_blocking(pipe[0], False)
    assert os.read(pipe[0], 100) == b"last words\n"


def test_lines_that_nobody_reads_are_dropped_and_counted(pipe):
    writer = LineWriter(pipe[1])
    line = "x" * 1000  # 64 of them fill the pipe
    writer.write(line)
    poll_until(lambda: not writer._lines)  # the thread has taken the first line
    for _ in range(MAX_LINES + 1000):
        writer.write(line)
    assert writer.n_dropped > 0
    n_written = MAX_LINES + 1001 - writer.n_dropped
    lines = read_lines(pipe[0], n_written + 1)
    report = json.loads(lines.pop(next(i for i, found in enumerate(lines) if found != line)))
    assert (report["event"], report["times"]) == ("log lines dropped", MAX_LINES + 1001 - n_written)
    assert lines == [line] * n_written
    assert writer.n_dropped == 0


def test_a_closed_log_is_no_error(pipe):
    writer = LineWriter(10_000)  # no such file descriptor
    writer.write("to nobody")
    writer.flush(timeout_s=60)
    assert "log" in {thread.name for thread in threading.enumerate()}


def test_a_text_that_utf8_cannot_encode_is_written(pipe):
    writer = LineWriter(pipe[1])
    writer.write("a \ud800 b")
    assert read_lines(pipe[0], 1) == ["a \\ud800 b"]


def test_handlers_of_libraries_keep_their_format_and_level_but_do_not_wait(monkeypatch):
    library, other = logging.getLogger("a library"), logging.getLogger("another")
    handler, elsewhere = logging.StreamHandler(sys.stderr), logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    handler.setLevel(logging.ERROR)
    monkeypatch.setattr(library, "handlers", [handler, elsewhere])
    monkeypatch.setattr(other, "handlers", [])
    monkeypatch.setattr(logging.root, "handlers", [])
    logs.never_wait()
    replacement, kept = library.handlers
    assert (type(replacement), replacement.formatter, replacement.level) == (LineHandler, handler.formatter, logging.ERROR)
    assert kept is elsewhere

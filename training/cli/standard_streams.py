"""The standard output and error of a command: pipes that are closed early, full disks, and characters that cannot be shown."""

import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def flushed() -> Iterator[None]:
    """Writes everything out at the end of the block, so that an error is raised here and not while Python exits.

    A character that the encoding of the standard output lacks is written as `\\u732b`.
    """
    stream = sys.stdout
    errors = stream.errors if isinstance(stream, io.TextIOWrapper) else None
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for output in (sys.stdout, sys.stderr):
            if output is not None:  # closed by `>&-`
                output.flush()
        if isinstance(stream, io.TextIOWrapper) and not stream.closed:
            stream.reconfigure(errors=errors)


def has_closed_pipe() -> bool:
    """Whether nobody reads the standard output or error any more."""
    return any(_is_closed_pipe(stream) for stream in (sys.stdout, sys.stderr))


def discard() -> None:
    """Sends what is still buffered, and all that follows, nowhere: writing it again would fail again."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None and (_is_closed_pipe(stream) or stream is sys.__stdout__):
                os.dup2(null, stream.fileno())
    finally:
        os.close(null)


def _is_closed_pipe(stream: TextIO | None) -> bool:
    try:
        descriptor = stream.fileno() if stream is not None else -1
    except (OSError, ValueError):  # not a file, or closed
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0)) if descriptor >= 0 else False

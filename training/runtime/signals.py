"""Graceful shutdown: the first SIGINT or SIGTERM requests a stop, the second exits at once. Imports no torch."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from graft.training.runtime.progress import log

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


_allowed = False  # by `allow_graceful_stop`


class StopFlag:
    """Flag that a signal handler sets to request a stop.

    Attributes:
        signal: the number of the received signal; 0 if there was none.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._process = os.getpid()

    def request(self, number: int, _: FrameType | None) -> None:
        """Handle a signal: set the flag, or exit at once if it is already set."""
        if self.signal:
            os._exit(128 + number)
        self.signal = number
        if os.getpid() == self._process:  # data loader workers inherit the handler and also receive Ctrl-C
            log("stopping after this batch; interrupt again to exit at once")


@contextmanager
def allow_graceful_stop() -> Iterator[None]:
    """Lets `graceful_stop` handle signals. The command line uses it; a program that calls the Python API keeps its handlers."""
    global _allowed
    _allowed, previous = True, _allowed
    try:
        yield
    finally:
        _allowed = previous


@contextmanager
def graceful_stop() -> Iterator[StopFlag]:
    """Context in which a signal only sets a flag; the code inside must check `StopFlag.signal` and finish.

    Outside `allow_graceful_stop`, and in other threads than the main one, the flag is never set, and Ctrl-C raises
    KeyboardInterrupt as usual.

    Raises:
        SystemExit: with 128 + signal, on exit, if a stop was requested.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set handlers
        yield flag
        return
    if not _allowed:
        with _undo_lightning_interrupt():
            yield flag
        return
    previous = {number: signal.signal(number, flag.request) for number in STOP_SIGNALS}
    try:
        yield flag
    except SystemExit:  # Lightning exits with code 0 on SIGTERM
        if not flag.signal:
            raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if flag.signal:
        raise SystemExit(128 + flag.signal)


@contextmanager
def _undo_lightning_interrupt() -> Iterator[None]:
    """On KeyboardInterrupt, Lightning ignores SIGINT from then on and calls sys.exit(1): restore both."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, handler)

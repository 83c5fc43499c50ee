"""Ctrl-C and SIGTERM, taken with patience: the first asks, the second leaves at once. No torch."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from graft.training.runtime.progress import say

ASKING = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether somebody asked to stop.

    Attributes:
        signal: by which signal; 0 if nobody did.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._process = os.getpid()

    def ask(self, number: int, _: FrameType | None) -> None:
        """A signal's handler."""
        if self.signal:
            os._exit(128 + number)
        self.signal = number
        if os.getpid() == self._process:  # a loader process inherits the handler, and Ctrl-C reaches it too
            say("stopping after this batch; once more leaves at once")


@contextmanager
def patience() -> Iterator[Stop]:
    """Within it a signal only asks; whoever works there looks at `Stop.signal` and ends in good order.

    Raises:
        SystemExit: with 128 + signal, at the end, if somebody asked.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield stop
        return
    before = {number: signal.signal(number, stop.ask) for number in ASKING}
    try:
        yield stop
    except SystemExit:  # Lightning's own way of ending at a SIGTERM, with the code 0
        if not stop.signal:
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stop.signal:
        raise SystemExit(128 + stop.signal)

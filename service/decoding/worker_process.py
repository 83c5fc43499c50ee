"""The decoders' processes, seen from the server: a nursery that forks, and the children that decode. `graft.service.decoding.worker` is
what they run.
"""

import logging
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

import numpy as np

from ..errors import ImageError
from ..imaging.preprocess import Decoded
from ..inference.engine import Pixels
from .ipc import Head, hear, tell

logger = logging.getLogger("graft")

# Not from the current folder, and without what others put into their site-packages to be run at every start.
COMMAND = (sys.executable, "-P", "-S", "-m", f"{__package__}.worker")
START_DEADLINE_S = 60  # far more than any start takes, even on a machine that has much else to do
_TUNED = {
    # A forked process must not find itself without threads that it believes to have.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # glibc would hand an ordinary photo's memory back after each one, and pay again for every page of the next: a fifth of
    # the time. What is larger goes back at once.
    "MALLOC_TRIM_THRESHOLD_": str(2**23),
    "MALLOC_MMAP_THRESHOLD_": str(2**22),
}
_PASSED_ON = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME")


class Died(Exception):
    """A child answers no more.

    Attributes:
        error: what to tell whoever sent the image.
    """

    def __init__(self, detail: str, limit: str | None = None) -> None:
        super().__init__(detail)
        self.error = ImageError("decode_limit", detail, limit)


class Nursery:
    """The process that children are forked from."""

    def __init__(self, command: Sequence[str]) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=_environment())

    def child(self, order: Head) -> "Child":
        """A new child. Raises OSError or EOFError if this process is gone."""
        side = order["preprocessing"]["crop"]
        ours, theirs = socket.socketpair()
        try:
            with theirs, _shared() as memory:
                memory.truncate(3 * side**2)
                pixels = np.frombuffer(mmap.mmap(memory.fileno(), 0), np.uint8).reshape(side, side, 3)
                socket.send_fds(self._control, [b"\0"], [theirs.fileno(), memory.fileno()])
            return Child(self, ours, pixels, order)
        except BaseException:
            ours.close()
            raise

    @property
    def gone(self) -> bool:
        """Whether it has ended; its children ended with it."""
        return _hung_up(self._control)

    def close(self) -> None:
        self._control.close()
        try:
            self._process.wait(START_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _hung_up(channel: socket.socket) -> bool:
    """Whether nobody is at the other end any more."""
    try:
        channel.setblocking(False)
        return not channel.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _shared() -> BinaryIO:
    """A file in memory for two processes to map."""
    return os.fdopen(os.memfd_create("pixels"), "r+b") if hasattr(os, "memfd_create") else TemporaryFile(buffering=0)


def _environment() -> dict[str, str]:
    """No secret of the server's, but everything that makes its modules found."""
    folders = [Path(__file__).parents[__package__.count(".") + 1], *map(Path, filter(None, sys.path))]
    paths = os.pathsep.join(str(folder.absolute()) for folder in folders)
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return kept | _TUNED | {"PYTHONPATH": paths}


class Child:
    """One decoding process, seen from the server; one thread uses it.

    Args:
        pixels: uint8 (S, S, 3), in memory that it shares.
    """

    def __init__(self, nursery: Nursery, channel: socket.socket, pixels: Pixels, order: Head) -> None:
        self._nursery, self._channel, self._pixels = nursery, channel, pixels
        self._deadline_s: float = order["deadline_s"]
        deadline = time.monotonic() + START_DEADLINE_S
        tell(channel, order, deadline=deadline)
        self._pid: int = hear(channel, 0, deadline)[0]["pid"]  # no image has met it yet, so it tells the truth

    def decode(self, encoded: bytes) -> Decoded:
        """Raises ImageError, RuntimeError for a bug of ours, or Died if this child must be replaced."""
        deadline = time.monotonic() + self._deadline_s
        try:
            tell(self._channel, {}, encoded, deadline)
            head, _ = hear(self._channel, 0, deadline)
        except TimeoutError:
            detail = f"Decoding the image takes longer than {self._deadline_s:g} seconds."
            raise Died(detail, "decode_deadline_s") from None
        except (OSError, EOFError, ValueError):  # the last: it says what no child of ours says
            raise Died("The decoder died on this image.") from None
        if bug := head.get("bug"):
            logger.error("decoding failed\n%s", bug)
            raise RuntimeError("decoding failed; the child's traceback is in the log")
        if code := head.get("code"):
            raise ImageError(code, head["detail"], head["limit"])
        return Decoded(self._pixels.copy(), head["width"], head["height"], head["format"], tuple(head["notes"]))

    @property
    def gone(self) -> bool:
        """Whether this process, idle, has ended."""
        return _hung_up(self._channel)

    @property
    def orphaned(self) -> bool:
        """Whether it may have died for no fault of its own."""
        return self._nursery.gone

    def close(self) -> None:
        """Returns once this process, idle or killed, has ended."""
        self._pixels = np.empty((0, 0, 3), np.uint8)  # lets go of the shared memory, and of its descriptor
        with self._channel, suppress(OSError):
            self._channel.settimeout(START_DEADLINE_S)
            self._channel.shutdown(socket.SHUT_WR)
            while self._channel.recv(2**16):
                pass

    def kill(self) -> None:
        if self._channel.fileno() >= 0:  # else it is dead already, and its number may be another's
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self.close()

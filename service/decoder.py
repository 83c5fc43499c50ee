"""Decodes images in child processes, a bounded number at a time. Whatever an image does to its child, only that image fails.

A thread cannot be stopped, a process can: too much time and it is killed, too much memory and it is refused more, and if
a decoder's C code breaks, what broke holds nothing of ours. `service.decoding` is the children's side.
"""

import dataclasses
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from service.artifact import Preprocessing
from service.batcher import Overloaded
from service.messages import Head, hear, tell
from service.preprocess import Decoded
from service.sniff import ImageError, ImageLimits

logger = logging.getLogger("graft")

# Not from the current folder, and without what others put into their site-packages to be run at every start.
COMMAND = (sys.executable, "-P", "-S", "-m", "service.decoding")
START_DEADLINE_S = 60  # far more than any start takes, even on a machine that has much else to do
_PASSED_ON = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME")


class _Died(Exception):
    """A child answers no more.

    Attributes:
        error: what to tell whoever sent the image.
    """

    def __init__(self, detail: str, limit: str | None = None) -> None:
        super().__init__(detail)
        self.error = ImageError("decode_limit", detail, limit)


class _Nursery:
    """The process that children are forked from."""

    def __init__(self, command: Sequence[str]) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=_environment())

    def child(self, order: Head) -> "_Child":
        """A new child. Raises OSError or EOFError if this process is gone."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self._control, [b"\0"], [theirs.fileno()])
            return _Child(self, ours, order)
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


def _environment() -> dict[str, str]:
    """No secret of the server's, but everything that makes its modules found."""
    folders = [Path(__file__).parent.parent, *map(Path, filter(None, sys.path))]
    paths = os.pathsep.join(str(folder.absolute()) for folder in folders)
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    # A forked process must not find itself without threads that it believes to have.
    return kept | {"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class _Child:
    """One decoding process, seen from the server; one thread uses it."""

    def __init__(self, nursery: _Nursery, channel: socket.socket, order: Head) -> None:
        self._nursery, self._channel = nursery, channel
        self._side: int = order["preprocessing"]["crop"]
        self._deadline_s: float = order["deadline_s"]
        deadline = time.monotonic() + START_DEADLINE_S
        tell(channel, order, deadline=deadline)
        self._pid: int = hear(channel, 0, deadline)[0]["pid"]  # no image has met it yet, so it tells the truth

    def decode(self, encoded: bytes) -> Decoded:
        """Raises ImageError, RuntimeError for a bug of ours, or _Died if this child must be replaced."""
        deadline = time.monotonic() + self._deadline_s
        try:
            tell(self._channel, {}, encoded, deadline)
            head, body = hear(self._channel, 3 * self._side**2, deadline)
            pixels = np.frombuffer(body, np.uint8).reshape(-1, self._side, 3)
        except TimeoutError:
            detail = f"Decoding the image takes longer than {self._deadline_s:g} seconds."
            raise _Died(detail, "decode_deadline_s") from None
        except (OSError, EOFError, ValueError):  # the last: it says what no child of ours says
            raise _Died("The decoder died on this image.") from None
        if bug := head.get("bug"):
            logger.error("decoding failed\n%s", bug)
            raise RuntimeError("decoding failed; the child's traceback is in the log")
        if code := head.get("code"):
            raise ImageError(code, head["detail"], head["limit"])
        return Decoded(pixels, head["width"], head["height"], head["format"], tuple(head["notes"]))

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


@dataclass
class _Waiting:
    encoded: bytes
    promise: Future[Decoded] = field(default_factory=Future)


class Decoder:
    """Some threads, each with a child process that decodes for it.

    Args:
        preprocessing, limits: what `service.preprocess.decode` wants to know.
        workers: how many images are decoded at once.
        max_waiting: how many may be in here, waiting or being decoded; one more is refused.
        deadline_s: how long one image may take before its child is killed.
        max_bytes: of memory that one image may take.
        command: the children's program; another one only in tests.

    Raises:
        RuntimeError: if the children's program does not start.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        limits: ImageLimits,
        workers: int,
        max_waiting: int,
        deadline_s: float,
        max_bytes: int,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._order = {
            "preprocessing": preprocessing.model_dump(mode="json"),
            "limits": dataclasses.asdict(limits),
            "deadline_s": deadline_s,
            "max_bytes": max_bytes,
        }
        self._max_waiting = max_waiting
        self._inside, self._closed, self._lock = 0, False, threading.Lock()
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._command, self._birth = command, threading.Lock()
        self._nursery = _Nursery(command)
        children = [self._child() for _ in range(workers)]  # now, not with the first image
        self._workers = [
            threading.Thread(target=self._work, args=[child], name=f"decoder-{n}", daemon=True)
            for n, child in enumerate(children)
        ]
        for worker in self._workers:
            worker.start()

    @property
    def depth(self) -> int:
        """How many images wait."""
        return self._waiting.qsize()

    @property
    def full(self) -> bool:
        """Whether one more image would be refused."""
        return self._inside >= self._max_waiting

    def submit(self, encoded: bytes) -> Future[Decoded]:
        """The promise of one image's pixels: of an ImageError if it cannot be used.

        Cancel it if nobody wants the pixels any more: what has not begun is then not decoded.

        Raises:
            Overloaded: at once if there is no place.
        """
        waiting = _Waiting(encoded)
        with self._lock:
            if self._closed:
                raise Overloaded("The service is shutting down.")
            if self.full:
                raise Overloaded(f"{self._max_waiting} images are being decoded already.")
            self._inside += 1
            self._waiting.put(waiting)
        waiting.promise.add_done_callback(lambda _: self._left(waiting))
        return waiting.promise

    def close(self) -> None:
        """Finishes what waits, then ends the children."""
        with self._lock:
            self._closed = True
            for _ in self._workers:
                self._waiting.put(None)
        for worker in self._workers:
            worker.join()
        self._nursery.close()

    def _left(self, waiting: _Waiting) -> None:
        waiting.encoded = b""  # what was cancelled stays in the queue for a while, but must not keep its bytes
        with self._lock:
            self._inside -= 1

    def _work(self, child: _Child) -> None:
        while (waiting := self._waiting.get()) is not None:
            if waiting.promise.set_running_or_notify_cancel():
                # Whoever killed it while it was idle, it was not this image.
                child = self._another(child) if child.gone else child
                child = self._keep(waiting, child)
            del waiting  # while there is nothing to do, nothing is held
        child.close()

    def _keep(self, waiting: _Waiting, child: _Child, again: bool = True) -> _Child:
        """Decodes one image as was promised; returns the child for the next one."""
        try:
            waiting.promise.set_result(child.decode(waiting.encoded))
        except _Died as death:
            again = again and child.orphaned
            if not again:
                waiting.promise.set_exception(death.error)
            child = self._another(child)
            return self._keep(waiting, child, again=False) if again else child
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asked, and this thread must live on
            # Its traceback holds the image and the promise, and the promise holds it: garbage, but for a long time.
            waiting.promise.set_exception(error.with_traceback(None))
        return child

    def _another(self, dead: _Child) -> _Child:
        """A child in place of one that died; the dead one if that is impossible, to try again with the next image."""
        dead.kill()
        try:
            return self._child()
        except RuntimeError:
            logger.exception("no decoder can be started")
            return dead

    def _child(self) -> _Child:
        """A new child, of a new nursery if the old one is gone. Raises RuntimeError."""
        with self._birth:
            for _ in range(2):
                try:
                    return self._nursery.child(self._order)
                except (OSError, EOFError, ValueError):
                    self._nursery.close()
                    self._nursery = _Nursery(self._command)
        raise RuntimeError("The decoders' program does not start; what it says stands above.")

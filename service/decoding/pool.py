"""Decodes images in child processes, a bounded number at a time. Whatever an image does to its child, only that image fails.

A thread cannot be stopped, a process can: too much time and it is killed, too much memory and it is refused more, and if
a decoder's C code breaks, what broke holds nothing of ours.
"""

import dataclasses
import logging
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from ..artifact import Preprocessing
from ..errors import Overloaded
from ..imaging.headers import ImageLimits
from ..imaging.preprocess import Decoded
from .worker_process import COMMAND, Child, Died, Nursery

logger = logging.getLogger("graft")


@dataclass
class _Waiting:
    encoded: bytes
    promise: Future[Decoded] = field(default_factory=Future)


class Decoder:
    """Some threads, each with a child process that decodes for it.

    Args:
        preprocessing, limits: what `graft.service.imaging.preprocess.decode` wants to know.
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
        self._nursery = Nursery(command)
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

    def _work(self, child: Child) -> None:
        while (waiting := self._waiting.get()) is not None:
            if waiting.promise.set_running_or_notify_cancel():
                # Whoever killed it while it was idle, it was not this image.
                child = self._another(child) if child.gone else child
                child = self._keep(waiting, child)
            del waiting  # while there is nothing to do, nothing is held
        child.close()

    def _keep(self, waiting: _Waiting, child: Child, again: bool = True) -> Child:
        """Decodes one image as was promised; returns the child for the next one."""
        try:
            waiting.promise.set_result(child.decode(waiting.encoded))
        except Died as death:
            again = again and child.orphaned
            if not again:
                waiting.promise.set_exception(death.error)
            child = self._another(child)
            return self._keep(waiting, child, again=False) if again else child
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asked, and this thread must live on
            # Its traceback holds the image and the promise, and the promise holds it: garbage, but for a long time.
            waiting.promise.set_exception(error.with_traceback(None))
        return child

    def _another(self, dead: Child) -> Child:
        """A child in place of one that died; the dead one if that is impossible, to try again with the next image."""
        dead.kill()
        try:
            return self._child()
        except RuntimeError:
            logger.exception("no decoder can be started")
            return dead

    def _child(self) -> Child:
        """A new child, of a new nursery if the old one is gone. Raises RuntimeError."""
        with self._birth:
            for _ in range(2):
                try:
                    return self._nursery.child(self._order)
                except (OSError, EOFError, ValueError):
                    self._nursery.close()
                    self._nursery = Nursery(self._command)
        raise RuntimeError("The decoders' program does not start; what it says stands above.")

"""A pool of worker processes that decode images. If an image crashes or blocks its worker, only that image fails.

Processes, unlike threads, can be killed after a timeout and can have a memory limit. A bug in a decoder's C code compromises
only a sandboxed process without access to the server's memory.
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
    """Threads that each decode images in a worker process.

    Args:
        preprocessing, limits: arguments of `graft.service.imaging.preprocess.decode`.
        workers: number of images decoded in parallel.
        max_waiting: maximum number of images, queued or being decoded; further images are rejected.
        deadline_s: maximum time to decode one image; after it, the worker is killed.
        max_bytes: maximum memory to decode one image.
        command: command line of the worker processes; tests override it.

    Raises:
        RuntimeError: if the worker processes do not start.
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
        processes = [self._child() for _ in range(workers)]  # now, not with the first image
        self._workers = [
            threading.Thread(target=self._work, args=[process], name=f"decoder-{n}", daemon=True)
            for n, process in enumerate(processes)
        ]
        for thread in self._workers:
            thread.start()

    @property
    def depth(self) -> int:
        """Number of queued images."""
        return self._waiting.qsize()

    @property
    def full(self) -> bool:
        """Whether another image would be rejected."""
        return self._inside >= self._max_waiting

    def submit(self, encoded: bytes) -> Future[Decoded]:
        """Queues one image. Returns a future of its pixels; it raises an ImageError if the image cannot be used.

        Cancel the future if the pixels are no longer needed: an image that is still queued is then skipped.

        Raises:
            Overloaded: immediately if the queue is full.
        """
        queued = _Waiting(encoded)
        with self._lock:
            if self._closed:
                raise Overloaded("The service is shutting down.")
            if self.full:
                raise Overloaded(f"The queue is full: {self._max_waiting} images are being decoded.")
            self._inside += 1
            self._waiting.put(queued)
        queued.promise.add_done_callback(lambda _: self._left(queued))
        return queued.promise

    def close(self) -> None:
        """Finishes the queued images, then stops the workers."""
        with self._lock:
            self._closed = True
            for _ in self._workers:
                self._waiting.put(None)
        for thread in self._workers:
            thread.join()
        self._nursery.close()

    def _left(self, waiting: _Waiting) -> None:
        waiting.encoded = b""  # a cancelled image stays in the queue for a while; free its bytes now
        with self._lock:
            self._inside -= 1

    def _work(self, child: Child) -> None:
        while (queued := self._waiting.get()) is not None:
            if queued.promise.set_running_or_notify_cancel():
                # A worker that exited while idle was not killed by this image.
                child = self._another(child) if child.gone else child
                child = self._keep(queued, child)
            del queued  # free the image while waiting for the next one
        child.close()

    def _keep(self, waiting: _Waiting, child: Child, again: bool = True) -> Child:
        """Decodes one image and sets its future. Returns the worker for the next image."""
        try:
            waiting.promise.set_result(child.decode(waiting.encoded))
        except Died as died:
            again = again and child.orphaned
            if not again:
                waiting.promise.set_exception(died.error)
            child = self._another(child)
            return self._keep(waiting, child, again=False) if again else child
        except Exception as error:  # noqa: BLE001 - reported through the future; the thread must continue
            # The traceback references the image and the future, which references the exception: a cycle that is freed late.
            waiting.promise.set_exception(error.with_traceback(None))
        return child

    def _another(self, dead: Child) -> Child:
        """Replaces a dead worker. If that fails, returns the dead one, so that the next image tries again."""
        dead.kill()
        try:
            return self._child()
        except RuntimeError:
            logger.exception("a decode worker could not be started")
            return dead

    def _child(self) -> Child:
        """Forks a new worker; restarts the fork server if it has exited. Raises RuntimeError."""
        with self._birth:
            for _ in range(2):
                try:
                    return self._nursery.child(self._order)
                except (OSError, EOFError, ValueError):
                    self._nursery.close()
                    self._nursery = Nursery(self._command)
        raise RuntimeError("The decode workers do not start; see their error output above.")

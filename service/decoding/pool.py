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
from ..imaging.preprocess import DecodedImage
from .worker_process import COMMAND, DecodeWorker, ForkServer, WorkerDied

logger = logging.getLogger("graft")


@dataclass
class _QueuedImage:
    encoded: bytes
    future: Future[DecodedImage] = field(default_factory=Future)


class DecoderPool:
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
        self._config = {
            "preprocessing": preprocessing.model_dump(mode="json"),
            "limits": dataclasses.asdict(limits),
            "deadline_s": deadline_s,
            "max_bytes": max_bytes,
        }
        self._max_waiting = max_waiting
        self._n_pending, self._closed, self._lock = 0, False, threading.Lock()
        self._queue: queue.SimpleQueue[_QueuedImage | None] = queue.SimpleQueue()
        self._command, self._spawn_lock = command, threading.Lock()
        self._fork_server = ForkServer(command)
        processes = [self._spawn() for _ in range(workers)]  # now, not with the first image
        self._threads = [
            threading.Thread(target=self._run, args=[process], name=f"decoder-{n}", daemon=True)
            for n, process in enumerate(processes)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def depth(self) -> int:
        """Number of queued images."""
        return self._queue.qsize()

    @property
    def full(self) -> bool:
        """Whether another image would be rejected."""
        return self._n_pending >= self._max_waiting

    def submit(self, encoded: bytes) -> Future[DecodedImage]:
        """Queues one image. Returns a future of its pixels; it raises an ImageError if the image cannot be used.

        Cancel the future if the pixels are no longer needed: an image that is still queued is then skipped.

        Raises:
            Overloaded: immediately if the queue is full.
        """
        queued = _QueuedImage(encoded)
        with self._lock:
            if self._closed:
                raise Overloaded("The service is shutting down.")
            if self.full:
                raise Overloaded(f"The queue is full: {self._max_waiting} images are being decoded.")
            self._n_pending += 1
            self._queue.put(queued)
        queued.future.add_done_callback(lambda _: self._release(queued))
        return queued.future

    def close(self) -> None:
        """Finishes the queued images, then stops the workers."""
        with self._lock:
            self._closed = True
            for _ in self._threads:
                self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._fork_server.close()

    def _release(self, queued: _QueuedImage) -> None:
        queued.encoded = b""  # a cancelled image stays in the queue for a while; free its bytes now
        with self._lock:
            self._n_pending -= 1

    def _run(self, worker: DecodeWorker) -> None:
        while (queued := self._queue.get()) is not None:
            if queued.future.set_running_or_notify_cancel():
                # A worker that exited while idle was not killed by this image.
                worker = self._respawn(worker) if worker.has_exited else worker
                worker = self._run_one(queued, worker)
            del queued  # free the image while waiting for the next one
        worker.close()

    def _run_one(self, queued: _QueuedImage, worker: DecodeWorker, retry: bool = True) -> DecodeWorker:
        """Decodes one image and sets its future. Returns the worker for the next image."""
        try:
            queued.future.set_result(worker.decode(queued.encoded))
        except WorkerDied as died:
            retry = retry and worker.is_orphaned
            if not retry:
                queued.future.set_exception(died.error)
            worker = self._respawn(worker)
            return self._run_one(queued, worker, retry=False) if retry else worker
        except Exception as error:  # noqa: BLE001 - reported through the future; the thread must continue
            # The traceback references the image and the future, which references the exception: a cycle that is freed late.
            queued.future.set_exception(error.with_traceback(None))
        return worker

    def _respawn(self, dead: DecodeWorker) -> DecodeWorker:
        """Replaces a dead worker. If that fails, returns the dead one, so that the next image tries again."""
        dead.kill()
        try:
            return self._spawn()
        except RuntimeError:
            logger.exception("a decode worker could not be started")
            return dead

    def _spawn(self) -> DecodeWorker:
        """Forks a new worker; restarts the fork server if it has exited. Raises RuntimeError."""
        with self._spawn_lock:
            for _ in range(2):
                try:
                    return self._fork_server.fork_worker(self._config)
                except (OSError, EOFError, ValueError):
                    self._fork_server.close()
                    self._fork_server = ForkServer(self._command)
        raise RuntimeError("The decode workers do not start; see their error output above.")

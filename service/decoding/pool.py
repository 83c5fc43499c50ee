"""A pool of worker processes that decode images. If an image crashes or blocks its worker, only that image fails.

Processes, unlike threads, can be killed after a timeout and can have a memory limit. A bug in a decoder's C code compromises
only a sandboxed process without access to the server's memory.

Images that are costly to decode have a queue and workers of their own, at a lower scheduling priority: however many come,
ordinary images find free workers and most of the processor time, and without ordinary images all cores are theirs.
"""

import dataclasses
import itertools
import logging
import math
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from ..errors import Overloaded
from ..imaging.decode_cost import is_costly
from ..imaging.headers import ImageLimits
from ..imaging.preprocess import DecodedImage
from ..manifest import Preprocessing
from .ipc import MessageHeader
from .worker_process import COMMAND, DecodeWorker, ForkServer, WorkerDied

logger = logging.getLogger("graft")

# The workers of costly images take what ordinary ones leave. Beside four callers with photos, four with 64 megapixels left them
# 36 % of their throughput with 5, 54 % with 10, and 90 % with 19; the large images took as long with each (on two cores).
COSTLY_NICE = 19
# For each estimated second of decoding, an image lets those pass that come up to so many seconds later. So a few large images
# do not delay many small ones, and yet none waits for ever.
PATIENCE = 20.0


@dataclass(order=True)
class _QueuedImage:
    """An image in a queue, which is in the order of `turn` and, of two with the same, of `number`."""

    turn: float
    number: int
    encoded: bytes = field(compare=False)
    future: Future[DecodedImage] = field(default_factory=Future, compare=False)


class _Lane:
    """A queue with its workers: one for ordinary images, one for costly ones."""

    def __init__(self, config: MessageHeader, nice: int) -> None:
        self.config, self.nice = config, nice
        self.queue: queue.PriorityQueue[_QueuedImage] = queue.PriorityQueue()


class DecoderPool:
    """Threads that each decode images in a worker process.

    Args:
        preprocessing, limits: arguments of `graft.service.imaging.preprocess.decode`.
        workers: number of ordinary images decoded in parallel, and of costly ones.
        max_waiting: maximum number of images, queued or being decoded; further images are rejected.
        deadline_s: maximum time to decode one image; after it, the worker is killed.
        max_bytes: maximum memory to decode one image.
        command: command line of the worker processes; tests override it.
        costly_deadline_s: as deadline_s, for costly images, which take longer beside ordinary ones; None: the same.

    Attributes:
        restrictions: names of those that hold for the workers, see `graft.service.decoding.sandbox.confine`.

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
        costly_deadline_s: float | None = None,
    ) -> None:
        config = {
            "preprocessing": preprocessing.model_dump(mode="json"),
            "limits": dataclasses.asdict(limits),
            "deadline_s": deadline_s,
            "max_bytes": max_bytes,
        }
        self._ordinary = _Lane(config, nice=0)
        self._costly = _Lane(config | {"deadline_s": costly_deadline_s or deadline_s}, nice=COSTLY_NICE)
        self._max_waiting = max_waiting
        self._n_pending, self._closed, self._lock = 0, False, threading.Lock()
        self._numbers = itertools.count()
        self._command, self._spawn_lock = command, threading.Lock()
        self._fork_server = ForkServer(command)
        lanes = [self._ordinary, self._costly] * workers
        processes = [self._spawn(lane) for lane in lanes]  # now, not with the first image
        self.restrictions = processes[0].restrictions
        self._threads = [
            threading.Thread(target=self._run, args=[lane, process], name=f"decoder-{n}", daemon=True)
            for n, (lane, process) in enumerate(zip(lanes, processes, strict=True))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def depth(self) -> int:
        """Number of queued images."""
        return self._ordinary.queue.qsize() + self._costly.queue.qsize()

    @property
    def full(self) -> bool:
        """Whether another image would be rejected."""
        return self._n_pending >= self._max_waiting

    def submit(self, encoded: bytes, cost_ms: float = 0.0) -> Future[DecodedImage]:
        """Queues one image. Returns a future of its pixels; it raises an ImageError if the image cannot be used.

        Cancel the future if the pixels are no longer needed: an image that is still queued is then skipped.

        Args:
            cost_ms: the estimated time to decode it, which decides its queue and its place there.

        Raises:
            Overloaded: immediately if the queue is full.
        """
        lane = self._costly if is_costly(cost_ms) else self._ordinary
        queued = _QueuedImage(time.monotonic() + PATIENCE * cost_ms / 1e3, next(self._numbers), encoded)
        with self._lock:
            if self._closed:
                raise Overloaded("The service is shutting down.")
            if self.full:
                raise Overloaded(f"The queue is full: {self._max_waiting} images are being decoded.")
            self._n_pending += 1
            lane.queue.put(queued)
        queued.future.add_done_callback(lambda _: self._release(queued))
        return queued.future

    def close(self) -> None:
        """Finishes the queued images, then stops the workers."""
        with self._lock:
            self._closed = True
            for lane in [self._ordinary, self._costly] * len(self._threads):
                lane.queue.put(_QueuedImage(math.inf, next(self._numbers), b""))
        for thread in self._threads:
            thread.join()
        self._fork_server.close()

    def _release(self, queued: _QueuedImage) -> None:
        queued.encoded = b""  # a cancelled image stays in the queue for a while; free its bytes now
        with self._lock:
            self._n_pending -= 1

    def _run(self, lane: _Lane, worker: DecodeWorker) -> None:
        while (queued := lane.queue.get()).turn < math.inf:
            if queued.future.set_running_or_notify_cancel():
                # A worker that exited while idle was not killed by this image.
                worker = self._respawn(lane, worker) if worker.has_exited else worker
                worker = self._run_one(lane, queued, worker)
            del queued  # free the image while waiting for the next one
        worker.close()

    def _run_one(self, lane: _Lane, queued: _QueuedImage, worker: DecodeWorker, retry: bool = True) -> DecodeWorker:
        """Decodes one image and sets its future. Returns the worker for the next image."""
        try:
            queued.future.set_result(worker.decode(queued.encoded))
        except WorkerDied as died:
            retry = retry and worker.is_orphaned
            if not retry:
                queued.future.set_exception(died.error)
            worker = self._respawn(lane, worker)
            return self._run_one(lane, queued, worker, retry=False) if retry else worker
        except Exception as error:  # noqa: BLE001 - reported through the future; the thread must continue
            # The traceback references the image and the future, which references the exception: a cycle that is freed late.
            queued.future.set_exception(error.with_traceback(None))
        return worker

    def _respawn(self, lane: _Lane, dead: DecodeWorker) -> DecodeWorker:
        """Replaces a dead worker. If that fails, returns the dead one, so that the next image tries again."""
        dead.kill()
        try:
            return self._spawn(lane)
        except RuntimeError:
            logger.exception("a decode worker could not be started")
            return dead

    def _spawn(self, lane: _Lane) -> DecodeWorker:
        """Forks a new worker; restarts the fork server if it has exited. Raises RuntimeError."""
        with self._spawn_lock:
            for _ in range(2):
                try:
                    worker = self._fork_server.fork_worker(lane.config)
                    worker.set_nice(lane.nice)
                    return worker
                except (OSError, EOFError, ValueError):
                    self._fork_server.close()
                    self._fork_server = ForkServer(self._command)
        raise RuntimeError("The decode workers do not start; see their error output above.")

"""A pool of worker processes that decode images. If an image crashes or blocks its worker, only that image fails.

Processes, unlike threads, can be killed after a timeout and can have a memory limit. A bug in a decoder's C code compromises
only a sandboxed process without access to the server's memory.

Images that are costly to decode have a queue and workers of their own, at a lower scheduling priority: however many come,
ordinary images find free workers and most of the processor time, and without ordinary images all cores are theirs.
"""

import asyncio
import dataclasses
import heapq
import itertools
import logging
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
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


class Decoding(asyncio.Future[DecodedImage]):
    """The pixels of one image. Cancel it if they are no longer needed: an image that is still queued is then skipped.

    Attributes:
        started: whether a worker has begun to decode the image.
    """

    started = False


@dataclass(order=True)
class _QueuedImage:
    """An image in a queue, which is in the order of `turn` and, of two with the same, of `number`."""

    turn: float
    number: int
    encoded: bytes = field(compare=False)
    decoding: Decoding = field(compare=False)


class _Lane:
    """A queue with its workers: one for ordinary images, one for costly ones."""

    def __init__(self, config: MessageHeader, nice: int) -> None:
        self.config, self.nice = config, nice
        self.queue: list[_QueuedImage] = []  # a heap
        self.idle: list[DecodeWorker] = []  # the last one used is the next: its memory is in the processor's cache

    def next_image(self) -> _QueuedImage | None:
        """Takes the next image that is still wanted from the queue; None if there is none."""
        while self.queue:
            queued = heapq.heappop(self.queue)
            if not queued.decoding.done():
                return queued
        return None


class DecoderPool:
    """Decodes images in worker processes. Its methods are for one event loop; only creating it blocks.

    The event loop itself talks to the workers. A thread that waits for each of them would take the lock of the interpreter from
    it several times for every image.

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
        self._n_pending, self._closed = 0, False
        self._numbers = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()  # one for each worker that decodes
        # One thread starts all workers. The calling thread creates it, so that they have its scheduling priority.
        self._spawner = ThreadPoolExecutor(1, thread_name_prefix="decode-spawner")
        self._command, self._fork_server = command, ForkServer(command)
        for lane in [self._ordinary, self._costly] * workers:
            lane.idle.append(self._spawner.submit(self._spawn, lane).result())  # now, not with the first image
        self.restrictions = self._ordinary.idle[0].restrictions

    @property
    def depth(self) -> int:
        """Number of queued images."""
        return len(self._ordinary.queue) + len(self._costly.queue)

    @property
    def full(self) -> bool:
        """Whether another image would be rejected."""
        return self._n_pending >= self._max_waiting

    def submit(self, encoded: bytes, cost_ms: float = 0.0) -> Decoding:
        """Queues one image. Returns a future of its pixels; it raises an ImageError if the image cannot be used.

        Args:
            cost_ms: the estimated time to decode it, which decides its queue and its place there.

        Raises:
            Overloaded: immediately if the queue is full.
        """
        if self._closed:
            raise Overloaded("The service is shutting down.")
        if self.full:
            raise Overloaded(f"The queue is full: {self._max_waiting} images are being decoded.")
        lane = self._costly if is_costly(cost_ms) else self._ordinary
        decoding = Decoding(loop=asyncio.get_running_loop())
        queued = _QueuedImage(time.monotonic() + PATIENCE * cost_ms / 1e3, next(self._numbers), encoded, decoding)
        self._n_pending += 1
        decoding.add_done_callback(lambda _: self._release(queued))
        heapq.heappush(lane.queue, queued)
        if lane.idle:
            task = asyncio.get_running_loop().create_task(self._run(lane, lane.idle.pop()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return decoding

    async def close(self) -> None:
        """Finishes the queued images, then stops the workers."""
        self._closed = True
        if self._tasks:
            await asyncio.wait(self._tasks)
        workers = [*self._ordinary.idle, *self._costly.idle]
        for worker in workers:
            worker.detach()
        await asyncio.get_running_loop().run_in_executor(self._spawner, self._stop, workers)
        self._spawner.shutdown()

    def _stop(self, workers: Iterable[DecodeWorker]) -> None:
        for worker in workers:
            worker.close()
        self._fork_server.close()

    def _release(self, queued: _QueuedImage) -> None:
        queued.encoded = b""  # a cancelled image stays in the queue for a while; free its bytes now
        self._n_pending -= 1

    async def _run(self, lane: _Lane, worker: DecodeWorker) -> None:
        """Decodes with one worker until the queue is empty."""
        try:
            while queued := lane.next_image():
                queued.decoding.started = True
                # A worker that exited while idle was not killed by this image.
                worker = await self._respawn(lane, worker) if worker.has_exited else worker
                worker = await self._run_one(lane, queued, worker)
        except asyncio.CancelledError:  # the event loop ends; what the worker would answer now is not for the next image
            worker.detach()
            worker.kill()
            raise
        finally:
            lane.idle.append(worker)

    async def _run_one(self, lane: _Lane, queued: _QueuedImage, worker: DecodeWorker, retry: bool = True) -> DecodeWorker:
        """Decodes one image and sets its future. Returns the worker for the next image."""
        try:
            decoded = await worker.decode(queued.encoded)
        except WorkerDied as died:
            retry = retry and worker.is_orphaned
            if not retry:
                _set_exception(queued.decoding, died.error)
            worker = await self._respawn(lane, worker)
            return await self._run_one(lane, queued, worker, retry=False) if retry else worker
        except Exception as error:  # noqa: BLE001 - reported through the future; the worker goes on
            # The traceback references the image and the future, which references the exception: a cycle that is freed late.
            _set_exception(queued.decoding, error.with_traceback(None))
        else:
            if not queued.decoding.done():
                queued.decoding.set_result(decoded)
        return worker

    async def _respawn(self, lane: _Lane, dead: DecodeWorker) -> DecodeWorker:
        """Replaces a dead worker. If that fails, returns the dead one, so that the next image tries again."""
        dead.detach()
        return await asyncio.get_running_loop().run_in_executor(self._spawner, self._replace, lane, dead)

    def _replace(self, lane: _Lane, dead: DecodeWorker) -> DecodeWorker:
        dead.kill()
        try:
            return self._spawn(lane)
        except RuntimeError:
            logger.exception("a decode worker could not be started")
            return dead

    def _spawn(self, lane: _Lane) -> DecodeWorker:
        """Forks a new worker; restarts the fork server if it has exited. Raises RuntimeError."""
        for _ in range(2):
            try:
                worker = self._fork_server.fork_worker(lane.config)
                worker.set_nice(lane.nice)
                return worker
            except (OSError, EOFError, ValueError):
                self._fork_server.close()
                self._fork_server = ForkServer(self._command)
        raise RuntimeError("The decode workers do not start; see their error output above.")


def _set_exception(decoding: Decoding, error: Exception) -> None:
    if not decoding.done():  # else it was cancelled
        decoding.set_exception(error)

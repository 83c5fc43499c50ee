"""Dynamic batching: a bounded queue in front of the engine, with a deadline for each image.

A worker thread takes all queued images, up to one batch, as soon as it is free. It never waits for a batch to fill.
"""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from ..errors import Overloaded
from .engine import DeviceFailed, Engine, Outputs, Pixels, device_failure


@dataclass
class _QueuedImage:
    pixels: Pixels  # uint8 (S, S, 3)
    deadline: float  # time.monotonic() clock
    future: Future[Outputs] = field(default_factory=Future)


class Batcher:
    """Batches single images for an engine.

    Args:
        engine: the engine that runs the batches.
        max_waiting: maximum number of queued images; further images are rejected.
        deadline_s: maximum time in the queue; after it, an image is dropped.
        observe: called with the size of every batch.

    Attributes:
        failure: why the engine's device has failed; then every image gets this error, and the process must end.
    """

    def __init__(
        self, engine: Engine, max_waiting: int, deadline_s: float, observe: Callable[[int], None] = lambda n_images: None
    ) -> None:
        self._engine = engine
        self._observe = observe
        self._closed = False
        self.failure: DeviceFailed | None = None
        self._started_at: dict[str, float] = {}  # start time of the current engine call, by thread name
        self._deadline_s = deadline_s
        self._max_waiting = max_waiting
        # In C, without a lock that every image's threads would contend for.
        self._queue: queue.SimpleQueue[_QueuedImage | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._run, name=f"stream-{n}", daemon=True) for n in range(engine.streams)]
        for thread in self._threads:
            thread.start()

    def submit(self, pixels: Pixels) -> Future[Outputs]:
        """Queues one image. Returns a future of its outputs, logits (1, C) and vectors (1, D).

        Cancel the future if the result is no longer needed: an image that is still queued is then skipped.

        Raises:
            Overloaded: immediately if the queue is full, or from the future if the deadline passed.
            DeviceFailed: from the future, if the device has failed.
        """
        if self._closed:
            raise Overloaded("The service is stopping.")
        if self.depth >= self._max_waiting:
            raise Overloaded(f"The queue is full: {self._max_waiting} images are waiting.", "max_waiting")
        queued = _QueuedImage(pixels, time.monotonic() + self._deadline_s)
        self._queue.put(queued)
        return queued.future

    @property
    def depth(self) -> int:
        """Number of queued images."""
        return self._queue.qsize()

    @property
    def longest_call_s(self) -> float:
        """Seconds since the start of the oldest running engine call; 0 if none is running."""
        return time.monotonic() - min(list(self._started_at.values()), default=time.monotonic())

    def close(self) -> None:
        """Finishes the queued images, then stops the threads."""
        self._closed = True
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, is_last = self._take_batch(first)
            if batch := [queued for queued in batch if self._should_run(queued)]:
                self._compute(batch)
            if is_last:
                break

    def _take_batch(self, first: _QueuedImage) -> tuple[list[_QueuedImage], bool]:
        """Takes the queued images, up to one batch. Also returns whether the end of the queue was reached."""
        batch = [first]
        while len(batch) < self._engine.max_batch:
            try:
                queued = self._queue.get_nowait()
            except queue.Empty:
                break
            if queued is None:
                return batch, True
            batch.append(queued)
        return batch, False

    @staticmethod
    def _should_run(queued: _QueuedImage) -> bool:
        if not queued.future.set_running_or_notify_cancel():
            return False
        if time.monotonic() > queued.deadline:
            queued.future.set_exception(Overloaded("The image waited past its deadline.", "queue_deadline_s"))
            return False
        return True

    def _compute(self, batch: list[_QueuedImage]) -> None:
        if self.failure:
            self._fail(batch, self.failure)
            return
        try:
            outputs = self._run_engine(batch)
        except Exception as error:  # noqa: BLE001 - reported through the futures; the thread must continue
            if failure := device_failure(error):
                self._fail(batch, failure)
            else:
                self._retry_separately(batch, error)
            return
        for index, queued in enumerate(batch):
            row = slice(index, index + 1)
            queued.future.set_result(Outputs(outputs.logits[row], outputs.vectors[row]))

    def _run_engine(self, batch: list[_QueuedImage]) -> Outputs:
        thread_name = threading.current_thread().name
        self._started_at[thread_name] = time.monotonic()
        try:
            return self._engine(np.stack([queued.pixels for queued in batch]))
        finally:
            del self._started_at[thread_name]
            self._observe(len(batch))

    def _fail(self, batch: list[_QueuedImage], failure: DeviceFailed) -> None:
        """Gives up: no other call to this engine can succeed. Not even one by one, with the next images waiting behind."""
        self.failure = failure  # before any caller has the error, so that the service is not ready from then on
        for queued in batch:
            queued.future.set_exception(DeviceFailed(*failure.args))

    def _retry_separately(self, batch: list[_QueuedImage], error: Exception) -> None:
        """Retries the images of a failed batch one at a time, so that one bad image does not fail the others."""
        if len(batch) == 1:
            batch[0].future.set_exception(error)
            return
        for queued in batch:
            self._compute([queued])

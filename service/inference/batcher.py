"""A bounded queue in front of the engine: batches what waits, refuses what cannot be served in time.

A lane takes whatever waits the moment it is free, so a lone request is never delayed for company.
"""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from ..errors import Overloaded
from .engine import Engine, Outputs, Pixels


@dataclass
class _Waiting:
    pixels: Pixels  # uint8 (S, S, 3)
    deadline: float  # on time.monotonic()'s clock
    answer: Future[Outputs] = field(default_factory=Future)


class Batcher:
    """Runs single images through an engine.

    Args:
        engine: what computes.
        max_waiting: how many images may wait; one more is refused.
        deadline_s: how long an image may wait before it is dropped uncomputed.
        observe: told how many images every call of the engine gets.
    """

    def __init__(
        self, engine: Engine, max_waiting: int, deadline_s: float, observe: Callable[[int], None] = lambda n_images: None
    ) -> None:
        self._engine = engine
        self._observe = observe
        self._closed = False
        self._since: dict[str, float] = {}  # when each lane that computes has begun
        self._deadline_s = deadline_s
        self._waiting: queue.Queue[_Waiting | None] = queue.Queue(max_waiting)
        self._lanes = [threading.Thread(target=self._run, name=f"lane-{n}", daemon=True) for n in range(engine.lanes)]
        for lane in self._lanes:
            lane.start()

    def submit(self, pixels: Pixels) -> Future[Outputs]:
        """The promise of one image's outputs, logits (1, C) and vectors (1, D).

        Cancel it if nobody wants the answer any more: what has not begun is then not computed.

        Raises:
            Overloaded: at once if the queue is full, or from the future if the deadline passed.
        """
        if self._closed:
            raise Overloaded("The service is stopping.")
        waiting = _Waiting(pixels, time.monotonic() + self._deadline_s)
        try:
            self._waiting.put_nowait(waiting)
        except queue.Full:
            raise Overloaded(f"{self._waiting.maxsize} images are waiting already.", "max_waiting") from None
        return waiting.answer

    @property
    def depth(self) -> int:
        """How many images wait."""
        return self._waiting.qsize()

    @property
    def computing_s(self) -> float:
        """How many seconds the oldest call of the engine has lasted; 0 if there is none."""
        return time.monotonic() - min(list(self._since.values()), default=time.monotonic())

    def close(self) -> None:
        """Finishes what waits, then ends the lanes."""
        self._closed = True
        for _ in self._lanes:
            self._waiting.put(None)
        for lane in self._lanes:
            lane.join()

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, last = self._company(first)
            if batch := [waiting for waiting in batch if self._wanted(waiting)]:
                self._compute(batch)
            if last:
                break

    def _company(self, first: _Waiting) -> tuple[list[_Waiting], bool]:
        """The first and whatever waits behind it, up to a batch; and whether the end was met."""
        batch = [first]
        while len(batch) < self._engine.max_batch:
            try:
                following = self._waiting.get_nowait()
            except queue.Empty:
                break
            if following is None:
                return batch, True
            batch.append(following)
        return batch, False

    @staticmethod
    def _wanted(waiting: _Waiting) -> bool:
        if not waiting.answer.set_running_or_notify_cancel():
            return False
        if time.monotonic() > waiting.deadline:
            waiting.answer.set_exception(Overloaded("The image waited past its deadline.", "queue_deadline_s"))
            return False
        return True

    def _compute(self, batch: list[_Waiting]) -> None:
        try:
            outputs = self._outputs(batch)
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asked, and the lane must live on
            self._fail(batch, error)
            return
        for index, waiting in enumerate(batch):
            row = slice(index, index + 1)
            waiting.answer.set_result(Outputs(outputs.logits[row], outputs.vectors[row]))

    def _outputs(self, batch: list[_Waiting]) -> Outputs:
        lane = threading.current_thread().name
        self._since[lane] = time.monotonic()
        try:
            return self._engine(np.stack([waiting.pixels for waiting in batch]))
        finally:
            del self._since[lane]
            self._observe(len(batch))

    def _fail(self, batch: list[_Waiting], error: Exception) -> None:
        """One image's failure is its own: those that came with it are tried again, each alone."""
        if len(batch) == 1:
            batch[0].answer.set_exception(error)
            return
        for waiting in batch:
            self._compute([waiting])

"""One image's road to the network's outputs: looked at, admitted, decoded, computed. Every queue on it is bounded."""

import asyncio
import time
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..decoding.pool import Decoder
from ..errors import Overloaded, Refused
from ..imaging.headers import check, sniff
from ..imaging.preprocess import Decoded
from ..inference.batcher import Batcher
from ..inference.engine import Outputs
from ..inference.model import Model
from ..monitoring.metrics import Metrics
from ..settings import Settings
from .admission import Room

LATE = "The image waited past its deadline."
MOST_INVALID = 3  # answers in a row that are no numbers, until the service no longer calls itself ready

R = TypeVar("R")


class Seen(NamedTuple):
    """One image, decoded and looked at."""

    decoded: Decoded
    outputs: Outputs
    timing_ms: dict[str, float]


class Road:
    """The decoder's and the engine's queues, and what is known about their health.

    Attributes:
        room: for images.
        broken: whether the network has run out of memory.
    """

    def __init__(self, model: Model, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._limits = model.limits
        self._stage_seconds = {stage: metrics.stage_seconds.labels(stage) for stage in ("decode", "network")}
        self._decoder = Decoder(
            model.manifest.preprocessing,
            model.limits,
            max(2, model.engine.lanes),
            settings.max_waiting,
            settings.decode_deadline_s,
            settings.max_decode_bytes,
        )
        self._batcher = Batcher(model.engine, settings.max_waiting, settings.queue_deadline_s, metrics.batch_size.observe)
        self.room = Room(settings.max_waiting)
        self._invalid = 0
        self.broken = False
        metrics.watch("images", lambda: self.room.inside)
        metrics.watch("decode", lambda: self._decoder.depth)
        metrics.watch("network", lambda: self._batcher.depth)

    @property
    def healthy(self) -> bool:
        """False once the network gives no usable answers, or none at all."""
        return self._invalid < MOST_INVALID and not self.beyond_repair

    @property
    def beyond_repair(self) -> bool:
        """Whether only a new process helps: no memory, or a call of the network that has lasted longer than any answer may."""
        return self.broken or self._batcher.computing_s > self._settings.answer_deadline_s

    async def decoded(self, encoded: bytes) -> Decoded:
        """The pixels of one image. Raises ImageError and Overloaded."""
        check(sniff(encoded), self._limits)
        with self.room.place(), self._stage_seconds["decode"].time():
            return await _begun_by(time.perf_counter() + self._settings.queue_deadline_s, self.decode(encoded))

    async def seen(self, encoded: bytes) -> Seen:
        """One image through both queues, once its header was judged.

        Raises ImageError, Overloaded, or Refused if the network's answer is not finite.
        """
        check(sniff(encoded), self._limits)
        with self.room.place():
            return await _begun_by(time.perf_counter() + self._settings.queue_deadline_s, Errand(self, encoded))

    def decode(self, encoded: bytes) -> Future[Decoded]:
        """The promise of one image's pixels. Raises Overloaded."""
        return self._decoder.submit(encoded)

    def compute(self, decoded: Decoded) -> Future[Outputs]:
        """The promise of what the network says of them. Raises Overloaded."""
        return self._batcher.submit(decoded.pixels)

    def judged(self, outputs: Future[Outputs]) -> Outputs:
        """What the network said, if it can be used. Raises Refused, and whatever went wrong."""
        try:
            said = outputs.result()
        except Exception as error:
            if not (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"):  # torch's own
                raise
            self.broken = True
            raise Refused("out_of_memory", "There was not enough memory for the network; the service starts anew.") from None
        self._check_finite(said)
        return said

    def observe(self, stage: str, seconds: float) -> None:
        """Notes how long one image was in a stage, waiting included."""
        self._stage_seconds[stage].observe(seconds)

    def _check_finite(self, outputs: Outputs) -> None:
        if np.isfinite(outputs.logits).all() and np.isfinite(outputs.vectors).all():
            self._invalid = 0
            return
        self._invalid += 1
        raise Refused("model_output_invalid", "The network's answer to this image is not a number.")

    def close(self) -> None:
        """Finishes what was accepted."""
        self._decoder.close()
        self._batcher.close()


class Errand(Future[Seen]):
    """The promise of what is seen in one image: from the decoder's queue to the network's with no stop at the event loop.

    Every such stop wakes another thread twice, which costs more than what is done there.
    """

    def __init__(self, road: Road, encoded: bytes) -> None:
        super().__init__()
        self._road = road
        self._unwanted = False
        self._begun = time.perf_counter()
        self._step: Future[Any] = road.decode(encoded)
        self._step.add_done_callback(self._compute)

    def cancel(self) -> bool:
        """Takes the image out of the queue where it waits; one that is being decoded now goes no further."""
        self._unwanted = True
        return self._step.cancel() and super().cancel()

    def _compute(self, decoding: Future[Decoded]) -> None:
        if decoding.cancelled():
            return
        self._ready = time.perf_counter()
        self._road.observe("decode", self._ready - self._begun)
        try:
            self._decoded = decoding.result()
            if self._unwanted:
                raise Overloaded(LATE, "queue_deadline_s")
            self._step = self._road.compute(self._decoded)
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
            self.set_exception(error)
        else:
            self._step.add_done_callback(self._finish)

    def _finish(self, computing: Future[Outputs]) -> None:
        if computing.cancelled():
            return
        done = time.perf_counter()
        self._road.observe("network", done - self._ready)
        timing = {"decode": round(1e3 * (self._ready - self._begun), 3), "network": round(1e3 * (done - self._ready), 3)}
        try:
            self.set_result(Seen(self._decoded, self._road.judged(computing), timing))
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
            self.set_exception(error)


async def _begun_by(deadline: float, promise: Future[R]) -> R:
    """The result of work that has begun before a moment on time.perf_counter()'s clock. Raises Overloaded if it has not.

    Being cancelled cancels the work, so what a vanished caller asked for is not computed if it has not begun.
    """
    late = asyncio.get_running_loop().call_later(max(0, deadline - time.perf_counter()), promise.cancel)
    try:
        return await asyncio.wrap_future(promise)
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) and task.cancelling():
            raise
        raise Overloaded(LATE, "queue_deadline_s") from None
    finally:
        late.cancel()

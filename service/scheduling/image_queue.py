"""Takes one image from bytes to the network's outputs: checks the header, admits, decodes, computes. Every queue is bounded.

No options and no response schemas: those are in `predictor`.
"""

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
MOST_INVALID = 3  # consecutive non-finite outputs after which the service is no longer ready

R = TypeVar("R")


class Seen(NamedTuple):
    """One image, decoded, with the network's outputs."""

    decoded: Decoded
    outputs: Outputs
    timing_ms: dict[str, float]


class Road:
    """The queues of the decoder pool and the batcher, and their health.

    Attributes:
        room: the slots for images.
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
        """False if recent outputs are all non-finite, or if the network no longer responds."""
        return self._invalid < MOST_INVALID and not self.beyond_repair

    @property
    def beyond_repair(self) -> bool:
        """Whether the process must restart: it is out of memory, or a forward pass exceeds the response deadline."""
        return self.broken or self._batcher.computing_s > self._settings.answer_deadline_s

    async def decoded(self, encoded: bytes) -> Decoded:
        """The pixels of one image. Raises ImageError and Overloaded."""
        check(sniff(encoded), self._limits)
        with self.room.place(), self._stage_seconds["decode"].time():
            return await _begun_by(time.perf_counter() + self._settings.queue_deadline_s, self.decode(encoded))

    async def seen(self, encoded: bytes) -> Seen:
        """Decodes one image and runs the network on it.

        Raises ImageError, Overloaded, or ProblemError if the outputs are not finite.
        """
        check(sniff(encoded), self._limits)
        with self.room.place():
            return await _begun_by(time.perf_counter() + self._settings.queue_deadline_s, Errand(self, encoded))

    def decode(self, encoded: bytes) -> Future[Decoded]:
        """A future of one image's pixels. Raises Overloaded."""
        return self._decoder.submit(encoded)

    def compute(self, decoded: Decoded) -> Future[Outputs]:
        """A future of the network's outputs for decoded pixels. Raises Overloaded."""
        return self._batcher.submit(decoded.pixels)

    def judged(self, outputs: Future[Outputs]) -> Outputs:
        """The network's outputs, if they are finite. Raises ProblemError, or the error of the forward pass."""
        try:
            result = outputs.result()
        except Exception as error:
            if not (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"):  # torch's own
                raise
            self.broken = True
            raise Refused("out_of_memory", "The network ran out of memory; the service restarts.") from None
        self._check_finite(result)
        return result

    def observe(self, stage: str, seconds: float) -> None:
        """Records how long one image was in a stage, queueing included."""
        self._stage_seconds[stage].observe(seconds)

    def _check_finite(self, outputs: Outputs) -> None:
        if np.isfinite(outputs.logits).all() and np.isfinite(outputs.vectors).all():
            self._invalid = 0
            return
        self._invalid += 1
        raise Refused("model_output_invalid", "The network's output for this image is not finite.")

    def close(self) -> None:
        """Finishes the accepted images."""
        self._decoder.close()
        self._batcher.close()


class Errand(Future[Seen]):
    """Future that chains decoding and inference without a stop at the event loop.

    Each stop wakes another thread twice, which costs more than the work done there.
    """

    def __init__(self, road: Road, encoded: bytes) -> None:
        super().__init__()
        self._road = road
        self._unwanted = False
        self._begun = time.perf_counter()
        self._step: Future[Any] = road.decode(encoded)
        self._step.add_done_callback(self._compute)

    def cancel(self) -> bool:
        """Removes the image from the queue it waits in; an image that is being decoded is not passed on."""
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
        except Exception as error:  # noqa: BLE001 - raised where the future is awaited
            self.set_exception(error)
        else:
            self._step.add_done_callback(self._finish)

    def _finish(self, computing: Future[Outputs]) -> None:
        if computing.cancelled():
            return
        end = time.perf_counter()
        self._road.observe("network", end - self._ready)
        timing = {"decode": round(1e3 * (self._ready - self._begun), 3), "network": round(1e3 * (end - self._ready), 3)}
        try:
            self.set_result(Seen(self._decoded, self._road.judged(computing), timing))
        except Exception as error:  # noqa: BLE001 - raised where the future is awaited
            self.set_exception(error)


async def _begun_by(deadline: float, promise: Future[R]) -> R:
    """The result of work that must start before a deadline on the time.perf_counter() clock. Raises Overloaded otherwise.

    Cancelling this coroutine cancels the work, so work for a disconnected client is skipped if it has not started.
    """
    timer = asyncio.get_running_loop().call_later(max(0, deadline - time.perf_counter()), promise.cancel)
    try:
        return await asyncio.wrap_future(promise)
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) and task.cancelling():
            raise
        raise Overloaded(LATE, "queue_deadline_s") from None
    finally:
        timer.cancel()

"""One image's road to the network's outputs: looked at, admitted, decoded, computed. Every queue on it is bounded."""

import asyncio
import time
from concurrent.futures import Future
from typing import NamedTuple, TypeVar

import numpy as np

from service.batcher import Batcher, Overloaded
from service.decoder import Decoder
from service.engine import Outputs
from service.limits import Settings
from service.metrics import Metrics
from service.model import Model
from service.preprocess import Decoded
from service.problems import Refused
from service.room import Room
from service.sniff import check, sniff

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
        self._metrics = metrics
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
        with self.room.place():
            return await self._decoded(time.perf_counter() + self._settings.queue_deadline_s, encoded)

    async def seen(self, encoded: bytes) -> Seen:
        """One image through both queues, once its header was judged.

        Raises ImageError, Overloaded, or Refused if the network's answer is not finite.
        """
        check(sniff(encoded), self._limits)
        with self.room.place():
            begun = time.perf_counter()
            deadline = begun + self._settings.queue_deadline_s
            decoded = await self._decoded(deadline, encoded)
            ready = time.perf_counter()
            outputs = await self._computed(deadline, decoded)
            done = time.perf_counter()
        self._metrics.stage_seconds.labels("network").observe(done - ready)
        self._check_finite(outputs)
        timing = {"decode": round(1e3 * (ready - begun), 3), "network": round(1e3 * (done - ready), 3)}
        return Seen(decoded, outputs, timing)

    async def _decoded(self, deadline: float, encoded: bytes) -> Decoded:
        with self._metrics.stage_seconds.labels("decode").time():
            return await _begun_by(deadline, self._decoder.submit(encoded))

    async def _computed(self, deadline: float, decoded: Decoded) -> Outputs:
        try:
            return await _begun_by(deadline, self._batcher.submit(decoded.pixels))
        except Exception as error:
            if not (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"):  # torch's own
                raise
            self.broken = True
            raise Refused("out_of_memory", "There was not enough memory for the network; the service starts anew.") from None

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


async def _begun_by(deadline: float, promise: Future[R]) -> R:
    """The result of work that has begun before a moment on time.perf_counter()'s clock. Raises Overloaded if it has not.

    Being cancelled cancels the work, so what a vanished caller asked for is not computed if it has not begun.
    """
    work = asyncio.wrap_future(promise)
    try:
        return await asyncio.wait_for(asyncio.shield(work), max(0, deadline - time.perf_counter()))
    except TimeoutError:
        if promise.cancel():
            raise Overloaded("The image waited past its deadline.", "queue_deadline_s") from None
        return await work
    except asyncio.CancelledError:
        work.cancel()
        raise

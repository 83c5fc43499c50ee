"""Takes one image from bytes to the network's outputs: checks the header, admits, decodes, computes. Every queue is bounded.

No options and no response schemas: those are in `predictor`.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np

from ..decoding.pool import DecoderPool
from ..errors import Overloaded, ProblemError
from ..imaging.decode_cost import is_costly
from ..imaging.formats import BY_NAME
from ..imaging.headers import check_limits, read_header
from ..imaging.preprocess import DecodedImage
from ..inference.batcher import Batcher
from ..inference.bulk import timing_ms
from ..inference.devices import available_cpus
from ..inference.engine import DeviceFailed, Outputs
from ..inference.model import InferenceResult, Model
from ..monitoring.metrics import Metrics
from ..settings import Settings
from .admission import AdmissionControl

QUEUE_TIMEOUT = "The image waited past its deadline."
MIN_DECODERS = 2  # an image that takes long to decode must not stop all others
MAX_INVALID = 3  # consecutive non-finite outputs after which the service is no longer ready

R = TypeVar("R")


class InferenceQueue:
    """The queues of the decoder pool and the batcher, and their health.

    Attributes:
        formats: Pillow's names of the accepted image formats.
        admission: the slots for images.
        out_of_memory: whether the network has run out of memory.
    """

    def __init__(self, model: Model, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self.formats = settings.accepted_formats(model.manifest.formats)
        self._limits = replace(model.limits, formats=self.formats)
        self._resize = model.manifest.preprocessing.resize
        self._stage_seconds = {stage: metrics.stage_seconds.labels(stage) for stage in ("decode", "network")}
        self._decoder = DecoderPool(
            model.manifest.preprocessing,
            self._limits,
            max(MIN_DECODERS, available_cpus()),  # on a GPU too: there, decoding is what limits the service
            settings.max_waiting,
            settings.decode_deadline_s,
            settings.max_decode_bytes,
            costly_deadline_s=max(settings.decode_deadline_s, settings.answer_deadline_s),
        )
        self._batcher = Batcher(model.engine, settings.max_waiting, settings.queue_deadline_s, metrics.batch_size.observe)
        self.admission = AdmissionControl(settings.max_waiting)
        self._n_invalid = 0
        self.out_of_memory = False
        metrics.track_queue("images", lambda: self.admission.n_admitted)
        metrics.track_queue("decode", lambda: self._decoder.depth)
        metrics.track_queue("network", lambda: self._batcher.depth)

    @property
    def decoder_restrictions(self) -> list[str]:
        """The names of the restrictions that hold for the processes that decode."""
        return self._decoder.restrictions

    @property
    def healthy(self) -> bool:
        """False if recent outputs are all non-finite, or if the process must restart."""
        return self._n_invalid < MAX_INVALID and not self.restart_reason

    @property
    def restart_reason(self) -> str:
        """Why the process must restart, as a clause; "" if it need not."""
        if failure := self._batcher.failure:
            return f"the GPU has failed: {failure}"
        if self.out_of_memory:
            return "the network ran out of memory"
        is_stuck = self._batcher.longest_call_s > self._settings.answer_deadline_s
        return "the network no longer responds" if is_stuck else ""

    async def decode_image(self, encoded: bytes) -> DecodedImage:
        """The pixels of one image. Raises ImageError and Overloaded."""
        cost_ms = self._decode_ms(encoded)
        with self.admission.slot(is_costly(cost_ms)):
            return await self._decode(encoded, cost_ms, self._deadline())

    async def infer(self, encoded: bytes) -> InferenceResult:
        """Decodes one image and runs the network on it.

        Raises ImageError, Overloaded, or ProblemError if the outputs are not finite.
        """
        cost_ms = self._decode_ms(encoded)
        with self.admission.slot(is_costly(cost_ms)):
            deadline, start = self._deadline(), time.perf_counter()
            decoded = await self._decode(encoded, cost_ms, deadline)
            decoded_at = time.perf_counter()
            if is_costly(cost_ms) and asyncio.get_running_loop().time() > deadline:
                deadline = self._deadline()  # at low priority, decoding takes long
            outputs = await self._compute(decoded, deadline)
            return InferenceResult(decoded, outputs, timing_ms(start, decoded_at, time.perf_counter()))

    def _deadline(self) -> float:
        """When an image that arrives now must have left the queue: on the event loop's clock."""
        return asyncio.get_running_loop().time() + self._settings.queue_deadline_s

    async def _decode(self, encoded: bytes, cost_ms: float, deadline: float) -> DecodedImage:
        """The pixels of an image whose decoding begins before the deadline. Raises ImageError and Overloaded."""
        start = time.perf_counter()
        decoding = self._decoder.submit(encoded, cost_ms)
        try:
            return await _start_before(deadline, decoding, lambda: decoding.started or decoding.cancel())
        finally:
            self._stage_seconds["decode"].observe(time.perf_counter() - start)

    async def _compute(self, decoded: DecodedImage, deadline: float) -> Outputs:
        """The network's outputs, computed from before the deadline on. Raises Overloaded and ProblemError."""
        if asyncio.get_running_loop().time() > deadline:
            raise Overloaded(QUEUE_TIMEOUT, "queue_deadline_s")
        start = time.perf_counter()
        computing = self._batcher.submit(decoded.pixels)
        try:
            outputs = await _start_before(deadline, asyncio.wrap_future(computing), computing.cancel)
        except DeviceFailed:
            raise ProblemError("device_failed", "The GPU has failed; the service restarts.") from None
        except Exception as error:
            if not (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"):  # torch's own
                raise
            self.out_of_memory = True
            raise ProblemError("out_of_memory", "The network ran out of memory; the service restarts.") from None
        finally:
            self._stage_seconds["network"].observe(time.perf_counter() - start)
        self._check_finite(outputs)
        return outputs

    def _decode_ms(self, encoded: bytes) -> float:
        """The estimated time to decode an image within the limits. Raises ImageError for any other."""
        header = read_header(encoded, self.formats)
        check_limits(header, self._limits)
        return BY_NAME[header.format].decode_ms(header, len(encoded), self._resize)

    def _check_finite(self, outputs: Outputs) -> None:
        if np.isfinite(outputs.logits).all() and np.isfinite(outputs.vectors).all():
            self._n_invalid = 0
            return
        self._n_invalid += 1
        raise ProblemError("model_output_invalid", "The network's output for this image is not finite.")

    async def close(self) -> None:
        """Finishes the accepted images."""
        await self._decoder.close()
        await asyncio.to_thread(self._batcher.close)


async def _start_before(deadline: float, future: asyncio.Future[R], cancel_unless_started: Callable[[], object]) -> R:
    """The result of work that must start before a deadline. Raises Overloaded if it did not.

    Cancelling this coroutine cancels the work, so work for a disconnected client is skipped if it has not started.
    """
    timer = asyncio.get_running_loop().call_at(deadline, cancel_unless_started)
    try:
        return await future
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) and task.cancelling():
            raise
        raise Overloaded(QUEUE_TIMEOUT, "queue_deadline_s") from None
    finally:
        timer.cancel()

"""Takes one image from bytes to the network's outputs: checks the header, admits, decodes, computes. Every queue is bounded.

No options and no response schemas: those are in `predictor`.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

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
        with self.admission.slot(is_costly(cost_ms)), self._stage_seconds["decode"].time():
            decoding = self.submit_decode(encoded, cost_ms)
            return await _start_within(self._settings.queue_deadline_s, decoding, decoding.cancel)

    async def infer(self, encoded: bytes) -> InferenceResult:
        """Decodes one image and runs the network on it.

        Raises ImageError, Overloaded, or ProblemError if the outputs are not finite.
        """
        cost_ms = self._decode_ms(encoded)
        with self.admission.slot(is_costly(cost_ms)):
            job = ImageJob(self, encoded, cost_ms)
            return await _start_within(self._settings.queue_deadline_s, job, job.expire)

    def _decode_ms(self, encoded: bytes) -> float:
        """The estimated time to decode an image within the limits. Raises ImageError for any other."""
        header = read_header(encoded, self.formats)
        check_limits(header, self._limits)
        return BY_NAME[header.format].decode_ms(header, len(encoded), self._resize)

    def submit_decode(self, encoded: bytes, cost_ms: float) -> Future[DecodedImage]:
        """A future of one image's pixels. Raises Overloaded."""
        return self._decoder.submit(encoded, cost_ms)

    def submit_inference(self, decoded: DecodedImage) -> Future[Outputs]:
        """A future of the network's outputs for decoded pixels. Raises Overloaded."""
        return self._batcher.submit(decoded.pixels)

    def check_outputs(self, outputs: Future[Outputs]) -> Outputs:
        """The network's outputs, if they are finite. Raises ProblemError, or the error of the forward pass."""
        try:
            result = outputs.result()
        except DeviceFailed:
            raise ProblemError("device_failed", "The GPU has failed; the service restarts.") from None
        except Exception as error:
            if not (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"):  # torch's own
                raise
            self.out_of_memory = True
            raise ProblemError("out_of_memory", "The network ran out of memory; the service restarts.") from None
        self._check_finite(result)
        return result

    def observe(self, stage: str, seconds: float) -> None:
        """Records how long one image was in a stage, queueing included."""
        self._stage_seconds[stage].observe(seconds)

    def _check_finite(self, outputs: Outputs) -> None:
        if np.isfinite(outputs.logits).all() and np.isfinite(outputs.vectors).all():
            self._n_invalid = 0
            return
        self._n_invalid += 1
        raise ProblemError("model_output_invalid", "The network's output for this image is not finite.")

    def close(self) -> None:
        """Finishes the accepted images."""
        self._decoder.close()
        self._batcher.close()


class ImageJob(Future[InferenceResult]):
    """Future that chains decoding and inference without a stop at the event loop.

    Each stop wakes another thread twice, which costs more than the work done there.
    """

    def __init__(self, queue: InferenceQueue, encoded: bytes, cost_ms: float) -> None:
        super().__init__()
        self._queue = queue
        self._is_costly = is_costly(cost_ms)
        self._cancel_requested = False
        self._started = time.perf_counter()
        self._step: Future[Any] = queue.submit_decode(encoded, cost_ms)
        self._step.add_done_callback(self._on_decoded)

    def cancel(self) -> bool:
        """Removes the image from the queue it waits in; an image that is being decoded is not passed on."""
        self._cancel_requested = True
        return self._step.cancel() and super().cancel()

    def expire(self) -> None:
        """Cancels at the queue's deadline, except for a costly image that is being decoded: at low priority that takes long."""
        if not (self._is_costly and self._step.running()):
            self.cancel()

    def _on_decoded(self, decoding: Future[DecodedImage]) -> None:
        if decoding.cancelled():
            return
        self._decoded_at = time.perf_counter()
        self._queue.observe("decode", self._decoded_at - self._started)
        try:
            self._decoded = decoding.result()
            if self._cancel_requested:
                raise Overloaded(QUEUE_TIMEOUT, "queue_deadline_s")
            self._step = self._queue.submit_inference(self._decoded)
        except Exception as error:  # noqa: BLE001 - raised where the future is awaited
            self.set_exception(error)
        else:
            self._step.add_done_callback(self._on_computed)

    def _on_computed(self, computing: Future[Outputs]) -> None:
        if computing.cancelled():
            return
        end = time.perf_counter()
        self._queue.observe("network", end - self._decoded_at)
        timing = timing_ms(self._started, self._decoded_at, end)
        try:
            self.set_result(InferenceResult(self._decoded, self._queue.check_outputs(computing), timing))
        except Exception as error:  # noqa: BLE001 - raised where the future is awaited
            self.set_exception(error)


async def _start_within(seconds: float, future: Future[R], expire: Callable[[], object]) -> R:
    """The result of work that must start within `seconds`; `expire` cancels it then. Raises Overloaded if it did.

    Cancelling this coroutine cancels the work, so work for a disconnected client is skipped if it has not started.
    """
    timer = asyncio.get_running_loop().call_later(seconds, expire)
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) and task.cancelling():
            raise
        raise Overloaded(QUEUE_TIMEOUT, "queue_deadline_s") from None
    finally:
        timer.cancel()

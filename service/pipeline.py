"""One image's road through the service: the decoder's queue, the engine's queue, the answer."""

import asyncio
import time
from concurrent.futures import Future
from typing import TypeVar

import numpy as np

from service.batcher import Batcher
from service.decoder import Decoder
from service.engine import Outputs
from service.intake import Refused
from service.limits import Settings
from service.model import Model
from service.preprocess import Decoded
from service.schemas import Classification, ImageFacts, ModelReference, Prediction

R = TypeVar("R")


class Pipeline:
    """The road from one image's bytes to its answer, through the decoder's and the engine's queues."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self.model = model
        self.settings = settings
        self._decoder = Decoder(model.decode, max(2, model.engine.lanes), settings.max_waiting)
        self._batcher = Batcher(model.engine, settings.max_waiting, settings.queue_deadline_s)

    async def classify(self, encoded: bytes, top_k: int, warnings: list[str], request_id: str) -> Classification:
        """Raises ImageError, Overloaded, or Refused if the network's answer is not finite."""
        begun = time.perf_counter()
        decoded = await _awaited(self._decoder.submit(encoded))
        ready = time.perf_counter()
        outputs = await _awaited(self._batcher.submit(decoded.pixels))
        done = time.perf_counter()
        if not (np.isfinite(outputs.logits).all() and np.isfinite(outputs.vectors).all()):
            raise Refused("model_output_invalid", "The network's answer to this image is not a number.")
        timing = {"decode": round(1e3 * (ready - begun), 3), "network": round(1e3 * (done - ready), 3)}
        return self._answer(decoded, outputs, top_k, warnings, request_id, timing)

    def _answer(
        self,
        decoded: Decoded,
        outputs: Outputs,
        top_k: int,
        warnings: list[str],
        request_id: str,
        timing_ms: dict[str, float],
    ) -> Classification:
        manifest = self.model.manifest
        answer = self.model.answer(outputs, top_k)
        return Classification(
            predictions=[Prediction(label=label, probability=probability) for label, probability in answer.ranked],
            prediction_set=list(answer.prediction_set),
            outlier_score=answer.outlier_score,
            abstain=answer.doubt is not None,
            abstain_reason=answer.doubt,
            model=ModelReference(name=manifest.name, version=manifest.version, sha256=manifest.sha256),
            image=ImageFacts(width=decoded.width, height=decoded.height, format=decoded.format),
            warnings=[*warnings, *decoded.notes],
            timing_ms=timing_ms,
            request_id=request_id,
        )

    def close(self) -> None:
        """Finishes what was accepted."""
        self._decoder.close()
        self._batcher.close()


async def _awaited(promise: Future[R]) -> R:
    # Awaiting passes a cancellation on, so what a vanished client asked for is not computed if it has not begun.
    return await asyncio.wrap_future(promise)

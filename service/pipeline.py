"""One image's road through the service: the decoder's queue, the engine's queue, the answer."""

import asyncio
import time
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

import numpy as np

from service.batcher import Batcher
from service.decoder import Decoder
from service.engine import Outputs
from service.intake import Refused
from service.limits import Settings
from service.model import Model
from service.preprocess import Decoded
from service.problems import EXPECTED, explained
from service.schemas import (
    Batch,
    BatchItem,
    Classification,
    Embedding,
    ImageFacts,
    ModelReference,
    Neighbour,
    Prediction,
    Similar,
)

R = TypeVar("R")


class _Seen(NamedTuple):
    """One image, decoded and looked at."""

    decoded: Decoded
    outputs: Outputs
    timing_ms: dict[str, float]


class Pipeline:
    """The road from one image's bytes to its answer, through the decoder's and the engine's queues."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self.model = model
        self.settings = settings
        self._decoder = Decoder(model.decode, max(2, model.engine.lanes), settings.max_waiting)
        self._batcher = Batcher(model.engine, settings.max_waiting, settings.queue_deadline_s)

    async def classify(self, encoded: bytes, top_k: int, warnings: list[str], request_id: str) -> Classification:
        """Raises ImageError, Overloaded, or Refused if the network's answer is not finite."""
        seen = await self._seen(encoded)
        answer = self.model.answer(seen.outputs, top_k)
        return Classification(
            predictions=[Prediction(label=label, probability=probability) for label, probability in answer.ranked],
            prediction_set=list(answer.prediction_set),
            outlier_score=answer.outlier_score,
            abstain=answer.doubt is not None,
            abstain_reason=answer.doubt,
            **self._told(seen, warnings, request_id),
        )

    async def classify_many(self, images: list[bytes], top_k: int, warnings: list[str], request_id: str) -> Batch:
        """An answer, or what is wrong, for each image."""

        async def one(index: int, encoded: bytes) -> BatchItem:
            try:
                answer = await self.classify(encoded, top_k, warnings, request_id)
            except EXPECTED as error:
                return BatchItem(index=index, error=explained(error, self.settings, request_id))
            return BatchItem(index=index, answer=answer)

        results = await asyncio.gather(*(one(index, encoded) for index, encoded in enumerate(images)))
        return Batch(results=results, request_id=request_id)

    async def embed(self, encoded: bytes, warnings: list[str], request_id: str) -> Embedding:
        """What the network sees in one image. Raises as `classify` does."""
        seen = await self._seen(encoded)
        vector = seen.outputs.vectors[0].tolist()
        return Embedding(vector=vector, **self._told(seen, warnings, request_id))

    async def similar(self, encoded: bytes, k: int, warnings: list[str], request_id: str) -> Similar:
        """The training images that are most like one image. Raises as `classify` does."""
        seen = await self._seen(encoded)
        labels = self.model.manifest.labels
        near = [
            Neighbour(path=path, labels=[labels[label] for label in own], distance=distance)
            for _, path, own, distance in self.model.neighbours.nearest(seen.outputs.vectors[0], k)
        ]
        return Similar(neighbours=near, **self._told(seen, warnings, request_id))

    async def _seen(self, encoded: bytes) -> _Seen:
        """One image through both queues."""
        begun = time.perf_counter()
        decoded = await _awaited(self._decoder.submit(encoded))
        ready = time.perf_counter()
        outputs = await _awaited(self._batcher.submit(decoded.pixels))
        done = time.perf_counter()
        if not (np.isfinite(outputs.logits).all() and np.isfinite(outputs.vectors).all()):
            raise Refused("model_output_invalid", "The network's answer to this image is not a number.")
        timing = {"decode": round(1e3 * (ready - begun), 3), "network": round(1e3 * (done - ready), 3)}
        return _Seen(decoded, outputs, timing)

    def _told(self, seen: _Seen, warnings: list[str], request_id: str) -> dict[str, Any]:
        """What every answer says beside its own."""
        manifest, decoded = self.model.manifest, seen.decoded
        return {
            "model": ModelReference(name=manifest.name, version=manifest.version, sha256=manifest.sha256),
            "image": ImageFacts(width=decoded.width, height=decoded.height, format=decoded.format),
            "warnings": [*warnings, *decoded.notes],
            "timing_ms": seen.timing_ms,
            "request_id": request_id,
        }

    def close(self) -> None:
        """Finishes what was accepted."""
        self._decoder.close()
        self._batcher.close()


async def _awaited(promise: Future[R]) -> R:
    # Awaiting passes a cancellation on, so what a vanished client asked for is not computed if it has not begun.
    return await asyncio.wrap_future(promise)

"""One image's road: looked at, admitted, decoded, computed, answered. Every queue on it is bounded."""

import asyncio
import base64
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

import numpy as np

from service.batcher import Batcher, Overloaded
from service.decoder import Decoder
from service.engine import Outputs
from service.explain import Explanation, overlay
from service.explaining import Explaining
from service.limits import Settings
from service.metrics import Metrics
from service.model import Answer, Model
from service.options import ClassifyOptions, ExplainOptions, SimilarOptions
from service.preprocess import Decoded
from service.problems import EXPECTED, Refused, explained
from service.room import Room
from service.schemas import (
    Batch,
    BatchItem,
    Classification,
    Embedding,
    Explained,
    ImageFacts,
    ModelReference,
    Neighbour,
    Prediction,
    Region,
    Similar,
)
from service.sniff import check, sniff

MOST_INVALID = 3  # answers in a row that are no numbers, until the service no longer calls itself ready

R = TypeVar("R")


class _Seen(NamedTuple):
    """One image, decoded and looked at."""

    decoded: Decoded
    outputs: Outputs
    timing_ms: dict[str, float]


class Pipeline:
    """The road from one image's bytes to its answer, through the decoder's and the engine's queues.

    Attributes:
        room: for images.
        broken: whether the network has run out of memory.
    """

    def __init__(self, model: Model, settings: Settings, metrics: Metrics) -> None:
        self.model = model
        self.settings = settings
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
        self._explaining = Explaining(model, settings.max_explanations, metrics)
        self.room = Room(settings.max_waiting)
        self._invalid = 0
        self.broken = False
        metrics.watch("images", lambda: self.room.inside)
        metrics.watch("decode", lambda: self._decoder.depth)
        metrics.watch("network", lambda: self._batcher.depth)
        manifest, backbone = model.manifest, model.manifest.backbone.name
        metrics.tell_model(
            name=manifest.name,
            version=manifest.version,
            sha256=manifest.sha256,
            backbone=backbone,
            device=model.engine.device,
        )

    @property
    def healthy(self) -> bool:
        """False once the network gives no usable answers, or none at all."""
        return self._invalid < MOST_INVALID and not self.beyond_repair

    @property
    def beyond_repair(self) -> bool:
        """Whether only a new process helps: no memory, or a call of the network that has lasted longer than any answer may."""
        return self.broken or self._batcher.computing_s > self.settings.answer_deadline_s

    async def classify(self, encoded: bytes, options: ClassifyOptions, request_id: str) -> Classification:
        """Raises ImageError, Overloaded, or Refused if the network's answer is not finite."""
        seen = await self._seen(encoded)
        n_labels = len(self.model.manifest.labels)
        answer = self.model.answer(seen.outputs, min(options.top_k, n_labels))
        self._count(answer)
        warnings = _short("top_k", options, n_labels, f"the model has only {n_labels} labels")
        return Classification(
            predictions=[
                Prediction(label=label, probability=probability)
                for label, probability in answer.ranked
                if probability >= options.threshold
            ],
            prediction_set=list(answer.prediction_set),
            outlier_score=answer.outlier_score,
            abstain=answer.doubt is not None,
            abstain_reason=answer.doubt,
            **self._told(seen.decoded, seen.timing_ms, warnings, request_id),
        )

    async def classify_many(self, images: list[bytes], options: ClassifyOptions, request_id: str) -> Batch:
        """An answer, or what is wrong, for each image."""

        async def one(index: int, encoded: bytes) -> BatchItem:
            try:
                answer = await self.classify(encoded, options, request_id)
            except EXPECTED as error:
                return BatchItem(index=index, error=explained(error, self.settings, request_id))
            return BatchItem(index=index, answer=answer)

        results = await asyncio.gather(*(one(index, encoded) for index, encoded in enumerate(images)))
        return Batch(results=results, request_id=request_id)

    async def embed(self, encoded: bytes, request_id: str) -> Embedding:
        """What the network sees in one image. Raises as `classify` does."""
        seen = await self._seen(encoded)
        vector = seen.outputs.vectors[0].tolist()
        return Embedding(vector=vector, **self._told(seen.decoded, seen.timing_ms, [], request_id))

    async def similar(self, encoded: bytes, options: SimilarOptions, request_id: str) -> Similar:
        """The training images that are most like one image. Raises as `classify` does."""
        seen = await self._seen(encoded)
        labels, n_known = self.model.manifest.labels, len(self.model.neighbours.paths)
        near = [
            Neighbour(
                path=path,
                labels=[labels[label] for label in own],
                distance=distance,
                thumbnail=self._thumbnail(row) if options.thumbnails else None,
            )
            for row, path, own, distance in self.model.neighbours.nearest(seen.outputs.vectors[0], options.k)
        ]
        warnings = _short("k", options, n_known, f"the package holds only {n_known} training images")
        return Similar(neighbours=near, **self._told(seen.decoded, seen.timing_ms, warnings, request_id))

    def _thumbnail(self, row: int) -> str | None:
        picture = self.model.thumbnails[row]
        return base64.b64encode(picture).decode() if picture else None

    async def explain(self, encoded: bytes, options: ExplainOptions, request_id: str) -> Explained:
        """Which parts of one image speak for a label. Raises as `classify` does, and for what cannot be explained."""
        begun = time.perf_counter()
        found = await self._explained(encoded, options, lambda explanation: explanation)
        return Explained(
            label=found.label,
            probability=found.probability,
            method=found.method,
            map=found.map.tolist(),
            bias=found.bias,
            region=Region(**found.region._asdict()),
            **self._told(found.decoded, {"explain": round(1e3 * (time.perf_counter() - begun), 3)}, [], request_id),
        )

    async def overlay(self, encoded: bytes, options: ExplainOptions) -> bytes:
        """The same as a PNG over the picture."""
        return await self._explained(encoded, options, overlay)

    async def _explained(self, encoded: bytes, options: ExplainOptions, finish: Callable[[Explanation], R]) -> R:
        label = self._label(options.label)
        check(sniff(encoded), self.model.limits)
        self._explaining.check_room()
        with self.room.place():
            decoded = await self._decoded(time.perf_counter() + self.settings.queue_deadline_s, encoded)
        return await self._explaining.explained(decoded, label, options.method, finish)

    def _label(self, name: str | None) -> int | None:
        labels = self.model.manifest.labels
        if name is None:
            return None
        if name not in labels:
            raise Refused("bad_label", f"There is no label {name!r}. See /v1/labels for what there is.", field="label")
        return labels.index(name)

    async def _seen(self, encoded: bytes) -> _Seen:
        """One image through both queues, once its header was judged."""
        check(sniff(encoded), self.model.limits)
        with self.room.place():
            begun = time.perf_counter()
            deadline = begun + self.settings.queue_deadline_s
            decoded = await self._decoded(deadline, encoded)
            ready = time.perf_counter()
            outputs = await self._computed(deadline, decoded)
            done = time.perf_counter()
        self._metrics.stage_seconds.labels("network").observe(done - ready)
        self._check_finite(outputs)
        timing = {"decode": round(1e3 * (ready - begun), 3), "network": round(1e3 * (done - ready), 3)}
        return _Seen(decoded, outputs, timing)

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

    def _count(self, answer: Answer) -> None:
        self._metrics.images.inc()
        self._metrics.outlier_score.observe(answer.outlier_score)
        if answer.doubt:
            self._metrics.abstentions.labels(answer.doubt).inc()

    def _told(self, decoded: Decoded, timing_ms: dict[str, float], warnings: list[str], request_id: str) -> dict[str, Any]:
        """What every answer says beside its own."""
        manifest = self.model.manifest
        return {
            "model": ModelReference(name=manifest.name, version=manifest.version, sha256=manifest.sha256),
            "image": ImageFacts(width=decoded.width, height=decoded.height, format=decoded.format),
            "warnings": [*warnings, *decoded.notes],
            "timing_ms": timing_ms,
            "request_id": request_id,
        }

    def close(self) -> None:
        """Finishes what was accepted."""
        self._explaining.close()
        self._decoder.close()
        self._batcher.close()


def _short(name: str, options: ClassifyOptions | SimilarOptions, most: int, why: str) -> list[str]:
    """A warning if more was asked for than there is; the default never is."""
    return [f"{name}: {why}"] if name in options.model_fields_set and getattr(options, name) > most else []


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

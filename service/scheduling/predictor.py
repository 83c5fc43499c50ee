"""What is asked about an image, and what is told: between the HTTP contract and the road to the network."""

import asyncio
import base64
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ..api.options import ClassifyOptions, ExplainOptions, SimilarOptions
from ..api.problems import EXPECTED, explained
from ..api.schemas import (
    Batch,
    BatchItem,
    Classification,
    Deletion,
    Embedding,
    Explained,
    ImageFacts,
    ModelReference,
    Neighbour,
    Prediction,
    Region,
    Similar,
)
from ..errors import Refused
from ..explain.deletion import Deletion as Judged
from ..explain.explainer import Explanation
from ..explain.overlay import overlay
from ..imaging.preprocess import Decoded
from ..inference.model import Answer, Model
from ..monitoring.metrics import Metrics
from ..settings import Settings
from .explain_queue import Explaining
from .image_queue import Road

R = TypeVar("R")


class Pipeline:
    """A model and everything that answers with it.

    Attributes:
        road: to the network's outputs.
    """

    def __init__(self, model: Model, settings: Settings, metrics: Metrics) -> None:
        self.model = model
        self.settings = settings
        self._metrics = metrics
        self.road = Road(model, settings, metrics)
        self._explaining = Explaining(model, settings.max_explanations, metrics)
        manifest, backbone = model.manifest, model.manifest.backbone.name
        metrics.tell_model(
            name=manifest.name,
            version=manifest.version,
            sha256=manifest.sha256,
            backbone=backbone,
            device=model.engine.device,
            precision=model.engine.precision,
        )

    async def classify(self, encoded: bytes, options: ClassifyOptions, request_id: str) -> Classification:
        """Raises ImageError, Overloaded, or Refused if the network's answer is not finite."""
        seen = await self.road.seen(encoded)
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
        seen = await self.road.seen(encoded)
        vector = seen.outputs.vectors[0].tolist()
        return Embedding(vector=vector, **self._told(seen.decoded, seen.timing_ms, [], request_id))

    async def similar(self, encoded: bytes, options: SimilarOptions, request_id: str) -> Similar:
        """The training images that are most like one image. Raises as `classify` does."""
        seen = await self.road.seen(encoded)
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
        judged: Judged | None = None
        if options.deletion:
            found, judged = await self._judged(encoded, options)
        else:
            found = await self._explained(encoded, options, lambda explanation: explanation)
        return Explained(
            label=found.label,
            probability=found.probability,
            method=found.method,
            map=found.map.tolist(),
            bias=found.bias,
            region=Region(**found.region._asdict()),
            deletion=judged and _told_of(judged),
            **self._told(found.decoded, {"explain": round(1e3 * (time.perf_counter() - begun), 3)}, [], request_id),
        )

    async def overlay(self, encoded: bytes, options: ExplainOptions) -> bytes:
        """The same as a PNG over the picture."""
        return await self._explained(encoded, options, overlay)

    async def _explained(self, encoded: bytes, options: ExplainOptions, finish: Callable[[Explanation], R]) -> R:
        label, decoded = await self._explainable(encoded, options)
        return await self._explaining.explained(decoded, label, options.method, finish)

    async def _judged(self, encoded: bytes, options: ExplainOptions) -> tuple[Explanation, Judged]:
        label, decoded = await self._explainable(encoded, options)
        return await self._explaining.judged(decoded, label, options.method)

    async def _explainable(self, encoded: bytes, options: ExplainOptions) -> tuple[int | None, Decoded]:
        label = self._label(options.label)
        self._explaining.check_room()
        return label, await self.road.decoded(encoded)

    def _label(self, name: str | None) -> int | None:
        labels = self.model.manifest.labels
        if name is None:
            return None
        if name not in labels:
            raise Refused("bad_label", f"There is no label {name!r}. See /v1/labels for what there is.", field="label")
        return labels.index(name)

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
        self.road.close()


def _short(name: str, options: ClassifyOptions | SimilarOptions, most: int, why: str) -> list[str]:
    """A warning if more was asked for than there is; the default never is."""
    return [f"{name}: {why}"] if name in options.model_fields_set and getattr(options, name) > most else []


def _told_of(judged: Judged) -> Deletion:
    return Deletion(
        score=judged.score,
        chance=judged.chance,
        beaten=judged.beaten,
        explains=judged.explains,
        probabilities=list(judged.probabilities),
    )

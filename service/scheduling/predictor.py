"""Turns request options and an image into a response model. No HTTP; the queues are in `image_queue` and `explain_queue`."""

import asyncio
import base64
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ..api.options import ClassifyOptions, ExplainOptions, SimilarOptions
from ..api.problems import CLIENT_ERRORS, to_problem
from ..api.schemas import (
    Batch,
    BatchItem,
    Classification,
    Deletion,
    Embedding,
    Explained,
    ImageFacts,
    ModelReference,
    Neighbor,
    Prediction,
    Region,
    Similar,
)
from ..errors import ProblemError
from ..explain.deletion import Deletion as DeletionScore
from ..explain.explainer import Explanation
from ..explain.overlay import overlay
from ..imaging.preprocess import DecodedImage
from ..inference.model import ClassificationResult, Model
from ..monitoring.metrics import Metrics
from ..settings import Settings
from .explain_queue import ExplainQueue
from .image_queue import InferenceQueue

R = TypeVar("R")


class Predictor:
    """A model with its queues; one method per API operation.

    Attributes:
        queue: the queue that decodes images and runs the network.
    """

    def __init__(self, model: Model, settings: Settings, metrics: Metrics) -> None:
        self.model = model
        self.settings = settings
        self._metrics = metrics
        self.queue = InferenceQueue(model, settings, metrics)
        self._explain_queue = ExplainQueue(model, settings.max_explanations, metrics)
        manifest, backbone = model.manifest, model.manifest.backbone.name
        metrics.set_model_info(
            name=manifest.name,
            version=manifest.version,
            sha256=manifest.sha256,
            backbone=backbone,
            device=model.engine.device,
            precision=model.engine.precision,
        )

    async def classify(self, encoded: bytes, options: ClassifyOptions, request_id: str) -> Classification:
        """Classifies one image. Raises ImageError, Overloaded, or ProblemError if the outputs are not finite."""
        result = await self.queue.infer(encoded)
        n_labels = len(self.model.manifest.labels)
        answer = self.model.postprocess(result.outputs, min(options.top_k, n_labels))
        self._record(answer)
        warnings = _count_warning("top_k", options, n_labels, f"the model has only {n_labels} labels")
        return Classification(
            predictions=[
                Prediction(label=label, probability=probability)
                for label, probability in answer.ranked
                if probability >= options.threshold
            ],
            prediction_set=list(answer.prediction_set),
            outlier_score=answer.outlier_score,
            abstain=answer.abstain_reason is not None,
            abstain_reason=answer.abstain_reason,
            **self._common_fields(result.decoded, result.timing_ms, warnings, request_id),
        )

    async def classify_many(self, images: list[bytes], options: ClassifyOptions, request_id: str) -> Batch:
        """A result or an error for each image."""

        async def classify_one(index: int, encoded: bytes) -> BatchItem:
            try:
                answer = await self.classify(encoded, options, request_id)
            except CLIENT_ERRORS as error:
                return BatchItem(index=index, error=to_problem(error, self.settings, request_id))
            return BatchItem(index=index, answer=answer)

        results = await asyncio.gather(*(classify_one(index, encoded) for index, encoded in enumerate(images)))
        return Batch(results=results, request_id=request_id)

    async def embed(self, encoded: bytes, request_id: str) -> Embedding:
        """The feature vector of one image. Raises as `classify` does."""
        result = await self.queue.infer(encoded)
        vector = result.outputs.vectors[0].tolist()
        return Embedding(vector=vector, **self._common_fields(result.decoded, result.timing_ms, [], request_id))

    async def similar(self, encoded: bytes, options: SimilarOptions, request_id: str) -> Similar:
        """The nearest training images of one image. Raises as `classify` does."""
        result = await self.queue.infer(encoded)
        labels, n_indexed = self.model.manifest.labels, len(self.model.neighbors.paths)
        nearest = [
            Neighbor(
                path=path,
                labels=[labels[label] for label in own_labels],
                distance=distance,
                thumbnail=self._thumbnail(row) if options.thumbnails else None,
            )
            for row, path, own_labels, distance in self.model.neighbors.nearest(result.outputs.vectors[0], options.k)
        ]
        warnings = _count_warning("k", options, n_indexed, f"the package contains only {n_indexed} training images")
        return Similar(neighbors=nearest, **self._common_fields(result.decoded, result.timing_ms, warnings, request_id))

    def _thumbnail(self, row: int) -> str | None:
        jpeg = self.model.thumbnails[row]
        return base64.b64encode(jpeg).decode() if jpeg else None

    async def explain(self, encoded: bytes, options: ExplainOptions, request_id: str) -> Explained:
        """A heat map for one label. Raises as `classify` does, and ProblemError for an unsupported method."""
        start = time.perf_counter()
        score: DeletionScore | None = None
        if options.deletion:
            explanation, score = await self._explain_with_score(encoded, options)
        else:
            explanation = await self._run_explain(encoded, options, lambda explanation: explanation)
        timing_ms = {"explain": round(1e3 * (time.perf_counter() - start), 3)}
        return Explained(
            label=explanation.label,
            probability=explanation.probability,
            method=explanation.method,
            map=explanation.map.tolist(),
            bias=explanation.bias,
            region=Region(**explanation.region._asdict()),
            deletion=score and _deletion_schema(score),
            **self._common_fields(explanation.decoded, timing_ms, [], request_id),
        )

    async def overlay(self, encoded: bytes, options: ExplainOptions) -> bytes:
        """The heat map as a PNG overlay."""
        return await self._run_explain(encoded, options, overlay)

    async def _run_explain(self, encoded: bytes, options: ExplainOptions, finish: Callable[[Explanation], R]) -> R:
        label, decoded = await self._prepare_explain(encoded, options)
        return await self._explain_queue.explain(decoded, label, options.method, finish)

    async def _explain_with_score(self, encoded: bytes, options: ExplainOptions) -> tuple[Explanation, DeletionScore]:
        label, decoded = await self._prepare_explain(encoded, options)
        return await self._explain_queue.explain_with_score(decoded, label, options.method)

    async def _prepare_explain(self, encoded: bytes, options: ExplainOptions) -> tuple[int | None, DecodedImage]:
        label = self._label_index(options.label)
        self._explain_queue.check_capacity()
        return label, await self.queue.decode_image(encoded)

    def _label_index(self, name: str | None) -> int | None:
        labels = self.model.manifest.labels
        if name is None:
            return None
        if name not in labels:
            raise ProblemError("bad_label", f"There is no label {name!r}. See /v1/labels for the labels.", field="label")
        return labels.index(name)

    def _record(self, answer: ClassificationResult) -> None:
        self._metrics.images.inc()
        self._metrics.outlier_score.observe(answer.outlier_score)
        if answer.abstain_reason:
            self._metrics.abstentions.labels(answer.abstain_reason).inc()

    def _common_fields(
        self, decoded: DecodedImage, timing_ms: dict[str, float], warnings: list[str], request_id: str
    ) -> dict[str, Any]:
        """The fields that all responses about one image share."""
        manifest = self.model.manifest
        return {
            "model": ModelReference(name=manifest.name, version=manifest.version, sha256=manifest.sha256),
            "image": ImageFacts(width=decoded.width, height=decoded.height, format=decoded.format),
            "warnings": [*warnings, *decoded.notes],
            "timing_ms": timing_ms,
            "request_id": request_id,
        }

    def close(self) -> None:
        """Finishes the accepted requests."""
        self._explain_queue.close()
        self.queue.close()


def _count_warning(name: str, options: ClassifyOptions | SimilarOptions, available: int, why: str) -> list[str]:
    """A warning if the request explicitly asks for more than is available; the default value never warns."""
    return [f"{name}: {why}"] if name in options.model_fields_set and getattr(options, name) > available else []


def _deletion_schema(score: DeletionScore) -> Deletion:
    return Deletion(
        score=score.score,
        baseline=score.baseline,
        fraction_beaten=score.fraction_beaten,
        explains=score.explains,
        probabilities=list(score.probabilities),
    )

"""Turns request options and an image into a response model. No HTTP; the queues are in `image_queue` and `explain_queue`."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from .. import answers
from ..api.options import MAX_SHOWN, ClassifyOptions, ExplainOptions, SimilarOptions
from ..api.problems import CLIENT_ERRORS, to_problem
from ..api.schemas import Batch, BatchItem, Classification, Embedding, Explained, Similar
from ..errors import ProblemError
from ..explain.deletion import Deletion
from ..explain.explainer import Explanation
from ..explain.overlay import overlay
from ..imaging.preprocess import DecodedImage
from ..inference.model import Model
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
        answer = answers.classify(self.model, result, options, request_id)
        self._record(answer)
        return answer

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
        return answers.embed(self.model, await self.queue.infer(encoded), request_id)

    async def similar(self, encoded: bytes, options: SimilarOptions, request_id: str) -> Similar:
        """The nearest training images of one image. Raises as `classify` does."""
        return answers.similar(self.model, await self.queue.infer(encoded), options, request_id)

    async def explain(self, encoded: bytes, options: ExplainOptions, request_id: str) -> Explained:
        """A heat map for one label. Raises as `classify` does, and ProblemError for an unsupported method."""
        start = time.perf_counter()
        score: Deletion | None = None
        if options.deletion:
            explanation, score = await self._explain_with_score(encoded, options)
        else:
            explanation = await self._run_explain(encoded, options, lambda explanation: explanation)
        timing_ms = {"explain": round(1e3 * (time.perf_counter() - start), 3)}
        return answers.explain(self.model, explanation, score, timing_ms, request_id)

    async def overlay(self, encoded: bytes, options: ExplainOptions) -> bytes:
        """The heat map as a PNG overlay."""
        return await self._run_explain(encoded, options, overlay)

    async def _run_explain(self, encoded: bytes, options: ExplainOptions, finish: Callable[[Explanation], R]) -> R:
        label, decoded = await self._prepare_explain(encoded, options)
        return await self._explain_queue.explain(decoded, label, options.method, finish)

    async def _explain_with_score(self, encoded: bytes, options: ExplainOptions) -> tuple[Explanation, Deletion]:
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
            raise ProblemError(
                "bad_label", f"There is no label {name[:MAX_SHOWN]!r}. See /v1/labels for the labels.", field="label"
            )
        return labels.index(name)

    def _record(self, answer: Classification) -> None:
        self._metrics.images.inc()
        self._metrics.outlier_score.observe(answer.outlier_score)
        if answer.abstain_reason:
            self._metrics.abstentions.labels(answer.abstain_reason).inc()

    async def close(self) -> None:
        """Finishes the accepted requests."""
        await asyncio.to_thread(self._explain_queue.close)
        await self.queue.close()

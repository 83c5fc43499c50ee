"""Builds the response models of the API from the outputs of a model. The HTTP service and the Python API both use it.

No HTTP, no queues, no decoding.
"""

import base64
from itertools import accumulate, takewhile, zip_longest
from typing import Any

from .api.options import MAX_NEIGHBORS, ClassifyOptions, SimilarOptions
from .api.schemas import (
    Classification,
    Deletion,
    Embedding,
    Explained,
    ImageFacts,
    ModelDescription,
    ModelReference,
    Neighbor,
    Prediction,
    Region,
    Similar,
)
from .explain import deletion
from .explain.explainer import Explanation
from .imaging.preprocess import DecodedImage
from .inference.model import ClassificationResult, InferenceResult, Model

MAX_THUMBNAIL_BYTES = 2**22  # of all thumbnails in one response


def classify(model: Model, result: InferenceResult, options: ClassifyOptions, request_id: str) -> Classification:
    """The ranked labels of one image, with the prediction set and the outlier score."""
    n_labels = len(model.manifest.labels)
    classified = model.postprocess(result.outputs, min(options.top_k, n_labels), options.max_error)
    warnings = _count_warning("top_k", options, n_labels, f"the model has only {n_labels} labels")
    if options.max_error is not None and model.manifest.multilabel:
        warnings.append("max_error: has no effect on a multi-label model")
    return Classification(
        predictions=_predictions(classified, options.threshold),
        prediction_set=list(classified.prediction_set),
        outlier_score=classified.outlier_score,
        abstain=classified.abstain_reason is not None,
        abstain_reason=classified.abstain_reason,
        **_common_fields(model, result.decoded, result.timing_ms, warnings, request_id),
    )


def _predictions(classified: ClassificationResult, threshold: float) -> list[Prediction]:
    return [
        Prediction(label=label, probability=probability) for label, probability in classified.ranked if probability >= threshold
    ]


def embed(model: Model, result: InferenceResult, request_id: str) -> Embedding:
    """The feature vector of one image."""
    vector = result.outputs.vectors[0].tolist()
    return Embedding(vector=vector, **_common_fields(model, result.decoded, result.timing_ms, [], request_id))


def similar(model: Model, result: InferenceResult, options: SimilarOptions, request_id: str) -> Similar:
    """The nearest training images of one image.

    Raises:
        ArtifactError: if thumbnails are requested, and those of the package are invalid.
    """
    labels, n_indexed = model.manifest.labels, len(model.neighbors.paths)
    found = model.neighbors.nearest(result.outputs.vectors[0], min(options.k, MAX_NEIGHBORS))
    thumbnails = _thumbnails(model, [neighbor.row for neighbor in found]) if options.thumbnails else []
    nearest = [
        Neighbor(
            path=neighbor.path,
            labels=[labels[label] for label in neighbor.labels],
            distance=neighbor.distance,
            thumbnail=thumbnail,
        )
        for neighbor, thumbnail in zip_longest(found, thumbnails)
    ]
    warnings = _count_warning("k", options, n_indexed, f"the package contains only {n_indexed} training images")
    if len(found) == MAX_NEIGHBORS < options.k:
        warnings.append(f"k: a response contains at most {MAX_NEIGHBORS:,} training images")
    if options.thumbnails and len(thumbnails) < len(found):
        size = f"{MAX_THUMBNAIL_BYTES // 2**20} MiB"
        warnings.append(f"thumbnails: only of the {len(thumbnails)} nearest images, because all would take more than {size}")
    return Similar(neighbors=nearest, **_common_fields(model, result.decoded, result.timing_ms, warnings, request_id))


def _thumbnails(model: Model, rows: list[int]) -> list[str | None]:
    """The thumbnails of the first rows as base64, as many as are allowed in one response."""
    jpegs = [model.thumbnails[row] or b"" for row in rows]
    allowed = takewhile(lambda sized: sized[1] <= MAX_THUMBNAIL_BYTES, zip(jpegs, accumulate(map(len, jpegs)), strict=True))
    return [base64.b64encode(jpeg).decode() or None for jpeg, _ in allowed]


def explain(
    model: Model,
    explanation: Explanation,
    score: deletion.Deletion | None,
    timing_ms: dict[str, float],
    request_id: str,
) -> Explained:
    """The heat map of one label in one image."""
    return Explained(
        label=explanation.label,
        probability=explanation.probability,
        method=explanation.method,
        map=explanation.map.tolist(),
        bias=explanation.bias,
        region=Region(**explanation.region._asdict()),
        deletion=score and _deletion(score),
        **_common_fields(model, explanation.decoded, timing_ms, [], request_id),
    )


def _deletion(score: deletion.Deletion) -> Deletion:
    return Deletion(
        score=score.score,
        baseline=score.baseline,
        fraction_beaten=score.fraction_beaten,
        explains=score.explains,
        probabilities=list(score.probabilities),
    )


def describe(model: Model) -> ModelDescription:
    """What the model is, and how it runs on this machine."""
    fields = model.manifest.model_dump(include=set(ModelDescription.model_fields) - {"fidelity"})
    return ModelDescription(
        **fields,
        fidelity=model.manifest.precisions,
        device=model.engine.device,
        precision=model.engine.precision,
        golden_difference=model.golden_difference,
    )


def _common_fields(
    model: Model, decoded: DecodedImage, timing_ms: dict[str, float], warnings: list[str], request_id: str
) -> dict[str, Any]:
    """The fields that all responses about one image share."""
    manifest = model.manifest
    return {
        "model": ModelReference(name=manifest.name, version=manifest.version, sha256=manifest.sha256),
        "image": ImageFacts(width=decoded.width, height=decoded.height, format=decoded.format),
        "warnings": [*warnings, *decoded.notes],
        "timing_ms": timing_ms,
        "request_id": request_id,
    }


def _count_warning(name: str, options: ClassifyOptions | SimilarOptions, available: int, why: str) -> list[str]:
    """A warning if the request explicitly asks for more than is available; the default value never warns."""
    return [f"{name}: {why}"] if name in options.model_fields_set and getattr(options, name) > available else []

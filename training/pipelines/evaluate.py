"""Evaluates a trained network on its test split, or a package on a labeled data set."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graft.service.artifact import Artifact, Preprocessing
from graft.service.inference import loader
from graft.service.inference.devices import resolve_device
from graft.service.inference.engine import Engine
from graft.service.inference.model import Model
from graft.training.data.cross_validation import Targets
from graft.training.data.dataset import Dataset, Sample
from graft.training.evaluation.learning_curve import Head, learning_curve
from graft.training.evaluation.metrics import METRICS, evaluate
from graft.training.features import stage_selection
from graft.training.features.feature_arrays import Vectors
from graft.training.inference.bulk import predict_dataset
from graft.training.inference.ten_crop import ten_crop
from graft.training.results import Evaluation, LearningCurve
from graft.training.strategies.auto import SelectionResult
from graft.training.strategies.context import TrainingContext
from graft.training.strategies.probe import ProbeResult
from graft.training.visualization.formatting import format_difference, format_metric

Floats = NDArray[np.float32]


def evaluate_run(context: TrainingContext, selection: SelectionResult, artifact: Artifact) -> Evaluation:
    """Evaluates the selected network on the test split, with the learning curve of the probe."""
    trained, dataset, samples, ten_crops = selection.model, context.dataset, context.splits.test, None
    if context.recipe.ten_crop:
        engine = loader.load(artifact, resolve_device("auto"))
        ten_crops = _ten_crop_probabilities(engine, trained.preprocessing, dataset, samples, trained.temperature)
    curve = _learning_curve(context, selection.probe_result)
    return evaluate(
        trained.test, dataset.labels, trained.temperature, trained.calibration, trained.neighbors, curve, ten_crop=ten_crops
    )


def evaluate_package(model: Model, dataset: Dataset, samples: tuple[Sample, ...], with_ten_crop: bool = False) -> Evaluation:
    """Evaluates a package on labeled images.

    Args:
        dataset, samples: from `load_test_split`.
        with_ten_crop: also measure the gain of ten-crop evaluation.

    Raises:
        ImageError: if a file is unreadable.
    """
    manifest = model.manifest
    outputs = predict_dataset(model.engine, manifest.preprocessing, dataset, samples, "evaluating")
    ten_crops = (
        _ten_crop_probabilities(model.engine, manifest.preprocessing, dataset, samples, manifest.temperature)
        if with_ten_crop
        else None
    )
    return evaluate(outputs, manifest.labels, manifest.temperature, manifest.calibration, model.neighbors, ten_crop=ten_crops)


def _ten_crop_probabilities(
    engine: Engine, preprocessing: Preprocessing, dataset: Dataset, samples: Sequence[Sample], temperature: float
) -> Floats:
    readers = [lambda sample=sample: dataset.read(sample) for sample in samples]
    return ten_crop(engine, preprocessing, readers, temperature, dataset.multilabel)


def _learning_curve(context: TrainingContext, probe: ProbeResult) -> LearningCurve | None:
    """Validation score of the probe by number of training images."""
    best, columns = probe.selection.best, context.features.slices
    train, validation = context.splits.train, context.splits.validation

    def fit(features: Vectors, targets: Targets) -> Head:
        return stage_selection.fit_candidate(best, features, columns, targets)

    return learning_curve(
        context.view_features(train),
        context.targets(train),
        context.features.select(validation, feature_set=best.head_input),
        context.targets(validation),
        fit,
        full_logits=probe.validation_logits,
        seed=context.recipe.seed,
    )


def primary_metric_text(evaluation: Evaluation) -> str:
    """The primary metric with its 95 % confidence interval."""
    value, low, high = evaluation.primary_metric.value, evaluation.primary_metric.low, evaluation.primary_metric.high
    interval = f"{value:.1%} ({low:.1%} to {high:.1%})"
    return f"mean average precision {interval}" if evaluation.multilabel else f"accuracy {interval}"


def to_text(evaluation: Evaluation) -> str:
    """Every metric with its 95 % confidence interval, as text."""
    lines = [f"{evaluation.n:,} images, 95 % confidence intervals in parentheses"]
    for name, metric in evaluation.metrics.items():
        value, low, high = (format_metric(name, number) for number in (metric.value, metric.low, metric.high))
        lines.append(f"{value:>8}  ({low} to {high})  {METRICS[name].title}")
    if evaluation.conformal:
        sets = evaluation.conformal
        lines.append(f"prediction sets cover {sets.coverage.value:.1%} (target {sets.promised:.0%})")
    if evaluation.ten_crop:
        lines.append(f"ten-crop evaluation gains {format_difference(evaluation.ten_crop)}")
    return "\n".join(lines)

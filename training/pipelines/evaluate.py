"""Evaluates a trained network on its test split, or a package on a labeled data set."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graft.service.artifact import Artifact, Preprocessing
from graft.service.inference import loader
from graft.service.inference.engine import Engine
from graft.service.inference.model import Model
from graft.training.data.cross_validation import Targets
from graft.training.data.dataset import Dataset, Sample
from graft.training.evaluation.learning_curve import Head, learning_curve
from graft.training.evaluation.metrics import evaluate
from graft.training.features import stage_selection
from graft.training.features.feature_arrays import Vectors
from graft.training.inference.bulk import answered
from graft.training.inference.ten_crop import ten_crop
from graft.training.results import Evaluation, LearningCurve
from graft.training.strategies.auto import Climb
from graft.training.strategies.context import Ground
from graft.training.strategies.probe import Probed
from graft.training.visualization.formatting import measured, points

Floats = NDArray[np.float32]


def network(ground: Ground, climbed: Climb, artifact: Artifact) -> Evaluation:
    """Evaluates the selected network on the test split, with the learning curve of the probe."""
    trained, dataset, samples, ten_crops = climbed.trained, ground.dataset, ground.splits.test, None
    if ground.choices.ten_crop:
        ten_crops = _many(loader.load(artifact), trained.preprocessing, dataset, samples, trained.temperature)
    curve = _curve(ground, climbed.probed)
    return evaluate(
        trained.test, dataset.labels, trained.temperature, trained.calibration, trained.neighbours, curve, ten_crop=ten_crops
    )


def package(model: Model, dataset: Dataset, samples: tuple[Sample, ...], many_looks: bool = False) -> Evaluation:
    """Evaluates a package on labeled images.

    Args:
        dataset, samples: from `load_test_split`.
        with_ten_crop: also measure the gain of ten-crop evaluation.

    Raises:
        ImageError: if a file is unreadable.
    """
    manifest = model.manifest
    outputs = answered(model.engine, manifest.preprocessing, dataset, samples, "evaluating")
    ten_crops = _many(model.engine, manifest.preprocessing, dataset, samples, manifest.temperature) if many_looks else None
    return evaluate(outputs, manifest.labels, manifest.temperature, manifest.calibration, model.neighbours, ten_crop=ten_crops)


def _many(
    running: Engine, preprocessing: Preprocessing, dataset: Dataset, samples: Sequence[Sample], temperature: float
) -> Floats:
    readers = [lambda sample=sample: dataset.read(sample) for sample in samples]
    return ten_crop(running, preprocessing, readers, temperature, dataset.multilabel)


def _curve(ground: Ground, probed: Probed) -> LearningCurve | None:
    """Validation score of the probe by number of training images."""
    best, columns = probed.chosen.best, ground.features.columns
    train, validation = ground.splits.train, ground.splits.validation

    def fit(features: Vectors, targets: Targets) -> Head:
        return stage_selection.learn(best, features, columns, targets)

    return learning_curve(
        ground.seen(train),
        ground.targets(train),
        ground.features.rows_of(validation, block=best.sees),
        ground.targets(validation),
        fit,
        whole=probed.validation,
        seed=ground.choices.seed,
    )


NAMES = {
    "accuracy": "accuracy",
    "top5": "top-5 accuracy",
    "balanced_accuracy": "balanced accuracy (mean recall)",
    "map": "mean average precision",
    "micro_f1": "micro-averaged F1",
    "macro_f1": "macro-averaged F1",
    "exact_match": "exact match",
    "log_loss": "log-loss, in nats",
    "brier": "Brier score",
    "ece_before": "calibration error (ECE) before temperature scaling",
    "ece_after": "calibration error (ECE)",
}


def headline(found: Evaluation) -> str:
    """The primary metric with its 95 % confidence interval."""
    value, low, high = found.headline.value, found.headline.low, found.headline.high
    interval = f"{value:.1%} ({low:.1%} to {high:.1%})"
    return f"mean average precision {interval}" if found.multilabel else f"accuracy {interval}"


def text(found: Evaluation) -> str:
    """Every metric with its 95 % confidence interval, as text."""
    lines = [f"{found.n:,} images, 95 % confidence intervals in parentheses"]
    for name, metric in found.metrics.items():
        value, low, high = (measured(name, number) for number in (metric.value, metric.low, metric.high))
        lines.append(f"{value:>8}  ({low} to {high})  {NAMES[name]}")
    if found.conformal:
        sets = found.conformal
        lines.append(f"prediction sets cover {sets.coverage.value:.1%} (target {sets.promised:.0%})")
    if found.ten_crop:
        lines.append(f"ten-crop evaluation gains {points(found.ten_crop)}")
    return "\n".join(lines)

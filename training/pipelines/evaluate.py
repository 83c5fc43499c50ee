"""What a network is worth: of one that has just learned, and of a package on anybody's labelled images."""

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
    """All that the test images say of the network that was kept, and what more images would bring."""
    trained, dataset, samples, many = climbed.trained, ground.dataset, ground.splits.test, None
    if ground.choices.ten_crop:
        many = _many(loader.load(artifact), trained.preprocessing, dataset, samples, trained.temperature)
    curve = _curve(ground, climbed.probed)
    return evaluate(
        trained.test, dataset.labels, trained.temperature, trained.calibration, trained.neighbours, curve, ten_crop=many
    )


def package(model: Model, dataset: Dataset, samples: tuple[Sample, ...], many_looks: bool = False) -> Evaluation:
    """All that labelled images say of a package.

    Args:
        dataset, samples: as `held_out` gives them.
        many_looks: also look at each image ten times, and say what that gains.

    Raises:
        ImageError: if a file is unreadable.
    """
    manifest = model.manifest
    said = answered(model.engine, manifest.preprocessing, dataset, samples, "evaluating")
    many = _many(model.engine, manifest.preprocessing, dataset, samples, manifest.temperature) if many_looks else None
    return evaluate(said, manifest.labels, manifest.temperature, manifest.calibration, model.neighbours, ten_crop=many)


def _many(
    running: Engine, preprocessing: Preprocessing, dataset: Dataset, samples: Sequence[Sample], temperature: float
) -> Floats:
    readers = [lambda sample=sample: dataset.read(sample) for sample in samples]
    return ten_crop(running, preprocessing, readers, temperature, dataset.multilabel)


def _curve(ground: Ground, probed: Probed) -> LearningCurve | None:
    """How the first rung's score on validation grows with the images it learns from."""
    best, columns = probed.chosen.best, ground.features.columns
    train, validation = ground.splits.train, ground.splits.validation

    def fit(seen: Vectors, targets: Targets) -> Head:
        return stage_selection.learn(best, seen, columns, targets)

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
    "accuracy": "right",
    "top5": "right label among the first five",
    "balanced_accuracy": "mean of the labels' recalls",
    "map": "mean average precision",
    "micro_f1": "F1 of all answers together",
    "macro_f1": "mean of the labels' F1",
    "exact_match": "all labels right",
    "log_loss": "log-loss, in nats",
    "brier": "Brier score",
    "ece_before": "calibration error before the temperature",
    "ece_after": "calibration error",
}


def headline(found: Evaluation) -> str:
    """The first number of an evaluation, with its interval."""
    value, low, high = found.headline.value, found.headline.low, found.headline.high
    words = f"{value:.1%} ({low:.1%} to {high:.1%})"
    return f"mean average precision {words}" if found.multilabel else f"{words} right"


def text(found: Evaluation) -> str:
    """An evaluation for a terminal: every metric with its 95 % interval."""
    lines = [f"{found.n:,} images, 95 % intervals in brackets"]
    for name, metric in found.metrics.items():
        value, low, high = (measured(name, number) for number in (metric.value, metric.low, metric.high))
        lines.append(f"{value:>8}  ({low} to {high})  {NAMES[name]}")
    if found.conformal:
        sets = found.conformal
        lines.append(f"prediction sets hold the right label for {sets.coverage.value:.1%} ({sets.promised:.0%} were promised)")
    if found.ten_crop:
        lines.append(f"ten looks at an image bring {points(found.ten_crop)}")
    return "\n".join(lines)

"""Metrics with confidence intervals from logits and targets, paired comparisons, and the test evaluation. Numpy only.

Targets are int64 (N,) for one label per image and bool (N, C) for multi-label data; functions that make sense for both accept
both.
"""

import numpy as np
from numpy.typing import NDArray

from graft.service.artifact import Calibration, Score
from graft.service.inference import postprocess
from graft.service.inference.neighbours import Neighbours
from graft.training.data.cross_validation import Targets
from graft.training.evaluation import confidence_intervals
from graft.training.evaluation.calibration import losses, outlier_scores
from graft.training.evaluation.calibration_error import calibration_error, reliability
from graft.training.evaluation.confidence_intervals import wilson
from graft.training.evaluation.per_class import average_precisions, confusion, macro_precision, several, single
from graft.training.evaluation.predictions import Answered
from graft.training.features.feature_arrays import Vectors
from graft.training.results import Conformal, Estimate, Evaluation, LearningCurve, Outliers

Floats = NDArray[np.float64]


def score(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Score:
    """Top-1 accuracy of logits (N, C) with its 95 % Wilson interval."""
    return _score(logits.argmax(axis=1) == labels)


def score_several(chances: Floats, targets: NDArray[np.bool_], thresholds: Floats) -> Score:
    """Exact-match ratio: images with all labels predicted correctly, by thresholds (C,), with its 95 % Wilson interval."""
    return _score((postprocess.given(chances, thresholds) == targets).all(axis=1))


def _score(right: NDArray[np.bool_]) -> Score:
    if len(right) == 0:
        return Score(accuracy=0, low=0, high=1, n=0)
    low, high = wilson(float(right.mean()), len(right))
    return Score(accuracy=float(right.mean()), low=low, high=high, n=len(right))


def log_loss(logits: NDArray[np.float32], targets: Targets, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood in nats; for multi-label data the mean over labels too."""
    return float(losses(logits, targets, temperature).mean())


def by_image(logits: NDArray[np.float32], targets: Targets) -> Floats:
    """One value per image, (N,), whose mean is the score: accuracy, or mean average precision for multi-label data.

    For accuracy the values are 1 or 0. Mean average precision is not a mean over images, so its values are jackknife
    pseudo-values, which have its mean and its variance.
    """
    if targets.ndim == 1:
        correct: Floats = (logits.argmax(axis=1) == targets).astype(np.float64)
        return correct
    values, influences = average_precisions(logits, targets)
    present = ~np.isnan(values)
    pseudo_values: Floats = values[present].mean() + len(targets) * influences[:, present].mean(axis=1)
    return pseudo_values


def headline(said: Answered) -> Estimate:
    """Accuracy, or mean average precision for multi-label data."""
    if said.multilabel:
        return mean_average_precision(said.logits, said.targets)
    accuracy = score(said.logits, said.targets)
    return _estimate(accuracy.accuracy, accuracy.low, accuracy.high)


def mistakes(logits: NDArray[np.float32], targets: Targets) -> int:
    """Number of wrong predictions: labels, or binary decisions for multi-label data."""
    wrong = logits.argmax(axis=1) != targets if targets.ndim == 1 else (logits > 0) != targets
    return int(wrong.sum())


def paired_difference(
    logits: NDArray[np.float32], rival: NDArray[np.float32], targets: Targets, seed: int = 0
) -> tuple[float, float, float]:
    """Score minus the baseline's score on the same images, with a 95 % interval.

    The score is accuracy, or mean average precision for multi-label data. A paired bootstrap over the images (Efron &
    Tibshirani 1993): each sample keeps both predictions for an image together, so their shared variance cancels out.

    Returns:
        (difference, low, high), each in [-1, 1].
    """
    value, low, high = _paired(by_image(logits, targets) - by_image(rival, targets), seed)
    return value, max(-1.0, low), min(1.0, high)


def paired_log_loss(
    logits: NDArray[np.float32],
    rival: NDArray[np.float32],
    targets: Targets,
    temperature: float = 1.0,
    rival_temperature: float = 1.0,
    seed: int = 0,
) -> tuple[float, float, float]:
    """The baseline's log-loss minus the log-loss, in nats per image, with a 95 % interval as in `paired_difference`."""
    return _paired(losses(rival, targets, rival_temperature) - losses(logits, targets, temperature), seed)


def _paired(gains: Floats, seed: int) -> tuple[float, float, float]:
    gain = confidence_intervals.mean(gains, seed)
    return gain.value, gain.low, gain.high


def mean_average_precision(logits: NDArray[np.floating], targets: NDArray[np.bool_]) -> Estimate:
    """Mean average precision over the labels that have images.

    Raises:
        ValueError: if no image has any label.
    """
    return macro_precision(*average_precisions(logits, targets), targets)[0]


def evaluate(
    test: Answered,
    labels: tuple[str, ...],
    temperature: float,
    calibration: Calibration,
    neighbours: Neighbours,
    curve: LearningCurve | None = None,
    ten_crop: NDArray[np.float32] | None = None,
) -> Evaluation:
    """Evaluates predictions on test images, with the temperature and thresholds chosen on validation.

    Args:
        test: predictions on held-out images that were not used for any choice.
        labels: names of the C labels.
        temperature, calibration: chosen on validation.
        neighbours: reference vectors of the outlier scores.
        curve: the learning curve, if it was computed.
        ten_crop: ten-crop logits (N, C) of the test images, if they were computed.

    Raises:
        ValueError: if there are no images.
    """
    if len(test.targets) == 0:
        raise ValueError("There are no test images to evaluate on.")
    before, after = (postprocess.probabilities(test.logits, divisor, test.multilabel) for divisor in (1.0, temperature))
    if test.multilabel:
        metrics, by_label = several(after, test.targets, labels, calibration)
        correct, confidence_before, confidence_after = test.targets, before, after
    else:
        metrics, by_label = single(after, test.targets, labels, calibration)
        correct = (after.argmax(axis=1) == test.targets)[:, None]
        confidence_before, confidence_after = before.max(axis=1, keepdims=True), after.max(axis=1, keepdims=True)
    metrics |= {
        "log_loss": confidence_intervals.mean(losses(test.logits, test.targets, temperature)),
        "brier": confidence_intervals.mean(_brier(after, test.targets)),
        "ece_before": calibration_error(confidence_before, correct),
        "ece_after": calibration_error(confidence_after, correct),
    }
    return Evaluation(
        n=len(test.targets),
        multilabel=test.multilabel,
        temperature=temperature,
        metrics=metrics,
        labels=by_label,
        confusion=None if test.multilabel else tuple(map(tuple, confusion(after, test.targets).tolist())),
        reliability_before=reliability(confidence_before, correct),
        reliability_after=reliability(confidence_after, correct),
        conformal=None if test.multilabel else _conformal(after, test.targets, calibration),
        outliers=_outliers(test.vectors, calibration, neighbours),
        curve=curve,
        ten_crop=None if ten_crop is None else _estimate(*paired_difference(ten_crop, test.logits, test.targets)),
    )


def _brier(chances: Floats, targets: Targets) -> Floats:
    """Brier score of each image (Brier 1950), (N,).

    One label per image: summed over labels, in [0, 2]. Multi-label: the mean over labels, in [0, 1].
    """
    if targets.ndim == 2:
        squared_errors: Floats = ((chances - targets) ** 2).mean(axis=1)
        return squared_errors
    target_probability = chances[np.arange(len(targets)), targets]
    squares: Floats = np.einsum("nc,nc->n", chances, chances)
    return squares - 2 * target_probability + 1


def _conformal(chances: Floats, labels: NDArray[np.int64], calibration: Calibration) -> Conformal:
    nominal, threshold = calibration.coverage, calibration.set_threshold
    if nominal is None or threshold is None:
        raise ValueError("The calibration is for multi-label data; the predictions have one label per image.")
    in_set = postprocess.conforming(chances, threshold)
    sizes = in_set.sum(axis=1)
    return Conformal(
        promised=nominal,
        threshold=threshold,
        coverage=_of_all(in_set[np.arange(len(labels)), labels]),
        mean_size=float(sizes.mean()),
        sizes={int(size): int(n) for size, n in zip(*np.unique(sizes, return_counts=True), strict=True)},
    )


def _outliers(vectors: Vectors, calibration: Calibration, neighbours: Neighbours) -> Outliers:
    k, threshold = calibration.outlier_k, calibration.outlier_threshold
    return Outliers(k=k, threshold=threshold, flagged=_of_all(outlier_scores(neighbours, vectors, k) > threshold))


def _of_all(flags: NDArray[np.bool_]) -> Estimate:
    return _estimate(float(flags.mean()), *wilson(float(flags.mean()), len(flags)))


def _estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high)

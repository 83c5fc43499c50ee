"""Logits and targets -> honest numbers: scores with intervals, paired comparison, everything known on test. Numpy only.

Targets are int64 (N,) where an image has one label, and bool (N, C) where it may have several; what is asked of either is
asked by the same function.
"""

import numpy as np
from numpy.typing import NDArray

from graft.service.artifact import Calibration, Score
from graft.service.inference.neighbours import Neighbours
from graft.service.inference.postprocess import conforming, given, probabilities
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
    """The share of images whose labels are all right, none missing and none too many, by thresholds (C,)."""
    return _score((given(chances, thresholds) == targets).all(axis=1))


def _score(right: NDArray[np.bool_]) -> Score:
    if len(right) == 0:
        return Score(accuracy=0, low=0, high=1, n=0)
    low, high = wilson(float(right.mean()), len(right))
    return Score(accuracy=float(right.mean()), low=low, high=high, n=len(right))


def log_loss(logits: NDArray[np.float32], targets: Targets, temperature: float = 1.0) -> float:
    """The mean negative log-probability of the truth, in nats; for several labels an image the mean over them, too."""
    return float(losses(logits, targets, temperature).mean())


def by_image(logits: NDArray[np.float32], targets: Targets) -> Floats:
    """One number an image, (N,), whose mean is the score: accuracy, or mean average precision for several labels.

    For accuracy that is 1 or 0. Mean average precision is no mean over images; these are its jackknife's pseudo-values,
    whose mean it is, and whose spread is that of the score.
    """
    if targets.ndim == 1:
        right: Floats = (logits.argmax(axis=1) == targets).astype(np.float64)
        return right
    values, influences = average_precisions(logits, targets)
    known = ~np.isnan(values)
    pseudo: Floats = values[known].mean() + len(targets) * influences[:, known].mean(axis=1)
    return pseudo


def headline(said: Answered) -> Estimate:
    """The one number that a network is known by: accuracy, or mean average precision for several labels an image."""
    if said.multilabel:
        return mean_average_precision(said.logits, said.targets)
    found = score(said.logits, said.targets)
    return _estimate(found.accuracy, found.low, found.high)


def mistakes(logits: NDArray[np.float32], targets: Targets) -> int:
    """How many answers are wrong: labels, or yes-or-no answers for several labels an image."""
    wrong = logits.argmax(axis=1) != targets if targets.ndim == 1 else (logits > 0) != targets
    return int(wrong.sum())


def paired_difference(
    logits: NDArray[np.float32], rival: NDArray[np.float32], targets: Targets, seed: int = 0
) -> tuple[float, float, float]:
    """By how much the score exceeds the rival's on the same images, with a 95 % interval.

    The score is accuracy, or mean average precision for several labels an image. A paired bootstrap over the images
    (Efron & Tibshirani 1993): each draw keeps both answers to an image together, so what the two have in common cancels
    out.

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
    """By how many nats an image the log-loss lies below the rival's, with a 95 % interval as in `paired_difference`."""
    return _paired(losses(rival, targets, rival_temperature) - losses(logits, targets, temperature), seed)


def _paired(gains: Floats, seed: int) -> tuple[float, float, float]:
    found = confidence_intervals.mean(gains, seed)
    return found.value, found.low, found.high


def mean_average_precision(logits: NDArray[np.floating], targets: NDArray[np.bool_]) -> Estimate:
    """The mean over labels of the average precision; labels that no image has are left out.

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
    """Everything about a network's answers to test images, by rules that validation had fixed before.

    Args:
        test: images that nothing was chosen by.
        labels: names of the C.
        temperature, calibration: chosen on validation.
        neighbours: what outlier scores are measured from.
        curve: how the score grew with images, if that was asked.
        ten_crop: logits (N, C) of ten looks at each test image, if they were taken.

    Raises:
        ValueError: if there are no images.
    """
    if len(test.targets) == 0:
        raise ValueError("There are no test images to evaluate on.")
    before, after = (probabilities(test.logits, divisor, test.multilabel) for divisor in (1.0, temperature))
    if test.multilabel:
        metrics, by_label = several(after, test.targets, labels, calibration)
        (claims, true), (calm, _) = (before, test.targets), (after, test.targets)
    else:
        metrics, by_label = single(after, test.targets, labels, calibration)
        true = (after.argmax(axis=1) == test.targets)[:, None]
        claims, calm = before.max(axis=1, keepdims=True), after.max(axis=1, keepdims=True)
    metrics |= {
        "log_loss": confidence_intervals.mean(losses(test.logits, test.targets, temperature)),
        "brier": confidence_intervals.mean(_brier(after, test.targets)),
        "ece_before": calibration_error(claims, true),
        "ece_after": calibration_error(calm, true),
    }
    return Evaluation(
        n=len(test.targets),
        multilabel=test.multilabel,
        temperature=temperature,
        metrics=metrics,
        labels=by_label,
        confusion=None if test.multilabel else tuple(map(tuple, confusion(after, test.targets).tolist())),
        reliability_before=reliability(claims, true),
        reliability_after=reliability(calm, true),
        conformal=None if test.multilabel else _conformal(after, test.targets, calibration),
        outliers=_outliers(test.vectors, calibration, neighbours),
        curve=curve,
        ten_crop=None if ten_crop is None else _estimate(*paired_difference(ten_crop, test.logits, test.targets)),
    )


def _brier(chances: Floats, targets: Targets) -> Floats:
    """The squared distance of each image's probabilities from the truth (Brier 1950), (N,).

    One label an image: summed over labels, in [0, 2]. Several: the mean over labels, in [0, 1].
    """
    if targets.ndim == 2:
        apart: Floats = ((chances - targets) ** 2).mean(axis=1)
        return apart
    right = chances[np.arange(len(targets)), targets]
    squares: Floats = np.einsum("nc,nc->n", chances, chances)
    return squares - 2 * right + 1


def _conformal(chances: Floats, labels: NDArray[np.int64], calibration: Calibration) -> Conformal:
    promised, threshold = calibration.coverage, calibration.set_threshold
    if promised is None or threshold is None:
        raise ValueError("This calibration is one for several labels an image; the answers are not.")
    members = conforming(chances, threshold)
    sizes = members.sum(axis=1)
    return Conformal(
        promised=promised,
        threshold=threshold,
        coverage=_of_all(members[np.arange(len(labels)), labels]),
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

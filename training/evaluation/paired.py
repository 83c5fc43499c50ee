"""Paired differences of two models, or of one with and without a change, on the same images. Numpy only.

A paired bootstrap over the images (Efron & Tibshirani 1993), or over clusters of them: each sample keeps both predictions for
an image together, so their shared variance cancels out.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graft.service.manifest import MetricName
from graft.training.data.cross_validation import Targets
from graft.training.evaluation import confidence_intervals, macro_f1
from graft.training.evaluation.average_precision import average_precisions
from graft.training.evaluation.calibration import per_sample_nll
from graft.training.evaluation.clusters import Clusters, variance_inflation

Floats = NDArray[np.float64]


def per_sample_score(logits: NDArray[np.float32], targets: Targets, metric: MetricName = "accuracy") -> Floats:
    """One value per image, (N,), whose mean is the score: accuracy, or mean average precision for multi-label data.

    For accuracy the values are 1 or 0. Mean average precision and macro F1 are not means over images, so their values are
    jackknife pseudo-values, which have their mean and their variance.

    Args:
        metric: for one label per image; `log-loss` has accuracy as its score.
    """
    if targets.ndim == 1:
        predicted = logits.argmax(axis=1)
        if metric == "f1-macro":
            return macro_f1.pseudo_values(predicted, targets)
        correct: Floats = (predicted == targets).astype(np.float64)
        return correct * _balancing_weights(targets) if metric == "balanced-accuracy" else correct
    values, influences = average_precisions(logits, targets)
    present = ~np.isnan(values)
    pseudo_values: Floats = values[present].mean() + len(targets) * influences[:, present].mean(axis=1)
    return pseudo_values


def paired_difference(
    logits: NDArray[np.float32],
    baseline: NDArray[np.float32],
    targets: Targets,
    seed: int = 0,
    clusters: Clusters | None = None,
) -> tuple[float, float, float]:
    """Score minus the baseline's score on the same images, with a 95 % interval.

    The score is accuracy, or mean average precision for multi-label data.

    Args:
        clusters: int64 (N,); None if every image is its own.

    Returns:
        (difference, low, high), each in [-1, 1].
    """
    gains = per_sample_score(logits, targets) - per_sample_score(baseline, targets)
    value, low, high = _mean_with_interval(gains, seed, clusters)
    return value, max(-1.0, low), min(1.0, high)


def paired_log_loss(
    logits: NDArray[np.float32],
    baseline: NDArray[np.float32],
    targets: Targets,
    temperature: float = 1.0,
    baseline_temperature: float = 1.0,
    seed: int = 0,
    clusters: Clusters | None = None,
) -> tuple[float, float, float]:
    """The baseline's log-loss minus the log-loss, in nats per image, with a 95 % interval as in `paired_difference`."""
    gains = per_sample_nll(baseline, targets, baseline_temperature) - per_sample_nll(logits, targets, temperature)
    return _mean_with_interval(gains, seed, clusters)


class PairedLosses(NamedTuple):
    """The loss of a model and of a baseline on the same images, for a metric.

    Attributes:
        gains: (N,), the baseline's loss minus the model's, whose mean is the gain in the metric.
    """

    loss: float
    baseline: float
    gains: Floats


def paired_losses(
    metric: MetricName,
    logits: NDArray[np.float32],
    temperature: float,
    baseline: NDArray[np.float32],
    baseline_temperature: float,
    targets: Targets,
) -> PairedLosses:
    """The log-loss, or one minus the accuracy, the balanced accuracy or macro F1, of logits (N, C) and of a baseline's."""
    if metric == "log-loss":
        losses = per_sample_nll(logits, targets, temperature), per_sample_nll(baseline, targets, baseline_temperature)
        return PairedLosses(float(losses[0].mean()), float(losses[1].mean()), losses[1] - losses[0])
    scores = per_sample_score(logits, targets, metric), per_sample_score(baseline, targets, metric)
    gains = scores[0] - scores[1]
    if metric == "f1-macro":
        gains = macro_f1.paired_gains(logits.argmax(axis=1), baseline.argmax(axis=1), targets)
    return PairedLosses(1 - float(scores[0].mean()), 1 - float(scores[1].mean()), gains)


def _balancing_weights(labels: NDArray[np.int64]) -> Floats:
    """The weight of each image, (N,), with which all labels that have images count the same; their mean is 1."""
    support = np.bincount(labels)
    weights: Floats = len(labels) / (np.count_nonzero(support) * support[labels])
    return weights


def standard_error(differences: Floats, clusters: Clusters | None = None) -> float:
    """The standard error of the mean of paired differences, float64 (N,); larger if images of a cluster differ alike."""
    deviations = differences - differences.mean()
    n = len(differences)
    variance = float((deviations**2).sum()) / (n * max(1, n - 1))
    return math.sqrt(variance * variance_inflation(deviations, np.ones(n), clusters))


def _mean_with_interval(gains: Floats, seed: int, clusters: Clusters | None) -> tuple[float, float, float]:
    gain = confidence_intervals.mean_interval(gains, seed, clusters)
    return gain.value, gain.low, gain.high

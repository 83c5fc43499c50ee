"""Paired differences of two models, or of one with and without a change, on the same images. Numpy only.

A paired bootstrap over the images (Efron & Tibshirani 1993), or over clusters of them: each sample keeps both predictions for
an image together, so their shared variance cancels out.
"""

import math

import numpy as np
from numpy.typing import NDArray

from graft.training.data.cross_validation import Targets
from graft.training.evaluation import confidence_intervals
from graft.training.evaluation.average_precision import average_precisions
from graft.training.evaluation.calibration import per_sample_nll
from graft.training.evaluation.clusters import Clusters, variance_inflation

Floats = NDArray[np.float64]


def per_sample_score(logits: NDArray[np.float32], targets: Targets) -> Floats:
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


def standard_error(differences: Floats, clusters: Clusters | None = None) -> float:
    """The standard error of the mean of paired differences, float64 (N,); larger if images of a cluster differ alike."""
    deviations = differences - differences.mean()
    n = len(differences)
    variance = float((deviations**2).sum()) / (n * max(1, n - 1))
    return math.sqrt(variance * variance_inflation(deviations, np.ones(n), clusters))


def _mean_with_interval(gains: Floats, seed: int, clusters: Clusters | None) -> tuple[float, float, float]:
    gain = confidence_intervals.mean_interval(gains, seed, clusters)
    return gain.value, gain.low, gain.high

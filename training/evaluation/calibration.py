"""Calibration on held-out images: temperature, thresholds, prediction sets, wanted error and outliers. Numpy only.

The images are those of `CalibrationSet`: no network that predicts one was trained on it, but the network was selected with
them, so the estimates are slightly optimistic; `graft.training.evaluation.metrics` measures each of them on test images. Test
images must not be used here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.service.inference import postprocess
from graft.service.manifest import Calibration
from graft.training.data.cross_validation import Targets
from graft.training.evaluation import prediction_sets, selective
from graft.training.evaluation.clusters import Clusters, n_clusters
from graft.training.evaluation.predictions import Predictions

TARGET_PRECISION = 0.95  # default target precision
COVERAGE = 0.9  # default coverage of prediction sets
INLIER_QUANTILE = 0.95  # fraction of in-distribution images that must not be flagged as outliers
MAX_COSINE_DISTANCE = 2.0  # the maximum of the cosine distance

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CalibrationSet:
    """What a model is calibrated on.

    Attributes:
        predictions: of networks that were not trained on the image: those of other folds for a head on frozen features, the
            network itself for validation images.
        outlier_scores: of the same images, float64 (N,): the cosine distance to the k-th nearest reference.
        outlier_k: that k.
    """

    predictions: Predictions
    outlier_scores: Floats
    outlier_k: int


@dataclass(frozen=True)
class CalibrationTargets:
    """What the user wants of a model.

    Attributes:
        precision: of the predictions above each label's threshold.
        coverage: of the prediction sets.
        max_error: of the predictions that do not abstain; None for the lowest at which most images are answered.
    """

    precision: float = TARGET_PRECISION
    coverage: float = COVERAGE
    max_error: float | None = None


def calibrate(held_out: CalibrationSet, temperature: float, wanted: CalibrationTargets = CalibrationTargets()) -> Calibration:
    """Computes everything that is calibrated, given the temperature, which is fitted first."""
    predictions = held_out.predictions
    targets, clusters = predictions.targets, predictions.clusters
    probabilities = postprocess.to_probabilities(predictions.logits, temperature, predictions.multilabel)
    outlier_threshold = prediction_sets.conformal_quantile(held_out.outlier_scores, INLIER_QUANTILE, n_clusters(clusters))
    threshold = MAX_COSINE_DISTANCE if outlier_threshold is None else outlier_threshold
    common = {
        "n_images": len(targets),
        "target_precision": wanted.precision,
        "outlier_k": held_out.outlier_k,
        "outlier_threshold": threshold,
    }
    if predictions.multilabel:
        return Calibration(**common, thresholds=best_f1_thresholds(probabilities, targets), coverage=None, set_thresholds=None)
    is_outlier = held_out.outlier_scores > threshold
    return Calibration(
        **common,
        thresholds=selective.precision_thresholds(probabilities, targets, wanted.precision, clusters),
        **_prediction_sets(probabilities, targets, wanted.coverage, clusters),
        **_selective(probabilities, targets, is_outlier, wanted.max_error, clusters),
    )


def _prediction_sets(
    probabilities: Floats, labels: NDArray[np.int64], coverage: float, clusters: Clusters
) -> dict[str, object]:
    thresholds, by_label = prediction_sets.set_thresholds(probabilities, labels, coverage, clusters)
    return {"coverage": coverage, "set_thresholds": thresholds, "covered_by_label": by_label}


def _selective(
    probabilities: Floats,
    labels: NDArray[np.int64],
    is_outlier: NDArray[np.bool_],
    max_error: float | None,
    clusters: Clusters,
) -> dict[str, object]:
    correct, errors = probabilities.argmax(axis=1) == labels, selective.MAX_ERRORS
    wanted = errors if max_error is None else (*errors, max_error)
    levels = selective.error_levels(probabilities.max(axis=1), correct, is_outlier, wanted, clusters)
    return {"max_error": selective.default_max_error(levels) if max_error is None else max_error, "error_levels": levels}


def temperature(logits: NDArray[np.float32], targets: Targets, log_ratio: Floats | None = None) -> float:
    """The temperature for temperature scaling: the divisor of the logits that calibrates the probabilities, in [1/4, 4].

    Minimizes the log-loss on held-out images (Guo et al. 2017) with a weak prior around 1, worth five images: without it, a
    small validation set that happens to be classified without error would drive the temperature to its lower limit.

    Args:
        log_ratio: (C,), added to the scaled logits of a network that learned with other label frequencies than those of the
            images: see `label_frequencies`.
    """

    def cost(log_temperature: float) -> float:
        divisor = math.exp(log_temperature)
        shifted = logits if log_ratio is None else logits + divisor * log_ratio
        return float(per_sample_nll(shifted, targets, divisor).sum()) + 2.5 * log_temperature**2

    return math.exp(_golden_section_search(cost, math.log(0.25), math.log(4)))


def _golden_section_search(cost: Callable[[float], float], low: float, high: float, n_steps: int = 18) -> float:
    """The minimum of a unimodal function by golden-section search; every step evaluates the function once."""
    golden = (math.sqrt(5) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = cost(left), cost(right)
    for _ in range(n_steps):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = cost(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = cost(right)
    return (low + high) / 2


def per_sample_nll(logits: NDArray[np.floating], targets: Targets, temperature: float = 1.0) -> Floats:
    """Negative log-likelihood of each image, (N,), in nats; for multi-label data the mean over labels."""
    scaled = logits.astype(np.float64) / temperature
    if targets.ndim == 2:
        binary_nll: Floats = (np.logaddexp(0, scaled) - scaled * targets).mean(axis=1)
        return binary_nll
    scaled -= scaled.max(axis=1, keepdims=True)
    nll: Floats = np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(targets)), targets]
    return nll


def best_f1_thresholds(probabilities: Floats, targets: NDArray[np.bool_]) -> tuple[float, ...]:
    """The probability threshold per label that maximizes its F1; 1/2 if no image has the label."""
    return tuple(_best_f1_threshold(probabilities[:, label], targets[:, label]) for label in range(targets.shape[1]))


def _best_f1_threshold(probabilities: Floats, targets: NDArray[np.bool_]) -> float:
    if not targets.any():
        return 0.5
    order = np.argsort(-probabilities, kind="stable")
    ranked, true_positives = probabilities[order], targets[order].cumsum()
    f1 = 2 * true_positives / (np.arange(1, len(ranked) + 1) + targets.sum())
    f1[:-1][ranked[1:] == ranked[:-1]] = -1  # a threshold cannot separate equal probabilities
    best = int(f1.argmax())
    # The midpoint between this probability and the next lower one, so that it does not depend on one validation image alone.
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((ranked[best] + below) / 2)

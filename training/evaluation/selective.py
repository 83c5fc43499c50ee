"""Thresholds of the probability above which predictions are shown to be right often enough. No files, no images.

A threshold that happens to work on the images at hand often fails on others, the more so the more thresholds are tried. So
each one here is shown to hold: thresholds are tested from strict to lax, each with an exact binomial test, and the search ends
at the first that fails (fixed-sequence testing; Angelopoulos et al. 2021, "Learn then Test"). A threshold for all labels is
selective classification with a guaranteed risk (Geifman & El-Yaniv 2017, "Selective Classification for Deep Neural Networks").
"""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc  # type: ignore[import-untyped]

from graft.service.manifest import Calibration, ErrorLevel
from graft.training.evaluation.clusters import Clusters, variance_inflation
from graft.training.evaluation.confidence_intervals import ratio, share
from graft.training.results import Estimate, RiskPoint, SelectivePrediction

RISK = 0.1  # probability that a threshold does not hold what is shown
# Two searches share that risk. One starts at the strictest threshold that can be shown to hold, where a single error ends it,
# the other where a few errors do not: in simulations with 100 to 3,000 images, up to twice as many are answered with both.
SEARCHES = ((0.3 * RISK, False), (0.7 * RISK, True))  # risk, whether it starts late
# The errors for which there are thresholds.
MAX_ERRORS = (0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
MIN_ANSWERED = 0.8  # share of the images that are answered at the default error
MIN_DEFAULT_ERROR = 0.01
MAX_POINTS = 50  # of a risk-coverage curve

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def precision_thresholds(
    probabilities: Floats, labels: NDArray[np.int64], precision: float, clusters: Clusters | None = None
) -> tuple[float | None, ...]:
    """The lowest probability per label at which its predictions are shown to reach the target precision; None if there is none.

    Args:
        probabilities: float64 (N, C).
        labels: int64 (N,), the true ones.
        precision: in (0, 1). Each threshold reaches it with probability 1 - RISK.
        clusters: int64 (N,), which images belong together; None if every image is its own.
    """
    predicted, confidences = probabilities.argmax(axis=1), probabilities.max(axis=1)
    correct = predicted == labels
    inflation = _inflation(correct, clusters)
    groups = (predicted == label for label in range(probabilities.shape[1]))
    return tuple(lowest_threshold(confidences[rows], correct[rows], precision, inflation) for rows in groups)


def error_levels(
    confidences: Floats, correct: Bools, is_outlier: Bools, max_errors: Iterable[float], clusters: Clusters | None = None
) -> tuple[ErrorLevel, ...]:
    """For each wanted error, the lowest probability at which predictions are shown to be wrong no more often.

    Args:
        confidences: of the top labels, float64 (N,).
        correct, is_outlier: bool (N,); outliers are never answered.
        max_errors: each in (0, 1).
        clusters: int64 (N,), which images belong together; None if every image is its own.
    """
    inflation, levels, threshold = _inflation(correct, clusters), [], None
    for max_error in sorted(set(max_errors)):
        lowest = lowest_threshold(confidences[~is_outlier], correct[~is_outlier], 1 - max_error, inflation)
        # What is shown for a smaller error holds for this one too.
        threshold = min((value for value in (lowest, threshold) if value is not None), default=None)
        answered = 0.0 if threshold is None else float(((confidences >= threshold) & ~is_outlier).mean())
        levels.append(ErrorLevel(max_error=max_error, min_probability=threshold, answered=answered))
    return tuple(levels)


def default_max_error(levels: Iterable[ErrorLevel]) -> float | None:
    """The lowest error from MIN_DEFAULT_ERROR up that leaves MIN_ANSWERED of the images answered; None if there is none."""
    usable = (level.max_error for level in levels if level.answered >= MIN_ANSWERED and level.max_error >= MIN_DEFAULT_ERROR)
    return min(usable, default=None)


def lowest_threshold(confidences: Floats, correct: Bools, precision: float, inflation: float = 1.0) -> float | None:
    """The lowest confidence from which up predictions are shown to be right with this precision; None if none is.

    Args:
        confidences: (N,).
        correct: bool (N,).
        precision: in (0, 1).
        inflation: variance relative to independent images, at least 1: as many images tell no more than N / inflation.
    """
    order = np.argsort(-confidences, kind="stable")
    ranked, n_errors = confidences[order], (~correct[order]).cumsum()
    found = (_search(ranked, n_errors, precision, inflation, risk, starts_late) for risk, starts_late in SEARCHES)
    return min((threshold for threshold in found if threshold is not None), default=None)


def _search(
    ranked: Floats, n_errors: NDArray[np.intp], precision: float, inflation: float, risk: float, starts_late: bool
) -> float | None:
    threshold = None
    for n in _tested_ranks(len(ranked), precision, inflation, risk, starts_late):
        n_above = int(np.searchsorted(-ranked, -ranked[n - 1], side="right"))  # a threshold cannot separate equal probabilities
        if binomial_cdf(float(n_errors[n_above - 1]) / inflation, n_above / inflation, 1 - precision) > risk:
            break
        threshold = float(ranked[n_above - 1])
    return threshold


def _tested_ranks(n: int, precision: float, inflation: float, risk: float, starts_late: bool) -> list[int]:
    """How many predictions are above each threshold that is tested, in the order of the tests; the last is n.

    Each is a tenth larger than the one before. They depend on no label, as the test requires.
    """
    fewest = math.ceil(inflation * math.log(risk) / math.log(precision) - 1e-9)  # without an error among them
    ranks, rank = [], max(fewest, min(4 * fewest, n // 2)) if starts_late else fewest
    while rank < n:
        ranks.append(rank)
        rank += rank // 10 + 1
    return [*ranks, n] if ranks or rank == n else []


def binomial_cdf(k: float, n: float, p: float) -> float:
    """The probability of at most k successes in n trials with probability p, in (0, 1); k and n need not be whole numbers."""
    return 1.0 if k >= n else float(betainc(n - k, k + 1, 1 - p))


def _inflation(correct: Bools, clusters: Clusters | None) -> float:
    """The variance of the number of right predictions relative to independent images."""
    return variance_inflation(correct - correct.mean(), np.ones(len(correct)), clusters) if len(correct) else 1.0


def measure(
    confidences: Floats, correct: Bools, is_outlier: Bools, calibration: Calibration, clusters: Clusters | None = None
) -> SelectivePrediction:
    """Measures on N > 0 test images what abstaining brings, with the thresholds of a calibration.

    Args:
        confidences, correct, is_outlier, clusters: as for `error_levels`.
    """
    answered = (confidences >= calibration.min_probability()) & ~is_outlier
    # The service abstains for outliers first, however sure the network is.
    order = np.lexsort((-confidences, is_outlier))
    ends = np.unique(np.linspace(1, len(order), min(len(order), MAX_POINTS)).round().astype(int))
    error_so_far = (~correct[order]).cumsum() / np.arange(1, len(order) + 1)
    return SelectivePrediction(
        max_error=calibration.max_error,
        answered=share(answered, clusters),
        error=ratio(answered & ~correct, answered, clusters),
        caught=ratio(~answered & ~correct, ~correct, clusters),
        curve=tuple(_risk_point(order[:end], correct, clusters) for end in ends),
        aurc=float(error_so_far.mean()),
    )


def _risk_point(rows: NDArray[np.intp], correct: Bools, clusters: Clusters | None) -> RiskPoint:
    answered = np.zeros(len(correct), bool)
    answered[rows] = True
    error = ratio(answered & ~correct, answered, clusters)
    return RiskPoint(answered=len(rows) / len(correct), error=error or Estimate(value=0, low=0, high=1))

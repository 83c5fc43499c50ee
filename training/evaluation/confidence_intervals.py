"""95 % confidence intervals of metrics measured on N images. Numpy only; every bootstrap is seeded.

Proportions get the Wilson interval, which stays valid at 0 % and 100 %, where a bootstrap interval would have width 0.
Everything else is bootstrapped over the images. Images of one cluster, such as a burst of photos, are not independent: Wilson
intervals are those of the effective sample size, and a bootstrap draws whole clusters (Field & Welsh 2007).
"""

import math

import numpy as np
from numpy.typing import NDArray

from graft.training.evaluation.clusters import (
    Clusters,
    Z,
    are_single,
    effective_clusters,
    inflation_of_sums,
    sum_by,
    t_quantile,
    variance_inflation,
)
from graft.training.results import Estimate

N_RESAMPLES = 2_000  # bootstrap samples: the limits then vary by about 1/20 of the interval's width between seeds
CHUNK = 500_000  # image counts held in memory at once, in three arrays of eight bytes each

Floats = NDArray[np.float64]


def wilson(rate: float, n: float) -> tuple[float, float]:
    """The 95 % Wilson interval of a proportion of n (Wilson 1927); n may be fractional, as an effective sample size is."""
    center = (rate + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half_width = Z / (1 + Z**2 / n) * math.sqrt(rate * (1 - rate) / n + Z**2 / (4 * n**2))
    # Rounding must not put the proportion itself outside of its interval.
    return max(0.0, min(rate, center - half_width)), min(1.0, max(rate, center + half_width))


def proportion(count: float, n: float, variance_inflation: float = 1.0) -> Estimate | None:
    """`count` / n with its Wilson interval; None if n is 0.

    Args:
        variance_inflation: variance relative to n independent cases.
    """
    if n <= 0:
        return None
    low, high = wilson(count / n, n / max(1.0, variance_inflation))
    return Estimate(value=count / n, low=low, high=high)


def ratio(
    numerators: NDArray[np.generic], denominators: NDArray[np.generic], clusters: Clusters | None = None
) -> Estimate | None:
    """The proportion of successes among the cases of N images, with its Wilson interval; None without cases.

    Args:
        numerators, denominators: (N,), successes and cases of each image; bool for at most one case.
        clusters: int64 (N,); None if every image is its own.
    """
    successes, cases = numerators.astype(np.float64), denominators.astype(np.float64)
    total = float(cases.sum())
    if total <= 0:
        return None
    value = float(successes.sum()) / total
    low, high = wilson(value, total / variance_inflation(successes - value * cases, cases, clusters))
    return Estimate(value=value, low=low, high=high)


def share(mask: NDArray[np.bool_], clusters: Clusters | None = None) -> Estimate:
    """The share of N > 0 images for which the mask (N,) is set, with its Wilson interval; `clusters` as for `ratio`.

    Raises:
        ValueError: if there are no images.
    """
    estimate = ratio(mask, np.ones(len(mask)), clusters)
    if estimate is None:
        raise ValueError("There are no images.")
    return estimate


def f1_interval(intersection: float, union: float, variance_inflation: float = 1.0) -> Estimate | None:
    """F1 = 2J / (1 + J) with its interval, where J is the Jaccard index of true and predicted labels.

    J is a proportion, and F1 increases with it, so the Wilson limits of J map to limits of F1.

    Args:
        intersection: number of true positives.
        union: number of cases that have the label or are predicted to have it.
        variance_inflation: variance of J relative to independent cases.
    """
    if union <= 0:
        return None
    low, high = wilson(intersection / union, union / max(1.0, variance_inflation))
    value, low, high = (2 * jaccard / (1 + jaccard) for jaccard in (intersection / union, low, high))
    return Estimate(value=value, low=low, high=high)


def macro_mean_interval(values: Floats, sizes: Floats, variance_inflation: float = 1.0) -> Estimate:
    """The macro mean of L > 0 proportions, each of its own number of images, with its interval.

    A Wilson interval for the effective sample size (Kish 1965): the number of images at which one proportion varies as much
    as the mean does. Each proportion's variance is computed with one success and one failure added, so that two correct
    predictions out of two still have a variance, where a bootstrap would have none.

    Args:
        values, sizes: (L,), sizes > 0.
        variance_inflation: variance of the mean relative to independent proportions.
    """
    smoothed = (values * sizes + 1) / (sizes + 2)
    variance = float((smoothed * (1 - smoothed) / sizes).sum()) / len(values) ** 2
    center = float(smoothed.mean())
    low, high = wilson(float(values.mean()), center * (1 - center) / variance / max(1.0, variance_inflation))
    return Estimate(value=float(values.mean()), low=low, high=high)


def clustered_proportion(totals: Floats, counts: Floats) -> Estimate:
    """The proportion of successes in clusters, such as the predictions of several runs for one image, with its interval.

    A Wilson interval for the effective sample size (Kish 1965): between that of the clusters, if all outcomes of a cluster are
    equal, and the number of outcomes, if they are independent.

    Args:
        totals, counts: (M,): successes and outcomes of each cluster, counts > 0.
    """
    n_outcomes = float(counts.sum())
    value = float(totals.sum()) / n_outcomes
    # As `variance_inflation` of the single outcomes, of which only the sums are needed.
    low, high = wilson(value, n_outcomes / inflation_of_sums(totals - value * counts, counts, n_outcomes * value * (1 - value)))
    return Estimate(value=value, low=low, high=high)


def design_effect(influences: Floats) -> float:
    """The variance of a sum over labels relative to labels that are independent within an image (Kish 1965).

    Args:
        influences: (N, C), the influence of each image on each label's value.
    """
    independent = float((influences**2).sum())
    return float((influences.sum(axis=1) ** 2).sum()) / independent if independent > 0 else 1.0


def bootstrap_means(columns: Floats, seed: int = 0, n_resamples: int = N_RESAMPLES, clusters: Clusters | None = None) -> Floats:
    """Bootstrap means (n_resamples, K) of `columns` (N, K), over images or whole clusters drawn with replacement.

    A bootstrap sample takes an image's whole row, so the columns stay paired (Efron & Tibshirani 1993). With clusters, the
    deviations from the mean are widened from the normal distribution to Student's t, because there may be few of them.
    """
    if clusters is None or are_single(clusters):
        return _draw_rows(columns, seed, n_resamples) / len(columns)
    sizes, mean = sum_by(clusters, np.ones(len(columns))), columns.mean(axis=0)
    sums = np.stack([sum_by(clusters, column) for column in columns.T], axis=1)
    if len(sizes) == 1:  # as one image, whose deviation is that of the images
        deviations = _draw_rows(columns, seed, n_resamples) / len(columns) - mean
        return np.asarray(mean + deviations * math.sqrt(len(columns)))
    drawn = _draw_rows(np.column_stack([sums, sizes]), seed, n_resamples)
    widening = t_quantile(effective_clusters(sizes) - 1) / Z * math.sqrt(len(sizes) / (len(sizes) - 1))
    return np.asarray(mean + (drawn[:, :-1] / drawn[:, -1:] - mean) * widening)


def _draw_rows(rows: Floats, seed: int, n_resamples: int) -> Floats:
    """Sums (n_resamples, K) of as many rows as there are, (N, K), drawn with replacement."""
    n, random = len(rows), np.random.default_rng(seed)
    sums = np.empty((n_resamples, rows.shape[1]))
    step = max(1, CHUNK // n)
    for start in range(0, n_resamples, step):
        size = min(step, n_resamples - start)
        indices = random.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(indices.ravel(), minlength=size * n).reshape(size, n)
        sums[start : start + size] = counts.astype(np.float64) @ rows
    return sums


def percentile_interval(value: float, samples: Floats) -> Estimate:
    """A value with the 95 % percentile interval of its bootstrap samples, widened to contain the value if rounding needs it."""
    low, high = np.quantile(samples, [0.025, 0.975])
    return Estimate(value=value, low=min(value, float(low)), high=max(value, float(high)))


def mean_interval(values: Floats, seed: int = 0, clusters: Clusters | None = None) -> Estimate:
    """The mean of per-image values (N,), N > 0, with its bootstrap interval."""
    samples = bootstrap_means(values[:, None].astype(np.float64), seed, clusters=clusters)[:, 0]
    return percentile_interval(float(values.mean()), samples)

"""Average precision of each label and its mean, for multi-label data. Numpy only.

Its interval follows from its derivative with respect to each image's weight, so that clusters of images can be counted.
"""

import numpy as np
from numpy.typing import NDArray

from graft.training.evaluation.clusters import Clusters, variance_inflation
from graft.training.evaluation.confidence_intervals import design_effect, macro_mean_interval, proportion
from graft.training.results import Estimate

Floats = NDArray[np.float64]


def average_precision(scores: NDArray[np.floating], targets: NDArray[np.bool_]) -> tuple[float, Floats]:
    """One label's average precision: the mean precision at the rank of each positive image.

    Images with equal scores are one step, as in scikit-learn, because their order is arbitrary.

    Args:
        scores: (N,), higher is more likely.
        targets: (N,), whether each image has the label.

    Returns:
        The value in [0, 1], NaN if no image has the label; and its derivative (N,) with respect to each image's weight (the
        infinitesimal jackknife, Jaeckel 1972), whose squares sum to the value's variance.
    """
    n_positive = int(targets.sum())
    if n_positive == 0:
        return float("nan"), np.zeros(len(targets))
    order = np.argsort(-scores, kind="stable")
    ranked, positive = scores[order], targets[order].astype(np.float64)
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    step = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=-1))
    true_positives, retrieved = positive.cumsum()[ends][step], (ends + 1.0)[step]
    value = float((positive * true_positives / retrieved).sum() / n_positive)
    # An image adds to `true_positives` and `retrieved` of every image that is ranked no higher than itself.
    starts = np.append(0, ends[:-1] + 1)
    gain = _suffix_sums(positive / retrieved)[starts][step]
    loss = _suffix_sums(positive * true_positives / retrieved**2)[starts][step]
    influence = np.empty(len(targets))
    influence[order] = positive * (true_positives / retrieved - value + gain) - loss
    return value, influence / n_positive


def _suffix_sums(values: Floats) -> Floats:
    return values[::-1].cumsum()[::-1]


def average_precisions(scores: NDArray[np.floating], targets: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Average precision of every label, (C,), and the influences of the images, (N, C), from scores and targets (N, C)."""
    pairs = [average_precision(scores[:, label], targets[:, label]) for label in range(targets.shape[1])]
    return np.array([value for value, _ in pairs]), np.stack([influence for _, influence in pairs], axis=1)


def macro_average_precision(
    values: Floats, influences: Floats, targets: NDArray[np.bool_], clusters: Clusters | None = None
) -> tuple[Estimate, tuple[Estimate | None, ...]]:
    """Mean average precision and the average precision of each label, None for a label without images.

    A label's interval is that of a proportion of its images (Boyd, Eng & Page 2013, "Area under the Precision-Recall
    Curve: Point Estimates and Confidence Intervals": valid for few images).

    Args:
        values, influences: (C,) and (N, C), from `average_precisions`.
        targets: bool (N, C).
        clusters: int64 (N,); None if every image is its own.

    Raises:
        ValueError: if no image has any label.
    """
    counts = targets.sum(axis=0).tolist()
    by_label = tuple(
        proportion(value * n, n, _ranking_inflation(influences[:, c], targets[:, c].astype(np.float64), clusters))
        if n
        else None
        for c, (value, n) in enumerate(zip(values.tolist(), counts, strict=True))
    )
    present = np.array(counts) > 0
    if not present.any():
        raise ValueError("None of the images has any label, so there is nothing to rank.")
    sizes = np.array(counts, np.float64)[present]
    inflation = _ranking_inflation(influences[:, present].sum(axis=1), targets[:, present] @ (1 / sizes), clusters)
    return macro_mean_interval(values[present], sizes / inflation, design_effect(influences)), by_label


def _ranking_inflation(influences: Floats, weights: Floats, clusters: Clusters | None) -> float:
    """The variance inflation of an average precision, to which clusters of images without the label add, too."""
    every = np.ones(len(influences))
    return max(variance_inflation(influences, weights, clusters), variance_inflation(influences, every, clusters))

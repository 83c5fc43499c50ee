"""Conformal prediction sets: the thresholds at which a set contains the true label as often as wanted. Numpy only."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graft.training.evaluation.clusters import Clusters, n_clusters

Floats = NDArray[np.float64]


class SetThresholds(NamedTuple):
    """The prediction set of an image has each label with at least its threshold's probability.

    Attributes:
        thresholds: of C labels; 0 if there are too few images to guarantee the coverage.
        by_label: whether images of the label are covered as often as wanted. If not, they are on average with those of
            other rare labels, or of all labels if the rare ones together have too few images.
    """

    thresholds: tuple[float, ...]
    by_label: tuple[bool, ...]


def set_thresholds(
    probabilities: Floats, labels: NDArray[np.int64], coverage: float, clusters: Clusters | None = None
) -> SetThresholds:
    """The lowest probability of each label in the prediction set, so that the set has the true label as often as wanted.

    Split conformal prediction; the score is one minus the true label's probability (Sadinle, Lei & Wasserman 2019). A label
    with enough images has a threshold of its own (Mondrian: Vovk et al. 2005), because with one for all labels the hard ones
    are covered far less often.

    Args:
        probabilities: float64 (N, C), of images that the network was not trained on.
        labels: int64 (N,), the true ones.
        coverage: in (0, 1).
        clusters: int64 (N,), which images belong together; None if every image is its own.
    """
    n_labels = probabilities.shape[1]
    scores = 1 - probabilities[np.arange(len(labels)), labels]
    enough = _count(labels, n_labels, clusters) >= min_images(coverage)
    is_rare = ~enough[labels]
    pooled = is_rare if _n_effective(clusters, is_rare) >= min_images(coverage) else np.ones(len(labels), bool)
    shared = _threshold(scores, pooled, coverage, clusters)
    own = (_threshold(scores, labels == label, coverage, clusters) if enough[label] else shared for label in range(n_labels))
    return SetThresholds(tuple(own), tuple(enough.tolist()))


def min_images(coverage: float) -> int:
    """How many images a label needs for a threshold of its own: with half as many, its sets would be as large as can be."""
    return math.ceil(2 * coverage / (1 - coverage) - 1e-9)


def conformal_quantile(scores: Floats, coverage: float, n_effective: int | None = None) -> float | None:
    """Conformal quantile of exchangeable scores: an upper bound for the next score with probability `coverage`.

    The ceil((n + 1) * coverage)-th smallest of n (Vovk et al. 2005; Papadopoulos et al. 2002). None if n is too small.

    Args:
        n_effective: how many of the scores are independent; None for all of them.
    """
    n = len(scores) if n_effective is None else n_effective
    rank = math.ceil((n + 1) * coverage - 1e-9)
    return float(np.sort(scores)[math.ceil(rank / n * len(scores) - 1e-9) - 1]) if 0 < rank <= n else None


def _threshold(scores: Floats, rows: NDArray[np.bool_], coverage: float, clusters: Clusters | None) -> float:
    quantile = conformal_quantile(scores[rows], coverage, _n_effective(clusters, rows))
    return 0.0 if quantile is None else max(0.0, 1 - quantile)


def _n_effective(clusters: Clusters | None, rows: NDArray[np.bool_]) -> int:
    """The number of clusters that the rows are in."""
    return int(rows.sum()) if clusters is None else len(np.unique(clusters[rows]))


def _count(labels: NDArray[np.int64], n_labels: int, clusters: Clusters | None) -> NDArray[np.int64]:
    """The number of clusters with images of each label, int64 (C,)."""
    if clusters is None:
        return np.bincount(labels, minlength=n_labels)
    pairs = np.unique(labels * np.int64(max(1, n_clusters(clusters))) + clusters)
    return np.bincount(pairs // max(1, n_clusters(clusters)), minlength=n_labels)

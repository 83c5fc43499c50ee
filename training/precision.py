"""Ranked probabilities -> average precision, label by label, and how much each image matters for it. Numpy only."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def average_precision(scores: NDArray[np.floating], targets: NDArray[np.bool_]) -> tuple[float, Floats]:
    """One label's average precision: the mean, over the images that have it, of the precision down to them.

    Images of equal score count as one step, as in scikit-learn: their order means nothing.

    Args:
        scores: (N,), higher is more likely.
        targets: (N,), which images have the label.

    Returns:
        The value in [0, 1], NaN if no image has the label; and its derivative (N,) by each image's weight (the
        infinitesimal jackknife, Jaeckel 1972), whose squares sum to the value's variance.
    """
    n_positive = int(targets.sum())
    if n_positive == 0:
        return float("nan"), np.zeros(len(targets))
    order = np.argsort(-scores, kind="stable")
    ranked, has = scores[order], targets[order].astype(np.float64)
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    step = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=-1))
    found, looked_at = has.cumsum()[ends][step], (ends + 1.0)[step]
    value = float((has * found / looked_at).sum() / n_positive)
    # An image raises `found` and `looked_at` of every image that is ranked no higher than itself.
    starts = np.append(0, ends[:-1] + 1)
    more_found = _from_here_on(has / looked_at)[starts][step]
    more_looked_at = _from_here_on(has * found / looked_at**2)[starts][step]
    influence = np.empty(len(targets))
    influence[order] = has * (found / looked_at - value + more_found) - more_looked_at
    return value, influence / n_positive


def _from_here_on(values: Floats) -> Floats:
    return values[::-1].cumsum()[::-1]


def average_precisions(scores: NDArray[np.floating], targets: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Every label's average precision, (C,), and the images' influences, (N, C), of scores and targets (N, C)."""
    pairs = [average_precision(scores[:, label], targets[:, label]) for label in range(targets.shape[1])]
    return np.array([value for value, _ in pairs]), np.stack([influence for _, influence in pairs], axis=1)

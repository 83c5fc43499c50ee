"""Macro F1 for data with one label per image: the mean F1 of the labels that have images. Numpy only.

F1 of a label is 2 TP / (T + P): T images have the label, P are predicted to have it, TP are both.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.integer]  # (N,), each in [0, C)


class _Counts(NamedTuple):
    """Twice the true positives, and the images that have a label plus those predicted to have it, float64 (C,) each."""

    hits: Floats
    totals: Floats


def macro_f1(predicted: Labels, targets: Labels) -> float:
    """The mean F1 of the labels that have images, in [0, 1]."""
    n_labels = int(max(predicted.max(), targets.max())) + 1
    counts, present = _count(predicted, targets, n_labels), np.bincount(targets, minlength=n_labels) > 0
    return float((counts.hits[present] / counts.totals[present]).mean())


def pseudo_values(predicted: Labels, targets: Labels) -> Floats:
    """One value per image, (N,), whose mean is macro F1 and whose variance is that of macro F1 (jackknife)."""
    n_labels = int(max(predicted.max(), targets.max())) + 1
    counts, present = _count(predicted, targets, n_labels), np.bincount(targets, minlength=n_labels) > 0
    gradient = _gradient(counts, present)
    influences = _contributions(predicted, targets, *gradient) - gradient[1][targets]
    return macro_f1(predicted, targets) + len(targets) * influences


def paired_gains(predicted: Labels, baseline: Labels, targets: Labels) -> Floats:
    """One value per image, (N,), whose mean is the gain in macro F1 over the baseline, up to terms of third order.

    Macro F1 is linearized halfway between the two models. Linearized at each of them, two images of a rare label that one model
    predicts right and the other wrong would be certain proof: at an F1 of 0 or 1, no image has any influence.
    """
    n_labels = int(max(predicted.max(), baseline.max(), targets.max())) + 1
    one, other = (_count(predictions, targets, n_labels) for predictions in (predicted, baseline))
    halfway = _Counts((one.hits + other.hits) / 2, (one.totals + other.totals) / 2)
    gradient = _gradient(halfway, np.bincount(targets, minlength=n_labels) > 0)
    of_candidate, of_baseline = (_contributions(predictions, targets, *gradient) for predictions in (predicted, baseline))
    gains: Floats = len(targets) * (of_candidate - of_baseline)
    return gains


def _count(predicted: Labels, targets: Labels, n_labels: int) -> _Counts:
    hits, predictions, support = (
        np.bincount(labels, minlength=n_labels).astype(np.float64)
        for labels in (targets[predicted == targets], predicted, targets)
    )
    return _Counts(2 * hits, predictions + support)


def _gradient(counts: _Counts, present: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """What one more hit gains, and what one more image or prediction of a label costs, in macro F1, (C,) each."""
    totals = np.maximum(counts.totals, 1)
    gain = np.where(present, 2 / totals, 0) / present.sum()
    return gain, np.where(present, counts.hits / totals**2, 0) / present.sum()


def _contributions(predicted: Labels, targets: Labels, gain: Floats, cost: Floats) -> Floats:
    """What the prediction of each image contributes, (N,): a hit or not, and one more prediction of its label."""
    contributions: Floats = np.where(predicted == targets, gain[targets], 0) - cost[predicted]
    return contributions

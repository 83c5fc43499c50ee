"""Turns logits into probabilities and ranked labels. Plain Python and numpy: no HTTP, no BentoML, no torch."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class LabelProbability(NamedTuple):
    label: str
    probability: float


def to_probabilities(logits: NDArray[np.floating], temperature: float, multilabel: bool = False) -> NDArray[np.float64]:
    """Calibrated probabilities, float64 (N, C), of logits (N, C), by temperature scaling.

    Softmax for multiclass (Guo et al. 2017, "On Calibration of Modern Neural Networks"), a sigmoid per label for multilabel.
    """
    scaled = logits.astype(np.float64) / temperature
    return _sigmoid(scaled) if multilabel else _softmax(scaled)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    # Subtracting the row maximum does not change the result, but keeps exp() from overflowing.
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    rows: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return rows


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    # Equal to 1 / (1 + exp(-x)), which overflows for large negative x.
    rows: NDArray[np.float64] = 0.5 * (1 + np.tanh(0.5 * logits))
    return rows


def log_odds(scaled: NDArray[np.float64], labels: NDArray[np.intp], multilabel: bool = False) -> NDArray[np.float64]:
    """The log-odds, log(p / (1 - p)), of one label's probability p for each row, (K,); NaN for NaN.

    Computed from the logits and not from p, which rounds to 1 while the odds still grow.

    Args:
        scaled: logits (K, C), divided by the temperature.
        labels: (K,), each in [0, C).
    """
    rows = np.arange(len(scaled))
    label_logits = scaled[rows, labels]
    if multilabel:
        return label_logits
    other_logits = scaled.copy()
    other_logits[rows, labels] = -np.inf
    with np.errstate(invalid="ignore"):
        odds: NDArray[np.float64] = label_logits - np.logaddexp.reduce(other_logits, axis=1)
    return odds


def rank(row: NDArray[np.float64], labels: tuple[str, ...], top_k: int) -> tuple[LabelProbability, ...]:
    """The `top_k` most probable labels of one row of probabilities (C,), most probable first."""
    # A stable sort keeps label order for equal probabilities.
    order = np.argsort(-row, kind="stable")[:top_k]
    return tuple(LabelProbability(labels[index], float(row[index])) for index in order)


def prediction_set(probabilities: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Membership in the prediction set, (N, C): labels with at least their threshold probability, and the most probable label.

    With thresholds (C,) from `graft.training.evaluation.prediction_sets`, the set contains the true label with the target
    coverage, and no other rule with that coverage has smaller sets (Sadinle, Lei & Wasserman 2019, "Least Ambiguous Set-Valued
    Classifiers"). Unlike there, a set is never empty: adding the most probable label can only increase the coverage, and that
    the label is unsure is told by `abstain`.
    """
    members = probabilities >= thresholds
    members[np.arange(len(probabilities)), probabilities.argmax(axis=1)] = True
    return members


def above_threshold(probabilities: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The predicted labels of a multilabel model, (N, C): those with at least their threshold probability (C,)."""
    members: NDArray[np.bool_] = probabilities >= thresholds
    return members


def label_names(members: NDArray[np.bool_], row: NDArray[np.float64], labels: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the labels selected by `members` (C,), most probable first."""
    return tuple(labels[index] for index in np.argsort(-row, kind="stable") if members[index])

"""Logits in, ranked labels out. Plain Python and numpy: no HTTP, no BentoML, no torch."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Ranked(NamedTuple):
    label: str
    probability: float


def probabilities(logits: NDArray[np.floating], temperature: float, multilabel: bool = False) -> NDArray[np.float64]:
    """The calibrated probabilities, float64 (N, C), of logits (N, C), which are divided by the temperature.

    A softmax where one label is right (Guo et al. 2017, "On Calibration of Modern Neural Networks"), a sigmoid for each
    label where several may be.
    """
    scaled = logits.astype(np.float64) / temperature
    return _sigmoid(scaled) if multilabel else _softmax(scaled)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    # Subtracting the row's maximum changes nothing but keeps exp() from overflowing.
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    rows: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return rows


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    # The usual 1 / (1 + exp(-x)) overflows far below 0; this is the same number.
    rows: NDArray[np.float64] = 0.5 * (1 + np.tanh(0.5 * logits))
    return rows


def log_odds(scaled: NDArray[np.float64], labels: NDArray[np.intp], multilabel: bool = False) -> NDArray[np.float64]:
    """The logarithm of p / (1 - p) of one label's probability p for each row, (K,); NaN of NaN.

    Not by way of p, which is 1 to all digits long before the odds stop growing.

    Args:
        scaled: logits (K, C) that the temperature has divided.
        labels: (K,), each in [0, C).
    """
    rows = np.arange(len(scaled))
    own = scaled[rows, labels]
    if multilabel:
        return own
    rivals = scaled.copy()
    rivals[rows, labels] = -np.inf
    with np.errstate(invalid="ignore"):
        odds: NDArray[np.float64] = own - np.logaddexp.reduce(rivals, axis=1)
    return odds


def rank(row: NDArray[np.float64], labels: tuple[str, ...], top_k: int) -> tuple[Ranked, ...]:
    """The `top_k` most probable labels of one row of probabilities (C,), most probable first."""
    # Stable, so equal probabilities keep the labels' own order.
    order = np.argsort(-row, kind="stable")[:top_k]
    return tuple(Ranked(labels[index], float(row[index])) for index in order)


def conforming(chances: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """Which labels are in the prediction set, (N, C): those at least as probable as the threshold, and the top one.

    With a threshold from `graft.training.evaluation.calibration` the set holds the right label as often as was promised, and no other rule
    that promises as much has smaller sets (Sadinle, Lei & Wasserman 2019, "Least Ambiguous Set-Valued Classifiers").
    Theirs may be empty; ours says its best guess then, which can only make the promise truer.
    """
    members = chances >= threshold
    members[np.arange(len(chances)), chances.argmax(axis=1)] = True
    return members


def given(chances: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of several labels an image is given, (N, C): those at least as probable as their own threshold (C,)."""
    members: NDArray[np.bool_] = chances >= thresholds
    return members


def named(members: NDArray[np.bool_], row: NDArray[np.float64], labels: tuple[str, ...]) -> tuple[str, ...]:
    """The labels that `members` (C,) picks, most probable first."""
    return tuple(labels[index] for index in np.argsort(-row, kind="stable") if members[index])

"""Logits in, ranked labels out. Plain Python and numpy: no HTTP, no BentoML, no torch."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Ranked(NamedTuple):
    label: str
    probability: float


def probabilities(logits: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """The calibrated probabilities, float64 (N, C), of logits (N, C): a softmax after dividing by the temperature.

    Guo et al. 2017, "On Calibration of Modern Neural Networks".
    """
    scaled = logits.astype(np.float64) / temperature
    # Subtracting the row's maximum changes nothing but keeps exp() from overflowing.
    exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    rows: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return rows


def rank(row: NDArray[np.float64], labels: tuple[str, ...], top_k: int) -> tuple[Ranked, ...]:
    """The `top_k` most probable labels of one row of probabilities (C,), most probable first."""
    # Stable, so equal probabilities keep the labels' own order.
    order = np.argsort(-row, kind="stable")[:top_k]
    return tuple(Ranked(labels[index], float(row[index])) for index in order)

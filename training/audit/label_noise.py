"""How many labels are wrong, and how probably each one is: a mixture of correct labels and labels at random. Numpy only.

A label is that of the image with probability 1 - r, and any other one with probability r, the noise rate. Given the predicted
probabilities of the labels, r and the temperature of the probabilities are those of the highest likelihood of the given labels.
The model was trained on the same noisy labels and is too unsure, so its temperature must be fitted together with the noise.

Unlike the confident joint (Northcutt et al. 2021), this does not count errors of the model as errors of the labels: it gives
0 % on five clean sets where that gives 0 to 14 %. Labels that were systematically confused with a similar one look right to a
model that has learned them: they are underestimated, down to 0 %. `benchmarks/label_noise.py` measures both.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TEMPERATURES = np.geomspace(0.2, 2, 25)
FIRST_RATE = 0.05  # where the search for the noise rate begins
MAX_STEPS, TOLERANCE = 200, 1e-6  # of the search, and of the noise rate

Floats = NDArray[np.float64]


class LabelNoise(NamedTuple):
    """The noise of N given labels.

    Attributes:
        rate: the share of wrong labels, in [0, 1].
        error_probability: float64 (N,), of each label, that it is wrong; their mean is the rate.
    """

    rate: float
    error_probability: Floats


def fit_label_noise(probabilities: Floats, given: NDArray[np.int64]) -> LabelNoise:
    """Estimates the noise of labels.

    Args:
        probabilities: out of fold, float64 (N, C), rows summing to 1; N > 0 and C > 1.
        given: the given labels, int (N,).
    """
    log_probabilities = np.log(np.clip(probabilities, 1e-12, 1))
    fits = [
        _fit_rate(_probability_of(log_probabilities / temperature, given), probabilities.shape[1])
        for temperature in TEMPERATURES
    ]
    _, noise = max(fits, key=lambda fit: fit[0])
    return noise


def _probability_of(logits: Floats, given: NDArray[np.int64]) -> Floats:
    """The softmax probability of the given labels, (N,)."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    chosen: Floats = exponentials[np.arange(len(given)), given] / exponentials.sum(axis=1)
    return chosen


def _fit_rate(correct: Floats, n_labels: int) -> tuple[float, LabelNoise]:
    """The log-likelihood of the given labels and their noise, by expectation maximization (Dempster, Laird & Rubin 1977).

    Args:
        correct: the probability of each given label, (N,).
    """
    by_chance, rate = (1 - correct) / (n_labels - 1), FIRST_RATE
    for _ in range(MAX_STEPS):
        wrong = rate * by_chance
        error_probability = wrong / np.maximum(wrong + (1 - rate) * correct, 1e-300)
        previous, rate = rate, float(error_probability.mean())
        if abs(rate - previous) < TOLERANCE:
            break
    likelihood = float(np.log(np.maximum(rate * by_chance + (1 - rate) * correct, 1e-300)).sum())
    return likelihood, LabelNoise(rate, error_probability)

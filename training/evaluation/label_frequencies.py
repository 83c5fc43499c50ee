"""The label frequencies that probabilities assume, and the shift of logits to others. Numpy only.

The logits of a network that learned with label frequencies p, divided by the temperature, are log-probabilities. Adding
log q - log p makes them those under frequencies q, if the images of each label look the same under both (Saerens et al. 2002,
"Adjusting the Outputs of a Classifier to New a Priori Probabilities"; Menon et al. 2021, "Long-Tail Learning via Logit
Adjustment").
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from graft.service.manifest import LabelFrequencies, MetricName
from graft.training.evaluation.calibration import per_sample_nll, temperature
from graft.training.evaluation.macro_f1 import macro_f1
from graft.training.evaluation.predictions import Predictions

EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the training frequencies: from equal frequencies to those of the training images

Floats = NDArray[np.float64]


def training_frequencies(counts: Sequence[int]) -> Floats:
    """The frequency of each label, (C,), from its number of training images; a label without any counts as one image."""
    return _normalize(np.maximum(np.array(counts, np.float64), 1))


def _normalize(weights: Floats) -> Floats:
    frequencies: Floats = weights / weights.sum()
    return frequencies


def equal_frequencies(n_labels: int) -> Floats:
    """Frequencies (C,) of labels that are equally frequent."""
    return np.full(n_labels, 1 / n_labels)


def log_ratio(assumed: Floats | Sequence[float], learned: Floats | Sequence[float]) -> Floats:
    """What is added to log-probabilities under the `learned` frequencies to get those under the `assumed` ones, (C,)."""
    difference: Floats = np.log(assumed) - np.log(learned)
    return difference


def assumed_frequencies(
    metric: MetricName, training: Floats, logits: NDArray[np.floating], divisor: float, targets: NDArray[np.int64]
) -> Floats:
    """The frequencies under which the most probable label is the best prediction for the metric, (C,).

    Args:
        training: the frequencies of the training images, (C,).
        logits: of held-out images under those frequencies, (N, C).
        divisor: the temperature.
        targets: of the same images, (N,).
    """
    equal, *between, _ = _from_equal_to(training)
    if metric == "balanced-accuracy":
        return equal
    if metric != "f1-macro":
        return training
    # Macro F1 is highest somewhere between: under equal frequencies, rare labels are predicted for too many images of others.
    # The first of equal scores wins.
    return max(
        (training, *reversed(between), equal),
        key=lambda assumed: macro_f1((logits + divisor * log_ratio(assumed, training)).argmax(axis=1), targets),
    )


def learned_frequencies(training: Floats, logits: NDArray[np.float32], targets: NDArray[np.int64]) -> tuple[Floats, float]:
    """The frequencies with which a balanced network has learned, (C,), and its temperature: those with the lowest log-loss.

    Not simply equal ones: the better a network fits its training images, the less class weights change it (Byrd & Lipton 2019,
    "What is the Effect of Importance Weighting in Deep Learning?").

    Args:
        training: the frequencies of the training images, (C,).
        logits: of held-out images with those frequencies, (N, C).
        targets: of the same images, (N,).
    """

    def log_loss(fit: tuple[Floats, float]) -> float:
        learned, divisor = fit
        return float(per_sample_nll(logits + divisor * log_ratio(training, learned), targets, divisor).mean())

    fits = [(learned, temperature(logits, targets, log_ratio(training, learned))) for learned in _from_equal_to(training)]
    return min(fits, key=log_loss)


def _from_equal_to(training: Floats) -> list[Floats]:
    """Frequencies (C,) from equal ones to those of the training images."""
    return [*(_normalize(training**exponent) for exponent in EXPONENTS[:-1]), training]


def as_trained(predictions: Predictions, divisor: float, frequencies: LabelFrequencies | None) -> Predictions:
    """The predictions under the label frequencies of the training images, for metrics of calibration.

    Probabilities that assume other frequencies than those of the images cannot be calibrated on them.

    Args:
        divisor: the temperature.
    """
    if frequencies is None or not frequencies.is_shifted:
        return predictions
    return replace(predictions, logits=predictions.logits + shift_to_training(frequencies, divisor).astype(np.float32))


def shift_to_training(frequencies: LabelFrequencies, divisor: float) -> Floats:
    """What moves logits from the assumed label frequencies to those of the training images, (C,)."""
    return divisor * log_ratio(frequencies.training, frequencies.assumed)

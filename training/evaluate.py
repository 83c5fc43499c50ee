"""Logits and labels -> honest numbers: scores with intervals, a temperature, a paired comparison. Numpy only."""

import numpy as np
from numpy.typing import NDArray

from service.artifact import Score
from service.classifier import probabilities

Z = 1.959964  # two-sided 95 %


def score(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Score:
    """Top-1 accuracy of logits (N, C) with its 95 % Wilson interval (Wilson 1927)."""
    right, n = int((logits.argmax(axis=1) == labels).sum()), len(labels)
    if n == 0:
        return Score(accuracy=0, low=0, high=1, n=0)
    share = right / n
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * float(np.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)))
    # Rounding must not put the share itself outside of its interval.
    return Score(accuracy=share, low=max(0.0, min(share, centre - half)), high=min(1.0, max(share, centre + half)), n=n)


def log_loss(logits: NDArray[np.float32], labels: NDArray[np.int64], temperature: float = 1.0) -> float:
    """The mean negative log-probability, in nats, of the right labels (N,)."""
    right = probabilities(logits, temperature)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(right, 1e-300)).mean())


def temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """What to divide the logits by so that probabilities mean what they say, in [1/4, 4].

    Minimises the log-loss on held-out images (Guo et al. 2017) under a weak belief that 1 is about right, worth five
    images: a small validation set that happens to be all right would otherwise ask for certainty.
    """
    candidates = np.exp(np.linspace(np.log(0.25), np.log(4), 201))
    costs = [len(labels) * log_loss(logits, labels, t) + 2.5 * float(np.log(t)) ** 2 for t in candidates]
    return float(candidates[int(np.argmin(costs))])


def paired_difference(
    logits: NDArray[np.float32], rival: NDArray[np.float32], labels: NDArray[np.int64], seed: int = 0
) -> tuple[float, float, float]:
    """By how much accuracy exceeds the rival's on the same images, with a 95 % interval.

    A paired bootstrap of 10,000 draws over the images (Efron & Tibshirani 1993): each draw keeps both answers to an
    image together, so what the two have in common cancels out.

    Returns:
        (difference, low, high), each in [-1, 1].
    """
    gains = (logits.argmax(axis=1) == labels).astype(np.int64) - (rival.argmax(axis=1) == labels).astype(np.int64)
    # A gain is -1, 0 or 1, so resampling images is drawing the three counts.
    shares = np.array([(gains == value).mean() for value in (-1, 0, 1)])
    draws = np.random.default_rng(seed).multinomial(len(gains), shares, size=10_000) @ np.array([-1, 0, 1])
    low, high = np.quantile(draws / len(gains), [0.025, 0.975])
    return float(gains.mean()), float(low), float(high)

"""A number measured on N images -> the same number with its 95 % interval. Numpy only; every draw is seeded.

Shares get Wilson's interval, which stays honest where everything or nothing is right; a bootstrap would then say that
there is nothing to doubt. What is no share is bootstrapped over the images.
"""

import math

import numpy as np
from numpy.typing import NDArray

from graft.training.results import Estimate

Z = 1.959964  # two-sided 95 %
DRAWS = 2_000  # of a bootstrap: its limits then move by about a twentieth of the interval's width between seeds
CHUNK = 500_000  # image counts held in memory at once, in three arrays of eight bytes each

Floats = NDArray[np.float64]


def wilson(share: float, n: float) -> tuple[float, float]:
    """The 95 % interval of a share of n (Wilson 1927); n need not be whole, where images do not count fully."""
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    # Rounding must not put the share itself outside of its interval.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def share(part: float, n: float) -> Estimate | None:
    """`part` of n as a share; None of none."""
    if n <= 0:
        return None
    low, high = wilson(part / n, n)
    return Estimate(value=part / n, low=low, high=high)


def f1(both: float, either: float, effect: float = 1.0) -> Estimate | None:
    """F1 = 2J / (1 + J), where J is the share of those that have a label or are given it for which both is true.

    J is a plain share, and F1 rises with it, so Wilson's limits of the one are limits of the other.

    Args:
        both: how many have the label and are given it.
        either: how many have it or are given it.
        effect: how many times more J varies than if all of them were independent.
    """
    if either <= 0:
        return None
    low, high = wilson(both / either, either / max(1.0, effect))
    value, low, high = (2 * jaccard / (1 + jaccard) for jaccard in (both / either, low, high))
    return Estimate(value=value, low=low, high=high)


def mean_of(values: Floats, sizes: Floats, effect: float = 1.0) -> Estimate:
    """The mean of several shares (L,), each of its own number of images (L,), L > 0, none 0.

    Wilson's interval, for as many images as would make one share vary as much as the mean does (Kish 1965's effective
    size). How much each share varies is judged with one more image right and one more wrong, so that two right answers of
    two bring doubt, where a bootstrap would see none.

    Args:
        values, sizes: (L,), sizes > 0.
        effect: how many times more the mean varies than if the shares were independent.
    """
    careful = (values * sizes + 1) / (sizes + 2)
    variance = float((careful * (1 - careful) / sizes).sum()) / len(values) ** 2
    centre = float(careful.mean())
    low, high = wilson(float(values.mean()), centre * (1 - centre) / variance / max(1.0, effect))
    return Estimate(value=float(values.mean()), low=low, high=high)


def design_effect(influences: Floats) -> float:
    """How many times more a sum over labels varies than if labels were independent within an image (Kish 1965).

    Args:
        influences: (N, C), by how much each image moves each label's number.
    """
    apart = float((influences**2).sum())
    return float((influences.sum(axis=1) ** 2).sum()) / apart if apart > 0 else 1.0


def resampled(columns: Floats, seed: int = 0, draws: int = DRAWS) -> Floats:
    """The columns' means, (draws, K), over images drawn with replacement from the N of `columns` (N, K).

    Each draw takes an image's whole row, so what belongs together stays together (Efron & Tibshirani 1993).
    """
    n, random = len(columns), np.random.default_rng(seed)
    means = np.empty((draws, columns.shape[1]))
    step = max(1, CHUNK // n)
    for start in range(0, draws, step):
        size = min(step, draws - start)
        picked = random.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(picked.ravel(), minlength=size * n).reshape(size, n)
        means[start : start + size] = counts.astype(np.float64) @ columns / n
    return means


def between(value: float, draws: Floats) -> Estimate:
    """A number with the middle 95 % of its draws, which rounding must not put beside it."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(value=value, low=min(value, float(low)), high=max(value, float(high)))


def mean(values: Floats, seed: int = 0) -> Estimate:
    """The mean of one number an image, (N,), N > 0."""
    return between(float(values.mean()), resampled(values[:, None].astype(np.float64), seed)[:, 0])

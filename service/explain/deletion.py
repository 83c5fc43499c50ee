"""The deletion metric: how a label's probability falls as the most salient cells of a heat map are masked. Numpy only.

Petsiuk et al. 2018, "RISE: Randomized Input Sampling for Explanation of Black-box Models".
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..inference.engine import Floats, Pixels
from .grids import CELLS, covered, regridded

STEPS = 8  # from the original image to the fully masked one
MOVES = 19  # random transforms of the map, the baseline
ENOUGH = 0.9  # fraction of the baseline to beat: a meaningless map does so with probability 0.1

Numbers = NDArray[np.float64]
Order = NDArray[np.intp]


@dataclass(frozen=True)
class Deletion:
    """The deletion score of a map, compared with random transforms of the same map.

    Attributes:
        score: area under the deletion curve, in [0, 1]: the label's mean probability as cells are masked, most salient
            first. Lower is better.
        chance: the mean score of the random transforms.
        beaten: the fraction of the random transforms that score higher, in [0, 1].
        probabilities: of the label, from no cell masked to all cells masked, in equal steps.
    """

    score: float
    chance: float
    beaten: float
    probabilities: tuple[float, ...]

    @property
    def explains(self) -> bool:
        """Whether the map beats enough random transforms to be meaningful."""
        return self.beaten >= ENOUGH


def deletion(
    probability: Callable[[Pixels], float],
    pixels: Pixels,
    map: Floats,
    cover: NDArray[np.uint8],
    steps: int = STEPS,
    moves: int = MOVES,
    seed: int = 0,
) -> Deletion:
    """The deletion score of a map, compared with the same map randomly shifted, rotated, and flipped.

    The usual baseline of scattered cells is too easy to lose against: they destroy any image faster than a patch of the same
    size, so that even a map of the object itself scores no better than chance.

    Args:
        probability: the label's probability for uint8 (S, S, 3); called 2 + (n_steps - 1) * (1 + n_random_maps) times.
        map: float (h, w) of any resolution, over the pixels.
        cover: the color (3,) of masked cells; the least informative one.
    """
    random = np.random.default_rng(seed)
    cells = regridded(map, CELLS, CELLS)
    first, last = probability(pixels), probability(covered(pixels, np.arange(CELLS**2), cover))

    def deletion_curve(order: Order) -> tuple[float, ...]:
        subsets = [order[: round(CELLS**2 * step / steps)] for step in range(1, steps)]
        return (first, *(probability(covered(pixels, subset, cover)) for subset in subsets), last)

    curve = deletion_curve(_salient_first(cells, random))
    baseline = np.array([area(deletion_curve(_salient_first(_moved(cells, random), random))) for _ in range(moves)])
    score = area(curve)
    return Deletion(score, float(baseline.mean()), float((baseline > score).mean()), curve)


def _salient_first(cells: Numbers, random: np.random.Generator) -> Order:
    # Ties are in random order, so that a constant map is no better than chance.
    return np.lexsort((random.random(cells.size), -cells.ravel()))


def _moved(cells: Numbers, random: np.random.Generator) -> Numbers:
    """The map after a random cyclic shift, rotation by multiples of 90 degrees, and transposition."""
    shifted = np.roll(cells, random.integers(0, CELLS, 2).tolist(), (0, 1))
    rotated: Numbers = np.rot90(shifted, int(random.integers(4)))
    return rotated.T if random.integers(2) else rotated


def area(curve: tuple[float, ...]) -> float:
    """The area under a curve of equal steps over [0, 1], by the trapezoidal rule."""
    return float(np.trapezoid(curve, dx=1 / (len(curve) - 1)))

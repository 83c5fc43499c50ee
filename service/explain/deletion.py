"""Whether a map explains anything: what becomes of the label once what the map calls important is covered. Numpy only.

Petsiuk et al. 2018, "RISE: Randomized Input Sampling for Explanation of Black-box Models": the deletion metric.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..inference.engine import Floats, Pixels
from .grids import CELLS, covered, regridded

STEPS = 8  # in which an image is covered
MOVES = 19  # of the map to other places, which it is compared with
ENOUGH = 0.9  # of them beaten: a map that knows nothing is as lucky once in ten times

Numbers = NDArray[np.float64]
Order = NDArray[np.intp]


@dataclass(frozen=True)
class Deletion:
    """How a label fares while its image is covered.

    Attributes:
        score: the mean of the label's probability while cells are covered, those that speak most for it first; in [0, 1],
            and the lower the more the map explains.
        chance: the same for the map in other places, the mean over these.
        beaten: the share of other places that score higher, in [0, 1].
        probabilities: of the label, from nothing covered to everything, in equal steps.
    """

    score: float
    chance: float
    beaten: float
    probabilities: tuple[float, ...]

    @property
    def explains(self) -> bool:
        """Whether it matters that the map glows where it does."""
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
    """The deletion score of a map, against the same map moved, turned and mirrored at random.

    Not against scattered cells, as often seen: these spoil any picture faster than a patch of the same size does, so that
    even a map of the object itself looks no better than chance.

    Args:
        probability: the label's, for uint8 (S, S, 3); asked 2 + (steps - 1) * (1 + moves) times.
        map: (h, w) of any grid, over the pixels.
        cover: the colour (3,) that says least.
    """
    random = np.random.default_rng(seed)
    cells = regridded(map, CELLS, CELLS)
    ends = probability(pixels), probability(covered(pixels, np.arange(CELLS**2), cover))

    def curve(order: Order) -> tuple[float, ...]:
        shares = [order[: round(CELLS**2 * step / steps)] for step in range(1, steps)]
        return (ends[0], *(probability(covered(pixels, share, cover)) for share in shares), ends[1])

    found = curve(_salient_first(cells, random))
    others = np.array([area(curve(_salient_first(_moved(cells, random), random))) for _ in range(moves)])
    score = area(found)
    return Deletion(score, float(others.mean()), float((others > score).mean()), found)


def _salient_first(cells: Numbers, random: np.random.Generator) -> Order:
    # Cells that are alike come in a random order, so that an empty map is no better than chance.
    return np.lexsort((random.random(cells.size), -cells.ravel()))


def _moved(cells: Numbers, random: np.random.Generator) -> Numbers:
    """The same pattern elsewhere, what leaves on one side coming back on the other."""
    there = np.roll(cells, random.integers(0, CELLS, 2).tolist(), (0, 1))
    turned: Numbers = np.rot90(there, int(random.integers(4)))
    return turned.T if random.integers(2) else turned


def area(curve: tuple[float, ...]) -> float:
    """The area under a curve over [0, 1] of equal steps, by the trapezoidal rule."""
    return float(np.trapezoid(curve, dx=1 / (len(curve) - 1)))

"""The deletion metric: how a label's probability falls as the most salient cells of a heat map are masked. Numpy only.

Petsiuk et al. 2018, "RISE: Randomized Input Sampling for Explanation of Black-box Models".
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..inference.engine import Floats, Pixels
from .grids import GRID_SIZE, mask_cells, resample

N_STEPS = 8  # from the original image to the fully masked one
N_RANDOM_MAPS = 19  # random transforms of the map, the baseline
MIN_BEATEN = 0.9  # fraction of the baseline to beat: a meaningless map does so with probability 0.1

Numbers = NDArray[np.float64]
CellOrder = NDArray[np.intp]


@dataclass(frozen=True)
class Deletion:
    """The deletion score of a map, compared with random transforms of the same map.

    Attributes:
        score: area under the deletion curve, in [0, 1]: the label's mean probability as cells are masked, most salient
            first. Lower is better.
        baseline: the mean score of the random transforms.
        fraction_beaten: the fraction of the random transforms that score higher, in [0, 1].
        probabilities: of the label, from no cell masked to all cells masked, in equal steps.
    """

    score: float
    baseline: float
    fraction_beaten: float
    probabilities: tuple[float, ...]

    @property
    def explains(self) -> bool:
        """Whether the map beats enough random transforms to be meaningful."""
        return self.fraction_beaten >= MIN_BEATEN


def deletion(
    probability: Callable[[Pixels], float],
    pixels: Pixels,
    saliency: Floats,
    fill_color: NDArray[np.uint8],
    n_steps: int = N_STEPS,
    n_random_maps: int = N_RANDOM_MAPS,
    seed: int = 0,
) -> Deletion:
    """The deletion score of a map, compared with the same map randomly shifted, rotated, and flipped.

    The usual baseline of scattered cells is too easy to lose against: they destroy any image faster than a patch of the same
    size, so that even a map of the object itself scores no better than chance.

    Args:
        probability: the label's probability for uint8 (S, S, 3); called 2 + (n_steps - 1) * (1 + n_random_maps) times.
        saliency: float (h, w) of any resolution, over the pixels.
        fill_color: the color (3,) of masked cells; the least informative one.
    """
    random = np.random.default_rng(seed)
    cells = resample(saliency, GRID_SIZE, GRID_SIZE)
    first, last = probability(pixels), probability(mask_cells(pixels, np.arange(GRID_SIZE**2), fill_color))

    def deletion_curve(order: CellOrder) -> tuple[float, ...]:
        subsets = [order[: round(GRID_SIZE**2 * step / n_steps)] for step in range(1, n_steps)]
        return (first, *(probability(mask_cells(pixels, subset, fill_color)) for subset in subsets), last)

    curve = deletion_curve(_salient_first(cells, random))
    baseline = np.array(
        [
            area_under_curve(deletion_curve(_salient_first(_random_transform(cells, random), random)))
            for _ in range(n_random_maps)
        ]
    )
    score = area_under_curve(curve)
    return Deletion(score, float(baseline.mean()), float((baseline > score).mean()), curve)


def _salient_first(cells: Numbers, random: np.random.Generator) -> CellOrder:
    # Ties are in random order, so that a constant map is no better than chance.
    return np.lexsort((random.random(cells.size), -cells.ravel()))


def _random_transform(cells: Numbers, random: np.random.Generator) -> Numbers:
    """The map after a random cyclic shift, rotation by multiples of 90 degrees, and transposition."""
    shifted = np.roll(cells, random.integers(0, GRID_SIZE, 2).tolist(), (0, 1))
    rotated: Numbers = np.rot90(shifted, int(random.integers(4)))
    return rotated.T if random.integers(2) else rotated


def area_under_curve(curve: tuple[float, ...]) -> float:
    """The area under a curve of equal steps over [0, 1], by the trapezoidal rule."""
    return float(np.trapezoid(curve, dx=1 / (len(curve) - 1)))

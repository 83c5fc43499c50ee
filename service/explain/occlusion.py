"""Occlusion maps: how a score falls when parts of an image are masked, one after another. Numpy only.

Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks".
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..inference.engine import Pixels
from .grids import CELLS, covered

PATCH = 2  # cells per side of the masked patch; 81 patches, one forward pass each

Numbers = NDArray[np.float64]


def occlusion(score: Callable[[Pixels], float], pixels: Pixels, cover: NDArray[np.uint8]) -> Numbers:
    """The drop of a score when a patch of the pixels (S, S, 3) is filled with a color (3,): float64 (8, 8), one per cell.

    A cell's value is the mean over the patches that cover it. Patches extend beyond the edge, so that the same number of
    patches covers every cell: otherwise a cell at the edge would get part of its neighbors' effect.
    """
    indices = np.arange(CELLS**2).reshape(CELLS, CELLS)
    base_score, drops = score(pixels), np.zeros((CELLS, CELLS))
    for row, column in np.ndindex(CELLS + PATCH - 1, CELLS + PATCH - 1):
        rows, columns = (slice(max(0, end - PATCH), min(CELLS, end)) for end in (row + 1, column + 1))
        drops[rows, columns] += base_score - score(covered(pixels, indices[rows, columns].ravel(), cover))
    mean_drops: Numbers = drops / PATCH**2
    return mean_drops

"""Occlusion maps: how a score falls when parts of an image are masked, one after another. Numpy only.

Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks".
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..inference.engine import Pixels
from .grids import GRID_SIZE, mask_cells

PATCH_CELLS = 2  # cells per side of the masked patch; 81 patches, one forward pass each

Numbers = NDArray[np.float64]


def occlusion(score: Callable[[Pixels], float], pixels: Pixels, fill_color: NDArray[np.uint8]) -> Numbers:
    """The drop of a score when a patch of the pixels (S, S, 3) is filled with a color (3,): float64 (8, 8), one per cell.

    A cell's value is the mean over the patches that cover it. Patches extend beyond the edge, so that the same number of
    patches covers every cell: otherwise a cell at the edge would get part of its neighbors' effect.
    """
    indices = np.arange(GRID_SIZE**2).reshape(GRID_SIZE, GRID_SIZE)
    base_score, drops = score(pixels), np.zeros((GRID_SIZE, GRID_SIZE))
    for row, column in np.ndindex(GRID_SIZE + PATCH_CELLS - 1, GRID_SIZE + PATCH_CELLS - 1):
        rows, columns = (slice(max(0, end - PATCH_CELLS), min(GRID_SIZE, end)) for end in (row + 1, column + 1))
        drops[rows, columns] += base_score - score(mask_cells(pixels, indices[rows, columns].ravel(), fill_color))
    mean_drops: Numbers = drops / PATCH_CELLS**2
    return mean_drops

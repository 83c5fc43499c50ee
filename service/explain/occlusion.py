"""What a network loses where an image is covered, part after part. Numpy only.

Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks".
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..inference.engine import Pixels
from .grids import CELLS, covered

PATCH = 2  # cells along each side of what is covered at once: 81 passes

Numbers = NDArray[np.float64]


def occlusion(score: Callable[[Pixels], float], pixels: Pixels, cover: NDArray[np.uint8]) -> Numbers:
    """How much a score falls when a part of the pixels (S, S, 3) is covered with a colour (3,): for each of 8x8 cells.

    A cell's number is the mean over the patches that lie on it. Patches reach over the edge, so that every cell lies
    under equally many: a cell at the edge would otherwise answer for its neighbours.
    """
    numbers = np.arange(CELLS**2).reshape(CELLS, CELLS)
    whole, falls = score(pixels), np.zeros((CELLS, CELLS))
    for row, column in np.ndindex(CELLS + PATCH - 1, CELLS + PATCH - 1):
        down, across = (slice(max(0, end - PATCH), min(CELLS, end)) for end in (row + 1, column + 1))
        falls[down, across] += whole - score(covered(pixels, numbers[down, across].ravel(), cover))
    found: Numbers = falls / PATCH**2
    return found

"""Resamples maps between grids, and masks grid cells of an image. Numpy only."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

CELLS = 8  # per side of the grid in which images are masked


def regridded(map: NDArray[np.floating[Any]], tall: int, wide: int) -> Numbers:
    """A map (h, w) resampled to (height, width) by area averaging."""
    resampled: Numbers = _shares(tall, len(map)) @ map.astype(np.float64) @ _shares(wide, len(map[0])).T
    return resampled


def _shares(n_into: int, n_from: int) -> Numbers:
    """Weights (n_into, n_from) of 1D area averaging: the overlap of the two grids on [0, 1]. Each row sums to 1."""
    target, source = np.arange(n_into + 1) / n_into, np.arange(n_from + 1) / n_from
    overlap = np.minimum.outer(target[1:], source[1:]) - np.maximum.outer(target[:-1], source[:-1])
    weights: Numbers = n_into * np.clip(overlap, 0, None)
    return weights


def covered(pixels: NDArray[np.uint8], cells: NDArray[np.intp], cover: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy of pixels (S, S, 3) with some of the 8x8 cells, numbered row by row, filled with a color (3,)."""
    edges = np.linspace(0, len(pixels), CELLS + 1).round().astype(int)
    masked = pixels.copy()
    for row, column in zip(*np.divmod(cells, CELLS), strict=True):
        masked[edges[row] : edges[row + 1], edges[column] : edges[column + 1]] = cover
    return masked

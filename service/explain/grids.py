"""Resamples maps between grids, and masks grid cells of an image. Numpy only."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

GRID_SIZE = 8  # per side of the grid in which images are masked


def resample(values: NDArray[np.floating[Any]], height: int, width: int) -> Numbers:
    """A map (h, w) resampled to (height, width) by area averaging."""
    resampled: Numbers = (
        _overlap_weights(height, len(values)) @ values.astype(np.float64) @ _overlap_weights(width, len(values[0])).T
    )
    return resampled


def _overlap_weights(n_into: int, n_from: int) -> Numbers:
    """Weights (n_into, n_from) of 1D area averaging: the overlap of the two grids on [0, 1]. Each row sums to 1."""
    target, source = np.arange(n_into + 1) / n_into, np.arange(n_from + 1) / n_from
    overlap = np.minimum.outer(target[1:], source[1:]) - np.maximum.outer(target[:-1], source[:-1])
    weights: Numbers = n_into * np.clip(overlap, 0, None)
    return weights


def mask_cells(pixels: NDArray[np.uint8], cells: NDArray[np.intp], fill_color: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy of pixels (S, S, 3) with some of the 8x8 cells, numbered row by row, filled with a color (3,)."""
    edges = np.linspace(0, len(pixels), GRID_SIZE + 1).round().astype(int)
    masked = pixels.copy()
    for row, column in zip(*np.divmod(cells, GRID_SIZE), strict=True):
        masked[edges[row] : edges[row + 1], edges[column] : edges[column + 1]] = fill_color
    return masked

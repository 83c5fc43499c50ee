"""Grids over an image: maps brought from one to another, and cells covered. Numpy only."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

CELLS = 8  # along each side of an image that is covered part by part


def regridded(map: NDArray[np.floating[Any]], tall: int, wide: int) -> Numbers:
    """A map (h, w) as (tall, wide): each cell is the mean of what lies under it."""
    found: Numbers = _shares(tall, len(map)) @ map.astype(np.float64) @ _shares(wide, len(map[0])).T
    return found


def _shares(n_into: int, n_from: int) -> Numbers:
    """How much of each of `n_into` equal parts of a line is each of `n_from`: (n_into, n_from), each row summing to 1."""
    into, of = np.arange(n_into + 1) / n_into, np.arange(n_from + 1) / n_from
    common = np.minimum.outer(into[1:], of[1:]) - np.maximum.outer(into[:-1], of[:-1])
    shares: Numbers = n_into * np.clip(common, 0, None)
    return shares


def covered(pixels: NDArray[np.uint8], cells: NDArray[np.intp], cover: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels (S, S, 3) with some of the 8x8 cells, counted row by row, in a colour (3,)."""
    edges = np.linspace(0, len(pixels), CELLS + 1).round().astype(int)
    shown = pixels.copy()
    for row, column in zip(*np.divmod(cells, CELLS), strict=True):
        shown[edges[row] : edges[row + 1], edges[column] : edges[column + 1]] = cover
    return shown

"""Features on disk, read as they are asked for: arrays in all but memory. Numpy only."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PIECE = 1024  # rows read at once: a few megabytes, which stay in a processor's cache while they are worked on
_SCALE = np.float32(2.0**112)  # the exponent of a float32 is counted from 127, that of a float16 from 15
_SIGN_AND_REST = np.int32(np.uint32(0x8FFFE000).view(np.int32))

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Rows:
    """Some rows of a file in any arrangement: float32 (..., W), of which nothing is in memory before it is asked for.

    Attributes:
        stored: float16 (R, W), mapped from the file; finite.
        places: int (...), which row stands where, such as (V, N) for V views of N images.
    """

    stored: NDArray[np.float16]
    places: NDArray[np.intp]

    @property
    def shape(self) -> tuple[int, ...]:
        return *self.places.shape, self.stored.shape[1]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, chosen: Any) -> Floats:
        """Whole rows, chosen as numpy chooses by every axis but the last: `rows[:, images]` is float32 (V, n, W)."""
        return widened(self.stored[self.places[chosen]])

    def columns(self, place: slice) -> "Rows":
        """The same rows, but only some of their columns; still nothing is read."""
        return Rows(self.stored[:, place], self.places)

    def pieces(self) -> Iterator[Floats]:
        """The rows of each image, (n, W), a few at a time and in order."""
        return (self[start : start + PIECE] for start in range(0, len(self), PIECE))


Vectors = Floats | Rows


def columns_of(vectors: Vectors, place: slice) -> Vectors:
    """Some columns of features (..., W), copied in neither case."""
    return vectors.columns(place) if isinstance(vectors, Rows) else vectors[..., place]


def widened(halves: NDArray[np.float16]) -> Floats:
    """The very same numbers as float32; infinite ones excepted, which no feature is.

    By moving bits, sixfold as fast as numpy's own conversion, which is what would take the time where every step of a
    search reads all features.
    """
    bits = halves.view(np.int16).astype(np.int32)  # keeps the sign in front
    bits <<= 13
    bits &= _SIGN_AND_REST
    wide: Floats = bits.view(np.float32)
    wide *= _SCALE
    return wide

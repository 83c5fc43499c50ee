"""Lazily loaded feature arrays, memory-mapped from disk. Numpy only."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK_SIZE = 1024  # rows loaded at once: a few megabytes, which fit in the CPU cache
_EXPONENT_SCALE = np.float32(2.0**112)  # exponent bias: 127 in float32, 15 in float16
_SIGN_EXPONENT_MANTISSA = np.int32(np.uint32(0x8FFFE000).view(np.int32))

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class LazyFeatures:
    """Rows of a memory-mapped array, float32 (..., W); indexing loads them.

    Attributes:
        array: float16 (R, W), memory-mapped; finite.
        indices: int (...), row indices, such as (V, N) for V views of N images.
    """

    array: NDArray[np.float16]
    indices: NDArray[np.intp]

    @property
    def shape(self) -> tuple[int, ...]:
        return *self.indices.shape, self.array.shape[1]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Floats:
        """Loads rows; numpy indexing of all axes but the last: `features[:, images]` is float32 (V, n, W)."""
        return to_float32(self.array[self.indices[index]])

    def select_columns(self, columns: slice) -> "LazyFeatures":
        """The same rows with a range of columns; loads nothing."""
        return LazyFeatures(self.array[:, columns], self.indices)

    def chunks(self) -> Iterator[Floats]:
        """Loads the rows in order, in chunks (n, W)."""
        return (self[start : start + CHUNK_SIZE] for start in range(0, len(self), CHUNK_SIZE))


Vectors = Floats | LazyFeatures


def map_rows(function: Callable[[Floats], Floats], vectors: Vectors) -> Floats:
    """Applies a function of rows (n, W) to features (N, W); lazy ones are loaded in chunks."""
    return np.concatenate(list(map(function, vectors.chunks()))) if isinstance(vectors, LazyFeatures) else function(vectors)


def select_columns(vectors: Vectors, columns: slice) -> Vectors:
    """A range of columns of features (..., W), without a copy."""
    return vectors.select_columns(columns) if isinstance(vectors, LazyFeatures) else vectors[..., columns]


def select_rows(vectors: Vectors, rows: NDArray[np.intp]) -> Vectors:
    """Some rows of features (N, W), in this order; lazy ones are not loaded."""
    return LazyFeatures(vectors.array, vectors.indices[rows]) if isinstance(vectors, LazyFeatures) else vectors[rows]


def to_float32(halves: NDArray[np.float16]) -> Floats:
    """Converts float16 to float32 exactly; wrong for infinities and NaN, which features never are.

    Uses bit operations, six times as fast as numpy's conversion. The conversion would dominate the run time, because every
    solver iteration reads all features.
    """
    bits = halves.view(np.int16).astype(np.int32)  # sign-extended
    bits <<= 13
    bits &= _SIGN_EXPONENT_MANTISSA
    floats: Floats = bits.view(np.float32)
    floats *= _EXPONENT_SCALE
    return floats

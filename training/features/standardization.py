"""Standardization of features: one mean per column, one scale per range of columns. Numpy only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.training.features.feature_arrays import CHUNK_SIZE, Floats, Vectors

ALL_COLUMNS = (slice(None),)
Parameters = NDArray[Any]  # (C, D + 1): one row per label, its bias last; converted in their own precision


@dataclass(frozen=True)
class Standardizer:
    """Mean and scale of each column, float32 (D,) each."""

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]

    def apply(self, vectors: Floats) -> Floats:
        """Standardizes features (..., D); allocates exactly one copy."""
        standardized: Floats = vectors - self.mean
        standardized /= self.scale
        return standardized

    def fold(self, parameters: Parameters) -> Parameters:
        """Converts parameters (C, D + 1) for standardized features to parameters for raw features."""
        weight = parameters[:, :-1] / self.scale
        return np.column_stack([weight, parameters[:, -1] - weight @ self.mean])

    def unfold(self, parameters: Parameters) -> Parameters:
        """The inverse of `fold`: converts parameters for raw features to parameters for standardized features."""
        weight = parameters[:, :-1]
        return np.column_stack([weight * self.scale, parameters[:, -1] + weight @ self.mean])

    def unfold_gradient(self, gradient: Parameters) -> Parameters:
        """Converts a gradient (C, D + 1) with respect to raw-feature parameters to one for standardized features."""
        bias = gradient[:, -1]
        return np.column_stack([(gradient[:, :-1] - np.outer(bias, self.mean)) / self.scale, bias])


def fit_standardizer(vectors: Vectors, scale_groups: Sequence[slice] = ALL_COLUMNS) -> Standardizer:
    """Mean and scale of the first view of (V, N, D); the columns of a range share one scale.

    A scale per column would amplify columns that are almost always zero.
    """
    n_images, scale = vectors.shape[1], np.ones(vectors.shape[-1], np.float32)
    chunks = [slice(start, start + CHUNK_SIZE) for start in range(0, n_images, CHUNK_SIZE)]
    mean: Floats = (sum(vectors[0, chunk].sum(axis=0, dtype=np.float64) for chunk in chunks) / n_images).astype(np.float32)
    deviations = (vectors[0, chunk] - mean for chunk in chunks)
    std = np.sqrt(sum((deviation * deviation).sum(axis=0, dtype=np.float64) for deviation in deviations) / n_images)
    for columns in scale_groups:
        scale[columns] = float(std[columns].mean()) or 1.0
    return Standardizer(mean, scale)

"""Trains a linear head on features that do not fit in memory: every solver iteration reads them from disk. No torch.

Standardized features are never computed. Standardization is applied to the weights instead, and its inverse to the gradient.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.service.inference.devices import available_cpus
from graft.service.inference.thread_map import ordered_map
from graft.training.data.cross_validation import Targets
from graft.training.features.feature_arrays import CHUNK_SIZE, LazyFeatures, to_float32
from graft.training.features.linear_solver import (
    Kind,
    LossAndGrad,
    Parameters,
    fit_lbfgs_streamed,
    get_loss,
    loss_and_grad,
    one_hot,
    sample_weights_from_counts,
)


@dataclass(frozen=True)
class Standardizer:
    """Mean and scale of each column, float32 (D,) each."""

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]

    def fold(self, parameters: Parameters) -> Parameters:
        """Converts parameters (C, D + 1) for standardized features to parameters for raw features."""
        weight = parameters[:, :-1] / self.scale
        return np.column_stack([weight, parameters[:, -1] - weight @ self.mean])

    def unfold_gradient(self, gradient: Parameters) -> Parameters:
        """Converts a gradient (C, D + 1) with respect to raw-feature parameters to one for standardized features."""
        bias = gradient[:, -1]
        return np.column_stack([(gradient[:, :-1] - np.outer(bias, self.mean)) / self.scale, bias])


def fit_streamed(
    features: LazyFeatures,
    targets: Targets,
    standardizer: Standardizer,
    kind: Kind,
    balanced: bool,
    penalty: float,
    tolerance: float,
) -> Parameters:
    """Fits parameters (C, D + 1) for standardized features, as `linear_solver.fit_lbfgs` does in memory.

    Args:
        features: features (V, N, D): V views of N images.
        targets: int (N,) or bool (N, C).
        penalty: L2 penalty of the weights, above 0.
        tolerance: the solver stops at this largest absolute gradient.
    """
    multilabel = targets.ndim == 2
    counts = targets.sum(axis=0) if multilabel else np.bincount(targets)
    indices = features.indices.ravel()
    order = np.argsort(indices)  # so that the file is read sequentially
    chunks = [order[start : start + CHUNK_SIZE] for start in range(0, len(order), CHUNK_SIZE)]
    loss = get_loss(kind, multilabel)

    def evaluate_chunk(chunk: NDArray[np.intp], parameters: Parameters) -> LossAndGrad:
        chunk_targets = one_hot(targets[chunk % len(targets)], len(counts))
        weights = sample_weights_from_counts(chunk_targets, counts.astype(np.float32), len(targets), multilabel, balanced)
        return loss_and_grad(loss, to_float32(features.array[indices[chunk]]), chunk_targets, weights, parameters)

    def evaluate(parameters: Parameters) -> LossAndGrad:
        folded, total, gradient = standardizer.fold(parameters), 0.0, np.zeros_like(parameters)
        for chunk_loss, chunk_gradient in ordered_map(lambda chunk: evaluate_chunk(chunk, folded), chunks, available_cpus()):
            total += chunk_loss
            gradient += chunk_gradient
        return total, standardizer.unfold_gradient(gradient)

    return fit_lbfgs_streamed(evaluate, len(order), np.zeros((len(counts), features.shape[-1] + 1)), penalty, tolerance)

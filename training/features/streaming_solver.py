"""Trains a linear head on features that do not fit in memory: every solver iteration reads them from disk. No torch.

Standardized features are never computed. Standardization is applied to the weights instead, and its inverse to the gradient.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.service.inference.devices import cores
from graft.training.data.cross_validation import Targets
from graft.training.features.feature_arrays import PIECE, Rows, widened
from graft.training.features.linear_solver import Kind, Parameters, Summed, descend, loss_of, one_hot, summed, weights_among
from graft.training.runtime.thread_map import each


@dataclass(frozen=True)
class Standard:
    """Mean and scale of each column, float32 (D,) each."""

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]

    def folded(self, rows: Parameters) -> Parameters:
        """Converts parameters (C, D + 1) for standardized features to parameters for raw features."""
        weight = rows[:, :-1] / self.scale
        return np.column_stack([weight, rows[:, -1] - weight @ self.mean])

    def unfolded(self, gradient: Parameters) -> Parameters:
        """Converts a gradient (C, D + 1) with respect to raw-feature parameters to one for standardized features."""
        bias = gradient[:, -1]
        return np.column_stack([(gradient[:, :-1] - np.outer(bias, self.mean)) / self.scale, bias])


def learn(
    seen: Rows, targets: Targets, standard: Standard, kind: Kind, balanced: bool, penalty: float, tolerance: float
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
    indices = seen.places.ravel()
    order = np.argsort(indices)  # so that the file is read sequentially
    chunks = [order[start : start + PIECE] for start in range(0, len(order), PIECE)]
    loss = loss_of(kind, multilabel)

    def evaluate_chunk(chunk: NDArray[np.intp], parameters: Parameters) -> Summed:
        chunk_targets = one_hot(targets[chunk % len(targets)], len(counts))
        weights = weights_among(chunk_targets, counts.astype(np.float32), len(targets), multilabel, balanced)
        return summed(loss, widened(seen.stored[indices[chunk]]), chunk_targets, weights, parameters)

    def evaluate(parameters: Parameters) -> Summed:
        folded, total, gradient = standard.folded(parameters), 0.0, np.zeros_like(parameters)
        for chunk_loss, chunk_gradient in each(lambda chunk: evaluate_chunk(chunk, folded), chunks, cores()):
            total += chunk_loss
            gradient += chunk_gradient
        return total, standard.unfolded(gradient)

    return descend(evaluate, len(order), np.zeros((len(counts), seen.shape[-1] + 1)), penalty, tolerance)

"""Trains a linear head on features that do not fit in memory: every solver iteration reads them from disk. No torch.

Standardized features are never computed. Standardization is applied to the weights instead, and its inverse to the gradient.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from graft.service.inference.devices import available_cpus
from graft.training.data.cross_validation import Targets
from graft.training.features.feature_arrays import CHUNK_SIZE, LazyFeatures, to_float32
from graft.training.features.linear_solver import (
    Floats,
    Kind,
    LossAndGrad,
    Parameters,
    fit_lbfgs_streamed,
    get_loss,
    loss_and_grad,
    one_hot,
    sample_weights_from_counts,
    sum_blocks,
)
from graft.training.features.standardization import Standardizer


def fit_streamed(
    features: LazyFeatures,
    targets: Targets,
    standardizer: Standardizer,
    kind: Kind,
    balanced: bool,
    penalty: float,
    tolerance: float,
    init: Parameters | None = None,
    on_iteration: Callable[[], object] | None = None,
) -> Parameters:
    """Fits parameters (C, D + 1) for standardized features, as `linear_solver.fit_lbfgs` does in memory.

    Args:
        features: features (V, N, D): V views of N images.
        targets: int (N,) or bool (N, C).
        penalty: L2 penalty of the weights, above 0.
        tolerance: as for `linear_solver.fit_lbfgs`.
        init: initial parameters for standardized features; None for zeros.
        on_iteration: called after every iteration.
    """
    multilabel = targets.ndim == 2
    counts = targets.sum(axis=0) if multilabel else np.bincount(targets)
    indices = features.indices.ravel()
    order = np.argsort(indices)  # so that the file is read sequentially
    chunks = [order[start : start + CHUNK_SIZE] for start in range(0, len(order), CHUNK_SIZE)]
    loss = get_loss(kind, multilabel)

    def evaluate_chunk(chunk: NDArray[np.intp], parameters: Floats) -> LossAndGrad:
        chunk_targets = one_hot(targets[chunk % len(targets)], len(counts))
        weights = sample_weights_from_counts(chunk_targets, counts.astype(np.float32), len(targets), multilabel, balanced)
        return loss_and_grad(loss, to_float32(features.array[indices[chunk]]), chunk_targets, weights, parameters)

    def evaluate(parameters: Floats) -> LossAndGrad:
        folded = standardizer.fold(parameters)
        total, gradient = sum_blocks(lambda chunk: evaluate_chunk(chunk, folded), chunks, available_cpus())
        return total, standardizer.unfold_gradient(gradient)

    initial = np.zeros((len(counts), features.shape[-1] + 1)) if init is None else init
    return fit_lbfgs_streamed(evaluate, len(order), initial, penalty, tolerance, on_iteration)

"""Adds the logits of several heads, each with a weight that is fitted on held-out images. No torch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]

from graft.training.data.cross_validation import Targets
from graft.training.features.linear_solver import Floats, get_loss, one_hot


def blend_weights(logits: Sequence[Floats], targets: Targets) -> list[float]:
    """The weights of the sum with the lowest log-loss, each at least 0 (stacking: Breiman 1996, "Stacked Regressions").

    A head that brings nothing beside the others gets exactly 0.

    Args:
        logits: of each head, float32 (N, C), for images that it was not trained on.
        targets: int (N,) or bool (N, C).
    """
    loss, one_hot_targets = get_loss("logistic", targets.ndim == 2), one_hot(targets, logits[0].shape[1])

    def objective(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        total = np.tensordot(weights.astype(np.float32), np.stack(logits), axes=1)
        losses, gradient = loss(total, one_hot_targets)
        slopes = np.array([float((gradient * part).sum(dtype=np.float64)) for part in logits])
        return float(losses.sum(dtype=np.float64)) / len(targets), slopes / len(targets)

    start = np.full(len(logits), 1 / len(logits))
    result = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(logits))
    weights: list[float] = result.x.tolist()
    return weights

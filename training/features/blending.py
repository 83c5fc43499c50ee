"""Adds the logits of several heads, each with a weight that is fitted on held-out images. No torch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]
from scipy.special import expit, logsumexp, softmax  # type: ignore[import-untyped]

from graft.training.data.cross_validation import Fold, Targets
from graft.training.features.linear_solver import Floats, one_hot

Numbers = NDArray[np.float64]


def blend_weights(logits: Sequence[Floats], targets: Targets) -> list[float]:
    """The weights of the sum with the lowest log-loss, each at least 0 (stacking: Breiman 1996, "Stacked Regressions").

    A head that brings nothing beside the others gets exactly 0.

    The targets are smoothed by a share of 1 / (N + 2), as in Platt 1999, "Probabilistic Outputs for Support Vector Machines":
    otherwise a few images that are all predicted right would make the weights infinite, and every probability certain.

    Args:
        logits: of each head, float32 (N, C), for images that it was not trained on.
        targets: int (N,) or bool (N, C).
    """
    multilabel, parts = targets.ndim == 2, np.stack(logits).astype(np.float64)
    share = 1 / (len(targets) + 2)
    uniform = 0.5 if multilabel else 1 / parts.shape[-1]
    smooth = (1 - share) * one_hot(targets, parts.shape[-1]) + share * uniform

    def objective(weights: Numbers) -> tuple[float, Numbers]:
        total = np.tensordot(weights, parts, axes=1)
        log_sums = np.logaddexp(0, total).sum() if multilabel else logsumexp(total, axis=1).sum()
        residuals = (expit(total) if multilabel else softmax(total, axis=1)) - smooth
        slopes: Numbers = (residuals * parts).sum(axis=(1, 2))
        return float(log_sums - (smooth * total).sum()) / len(targets), slopes / len(targets)

    start = np.full(len(logits), 1 / len(logits))
    result = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(logits))
    weights: list[float] = result.x.tolist()
    return weights


def blend(logits: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """The weighted sum float32 (N, C)."""
    total: Floats = np.tensordot(np.asarray(weights, np.float32), np.stack(logits), axes=1)
    return total


def blend_out_of_fold(logits: Sequence[Floats], targets: Targets, folds: Sequence[Fold]) -> Floats:
    """The sum float32 (N, C) with weights that the other folds give: what it loses on new images, not on those it has fitted.

    Args:
        folds: every image is held out in one of them.
    """
    blended = np.empty_like(logits[0])
    for others, held_out in folds:
        weights = blend_weights([part[others] for part in logits], targets[others])
        blended[held_out] = blend([part[held_out] for part in logits], weights)
    return blended

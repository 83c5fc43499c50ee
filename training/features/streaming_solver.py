"""A linear head learned from more features than belong into memory: each step of the search reads them again. No torch.

The standardised features exist nowhere, not even in pieces: what standardising would do to the features is done to the
weights and, the other way round, to the slopes.
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
    """What is subtracted from each column and what it is divided by, float32 (D,) each."""

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]

    def folded(self, rows: Parameters) -> Parameters:
        """Rows (C, D + 1) for standardised features as rows for raw ones."""
        weight = rows[:, :-1] / self.scale
        return np.column_stack([weight, rows[:, -1] - weight @ self.mean])

    def unfolded(self, gradient: Parameters) -> Parameters:
        """Slopes (C, D + 1) by rows for raw features as slopes by rows for standardised ones."""
        bias = gradient[:, -1]
        return np.column_stack([(gradient[:, :-1] - np.outer(bias, self.mean)) / self.scale, bias])


def learn(
    seen: Rows, targets: Targets, standard: Standard, kind: Kind, balanced: bool, penalty: float, tolerance: float
) -> Parameters:
    """Rows (C, D + 1) for standardised features, as `linear.minimise` finds them.

    Args:
        seen: (V, N, D): V views of N images.
        targets: int (N,) or bool (N, C).
        penalty, tolerance: as there.
    """
    multilabel = targets.ndim == 2
    counts = targets.sum(axis=0) if multilabel else np.bincount(targets)
    places = seen.places.ravel()
    order = np.argsort(places)  # so that the file is read from its beginning to its end
    pieces = [order[start : start + PIECE] for start in range(0, len(order), PIECE)]
    loss = loss_of(kind, multilabel)

    def one(piece: NDArray[np.intp], rows: Parameters) -> Summed:
        wanted = one_hot(targets[piece % len(targets)], len(counts))
        weights = weights_among(wanted, counts.astype(np.float32), len(targets), multilabel, balanced)
        return summed(loss, widened(seen.stored[places[piece]]), wanted, weights, rows)

    def sums(rows: Parameters) -> Summed:
        folded, total, gradient = standard.folded(rows), 0.0, np.zeros_like(rows)
        for losses, slopes in each(lambda piece: one(piece, folded), pieces, cores()):
            total += losses
            gradient += slopes
        return total, standard.unfolded(gradient)

    return descend(sums, len(order), np.zeros((len(counts), seen.shape[-1] + 1)), penalty, tolerance)

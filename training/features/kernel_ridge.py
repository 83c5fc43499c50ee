"""Kernel ridge regression on features: an RBF kernel machine that predicts the targets. No torch.

The boundaries of a linear head are flat. On five image sets of 243 to 5,000 images, a kernel machine on all features beside it
made 0 to 58 % fewer errors, in seconds. It has a center for every training image, so it is for at most MAX_CENTERS of them.

Distances are measured between the square roots of the features, as in RootSIFT (Arandjelović & Zisserman 2012): differences of
small values count for more. The pooled stages and the last vector count the same. Their 256 principal axes lose nothing and
make a prediction cheap. The ridge's solution is exact (one Cholesky decomposition), and so are predictions out of fold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, eigh  # type: ignore[import-untyped]

from graft.service.inference.devices import available_cpus
from graft.service.inference.head import Kernel, signed_roots, similarities
from graft.service.inference.thread_map import ordered_map
from graft.service.manifest import MAX_CENTERS
from graft.training.data.cross_validation import Fold, Targets
from graft.training.features.feature_arrays import Floats
from graft.training.features.head_trainer import fit_temperature, limit_blas_threads
from graft.training.features.linear_solver import get_loss, one_hot, sample_weights
from graft.training.features.standardization import fit_standardizer
from graft.training.runtime.progress import Progress

MAX_AXES = 256
GAMMAS = (0.25, 0.5, 1.0)  # of exp(-gamma |a - b|^2), where the mean |a - b|^2 of two images is about 2
RIDGES = (0.003, 0.03, 0.3)
BIAS_VARIANCE = 1.0  # the kernel of a constant, which makes the bias part of the machine

Numbers = NDArray[np.float64]


class Setting(NamedTuple):
    """The hyperparameters: the kernel's inverse width, and the ridge, the variance of the noise in the targets."""

    gamma: float
    ridge: float


@dataclass(frozen=True)
class Machine:
    """A trained kernel machine; its bias is apart, so that a linear head beside it can take it.

    Attributes:
        bias: float32 (C,).
    """

    kernel: Kernel
    bias: Floats


class KernelTrainer:
    """Trains many kernel machines on subsets of the same images.

    Args:
        features: float32 (V, N, D): V views of N images.
        blocks: column ranges of the features that count the same.
        targets: int (N,) or bool (N, C).
        balanced: whether to weight labels by inverse frequency; not for multi-label data.
        max_centers: each view is a center if that makes no more than these, else the mean of an image's views.
    """

    def __init__(
        self,
        features: Floats,
        blocks: Sequence[slice],
        targets: Targets,
        balanced: bool = False,
        max_centers: int = MAX_CENTERS,
    ) -> None:
        self.multilabel, self.one_hot_targets = targets.ndim == 2, one_hot(targets)
        self._axes = fit_axes(features, blocks)
        views = np.stack([self._axes.axes(view) for view in features])
        self._points = views if views.shape[0] * views.shape[1] <= max_centers else views.mean(axis=0, keepdims=True)
        self._queries = views[0]
        # Signed for multi-label data, so that 0 means that a label is as probable as not.
        self._regressed = (2 * self.one_hot_targets - 1 if self.multilabel else self.one_hot_targets).astype(np.float64)
        self._variance = 1 / sample_weights(self.one_hot_targets, False, balanced)[:, 0].astype(np.float64)

    def fit(self, setting: Setting) -> Machine:
        """The machine of all images."""
        images, root = np.arange(len(self._queries)), np.float32(np.sqrt(setting.gamma))
        centers = root * self._centers(images)
        solution = self._solve(centers, images, setting.ridge)
        kernel = Kernel(
            self._axes.offset,
            root * self._axes.projection,
            root * self._axes.shift,
            centers,
            np.ascontiguousarray(solution.T.astype(np.float32)),
        )
        return Machine(kernel, (BIAS_VARIANCE * solution.sum(axis=0)).astype(np.float32))

    def fit_folds(self, folds: Sequence[Fold], setting: Setting) -> Floats:
        """Held-out outputs float32 (N, C) of a machine for each fold, NaN elsewhere."""
        root = np.float32(np.sqrt(setting.gamma))

        def predict(fold: Fold) -> Numbers:
            train, held_out = fold
            centers = root * self._centers(train)
            solution = self._solve(centers, train, setting.ridge)
            near: Numbers = similarities(root * self._queries[held_out], centers) + BIAS_VARIANCE
            return near @ solution

        outputs = np.full(self.one_hot_targets.shape, np.nan, np.float32)
        with limit_blas_threads():
            for (_, held_out), predicted in zip(folds, ordered_map(predict, folds, available_cpus()), strict=True):
                outputs[held_out] = predicted
        return outputs

    def _centers(self, images: NDArray[np.intp]) -> Floats:
        """The points of some images on the axes, (V n, A)."""
        return self._points[:, images].reshape(-1, self._points.shape[-1])

    def _solve(self, centers: Floats, images: NDArray[np.intp], ridge: float) -> Numbers:
        """The coefficients (V n, C) of the centers (V n, A), which are those of some images."""
        n_views = len(self._points)
        system = similarities(centers, centers).astype(np.float64) + BIAS_VARIANCE
        system[np.diag_indices_from(system)] += ridge * np.tile(self._variance[images], n_views)
        factor = cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
        solution: Numbers = cho_solve(factor, np.tile(self._regressed[images], (n_views, 1)), check_finite=False)
        return solution


def fit_axes(features: Floats, blocks: Sequence[slice]) -> Kernel:
    """A kernel without centers: square roots, standardized by block, on their principal axes.

    Args:
        features: float32 (V, N, D); the first view is fitted.
        blocks: as for `KernelTrainer`; together all columns.
    """
    plain, width = features[0], features.shape[-1]
    offset = np.empty(width, np.float32)
    for columns in blocks:
        offset[columns] = float(np.abs(plain[:, columns]).mean()) or 1.0
    roots = signed_roots(plain, offset)
    standardizer = fit_standardizer(roots[None], blocks)
    scale = standardizer.scale.copy()
    for columns in blocks:
        # The mean squared distance of two images is then about 2, whatever the width of the block.
        scale[columns] *= np.sqrt(len(blocks) * len(range(width)[columns]))
    standardized = (roots - standardizer.mean) / scale
    directions = principal_axes(standardized, min(MAX_AXES, *standardized.shape))
    projection = np.ascontiguousarray((directions / scale[:, None]).T)
    nothing = np.empty((0, 0), np.float32)
    return Kernel(offset, projection, -projection @ standardizer.mean, nothing, nothing)


def principal_axes(rows: Floats, n_axes: int) -> Floats:
    """The directions (D, A) of the largest variance of centered rows (N, D), orthonormal."""
    if len(rows) >= rows.shape[1]:
        width = rows.shape[1]
        vectors: Floats = eigh(rows.T @ rows, subset_by_index=(width - n_axes, width - 1))[1]
        return vectors
    # The right singular vectors, from the left ones, which are shorter.
    values, left = eigh(rows @ rows.T, subset_by_index=(len(rows) - n_axes, len(rows) - 1))
    right: Floats = rows.T @ (left / np.sqrt(np.maximum(values, values.max() * 1e-6)))
    return right


def cross_validate(trainer: KernelTrainer, folds: Sequence[Fold], progress: Progress | None = None) -> Mapping[Setting, float]:
    """The log-loss of each setting on held-out images, after temperature scaling."""
    held_out = np.sort(np.concatenate([indices for _, indices in folds]))
    targets, loss = trainer.one_hot_targets[held_out], get_loss("logistic", trainer.multilabel)
    losses: dict[Setting, float] = {}
    for setting in (Setting(*values) for values in product(GAMMAS, RIDGES)):
        losses[setting] = fit_temperature(loss, trainer.fit_folds(folds, setting)[held_out], targets)[1]
        if progress is not None:
            progress.advance(1)
    return losses


def stage_blocks(slices: Mapping[str, slice]) -> list[slice]:
    """The pooled stages together, and the last vector; the vector alone if there are no stages."""
    last, everything = slices["last"], slices["all"]
    return [last] if last == everything else [slice(everything.start, last.start), last]

"""Trains many linear heads on subsets of the same features. No torch."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits

from graft.service.inference.devices import available_cpus
from graft.service.inference.thread_map import ordered_map
from graft.training.data.cross_validation import Fold, Targets
from graft.training.features.linear_solver import (
    Floats,
    Kind,
    Loss,
    Parameters,
    fit_lbfgs,
    get_loss,
    one_hot,
    sample_weights,
)

N_BLAS_THREADS = 1  # for BLAS: matrices are small, and on a busy machine more threads wait for each other (50 times slower)
CV_TOLERANCE, FINAL_TOLERANCE = 1e-2, 1e-3  # relative decrease of the loss: in cross-validation, and for a final head


class HeadTrainer:
    """Trains many heads on subsets of the same standardized features.

    Args:
        features: float32 (V, N, D): V views of N images.
        targets: int (N,) or bool (N, C).
    """

    def __init__(self, features: Floats, targets: Targets, kind: Kind, balanced: bool) -> None:
        self.features, self.one_hot_targets, self.multilabel = features, one_hot(targets), targets.ndim == 2
        self._loss, self.eval_loss = get_loss(kind, self.multilabel), get_loss("logistic", self.multilabel)
        self._weights = sample_weights(self.one_hot_targets, self.multilabel, balanced)

    def fit(
        self,
        images: NDArray[np.intp],
        C: float,
        init: Parameters | None,
        tolerance: float,
        n_threads: int = 1,
        on_iteration: Callable[[], object] | None = None,
    ) -> Parameters:
        """Parameters (C, D + 1) of a head trained on some images; `init` is a warm start."""
        n_views, n_images, width = self.features.shape
        arrays = self.features, self.one_hot_targets, self._weights
        if len(images) < n_images:  # no copy of the full set
            arrays = self.features[:, images], self.one_hot_targets[images], self._weights[images]
        flat = arrays[0].reshape(-1, width)
        targets, weights = (array if n_views == 1 else np.tile(array, (n_views, 1)) for array in arrays[1:])
        # Views of one image are not independent samples, so together they count as one in the penalty.
        penalty = 1 / (C * len(images))
        return fit_lbfgs(self._loss, flat, targets, weights, penalty, init, tolerance, n_threads, on_iteration)

    def fit_folds(
        self, folds: Sequence[Fold], C: float, inits: Sequence[Parameters | None], tolerance: float = CV_TOLERANCE
    ) -> tuple[Floats, list[Parameters]]:
        """Trains one head per fold; returns the held-out logits float32 (N, C), NaN elsewhere, and each fold's parameters."""
        jobs = [(train, start) for (train, _), start in zip(folds, inits, strict=True)]
        n_jobs = min(len(jobs), available_cpus())
        n_threads = available_cpus() // n_jobs
        with limit_blas_threads():  # outside the threads, because the limit applies to the whole process
            solutions = list(ordered_map(lambda job: self.fit(job[0], C, job[1], tolerance, n_threads), jobs, n_jobs))
        logits = np.full(self.one_hot_targets.shape, np.nan, np.float32)
        for (_, held_out), solution in zip(folds, solutions, strict=True):
            weight, bias = solution[:, :-1].astype(np.float32), solution[:, -1].astype(np.float32)
            logits[held_out] = self.features[0, held_out] @ weight.T + bias
        return logits, solutions


def limit_blas_threads() -> AbstractContextManager[object]:
    """Limits the threads of the BLAS libraries that are loaded; one that is loaded later would use all cores.

    So scipy, which has a BLAS library of its own, is imported with this module and not when it is first needed.
    """
    limits: AbstractContextManager[object] = threadpool_limits(N_BLAS_THREADS)
    return limits


def fit_temperature(loss: Loss, logits: Floats, targets: Floats) -> tuple[float, float]:
    """Fits the temperature of logits (N, C); returns it and the mean loss with it."""

    def mean_loss(log_temperature: float) -> float:
        return float(loss(logits / np.float32(np.exp(log_temperature)), targets)[0].sum(dtype=np.float64)) / len(logits)

    result = minimize_scalar(mean_loss, bounds=(-9, 9), method="bounded", options={"xatol": 0.01})
    return float(np.exp(result.x)), float(result.fun)

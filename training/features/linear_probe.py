"""Linear probe: trains a linear head on features. No torch.

Targets are labels int (N,), or bool (N, C) for multi-label data. Heads are compared by their held-out log-loss after
temperature scaling. It is less noisy than accuracy on small sets, it can compare an SVM's margins with logits, and a package
calibrates its logits anyway.

In shapes, C is the number of labels. As a parameter, `C` is the inverse regularization strength, as in scikit-learn.
"""

from collections.abc import Sequence

import numpy as np

from graft.service.inference.devices import available_cpus
from graft.service.inference.head import Head
from graft.training.data.cross_validation import Groups, Targets, stratified_group_kfold
from graft.training.features import streaming_solver
from graft.training.features.feature_arrays import LazyFeatures, Vectors
from graft.training.features.head_trainer import FINAL_TOLERANCE, HeadTrainer, fit_temperature, limit_blas_threads
from graft.training.features.linear_solver import Floats, Kind, sigmoid, softmax
from graft.training.features.standardization import ALL_COLUMNS, fit_standardizer
from graft.training.runtime.progress import Progress

MAX_IN_MEMORY = 2**24  # elements of one copy of the training features: 64 MB as float32


def fit(
    vectors: Vectors,
    targets: Targets,
    C: float,
    kind: Kind = "logistic",
    scale_groups: Sequence[slice] = ALL_COLUMNS,
    balanced: bool = False,
    init: Head | None = None,
    tolerance: float = FINAL_TOLERANCE,
) -> Head:
    """Trains a head, float32, on V views of N images, vectors (V, N, D). Features too large for memory are read from disk.

    Args:
        targets: int (N,) or bool (N, C).
        C: inverse regularization strength on standardized vectors, as scikit-learn's C.
        kind: "logistic" (softmax, or one sigmoid per label for bool targets) or "svm" (squared hinge).
        scale_groups: column ranges; the columns of a range share one scale.
        balanced: whether to weight labels by inverse frequency.
        init: a head for the same features to start from, such as one trained on fewer images; it saves iterations.
        tolerance: as for `linear_solver.fit_lbfgs`.
    """
    standardizer = fit_standardizer(vectors, scale_groups)
    start = None if init is None else standardizer.unfold(np.column_stack([init.weight, init.bias]).astype(np.float64))
    n_labels = targets.shape[1] if targets.ndim == 2 else int(targets.max()) + 1
    with limit_blas_threads(), Progress("training a linear head", 0, "iterations") as progress:

        def count() -> None:
            progress.advance(1)

        if isinstance(vectors, LazyFeatures) and max(vectors.size, vectors.shape[0] * len(targets) * n_labels) > MAX_IN_MEMORY:
            penalty = 1 / (C * len(targets))
            parameters = streaming_solver.fit_streamed(
                vectors, targets, standardizer, kind, balanced, penalty, tolerance, start, count
            )
        else:
            trainer = HeadTrainer(standardizer.apply(vectors[:, :]), targets, kind, balanced)
            parameters = trainer.fit(np.arange(len(targets)), C, start, tolerance, available_cpus(), count)
    folded = standardizer.fold(parameters).astype(np.float32)
    return Head(np.ascontiguousarray(folded[:, :-1]), folded[:, -1].copy())


def out_of_fold_probabilities(
    vectors: Floats,
    targets: Targets,
    C: float,
    n_folds: int,
    seed: int,
    kind: Kind = "logistic",
    groups: Groups = None,
    tolerance: float = FINAL_TOLERANCE,
) -> Floats:
    """Out-of-fold calibrated probabilities float32 (N, C): each image is predicted by a head trained on the other folds.

    Args:
        vectors: float32 (V, N, D): V views of N images; all are trained on, the first is predicted.
        targets: int (N,) or bool (N, C).
        groups: as for `regularization.cross_validate`.
        tolerance: as for `linear_solver.fit_lbfgs`.
    """
    trainer = HeadTrainer(fit_standardizer(vectors).apply(vectors), targets, kind, balanced=False)
    del vectors  # frees memory unless the caller keeps a reference; the folds need as much again
    logits, _ = trainer.fit_folds(stratified_group_kfold(targets, n_folds, seed, groups), C, [None] * n_folds, tolerance)
    scaled_logits = logits / np.float32(fit_temperature(trainer.eval_loss, logits, trainer.one_hot_targets)[0])
    return sigmoid(scaled_logits) if targets.ndim == 2 else softmax(scaled_logits)

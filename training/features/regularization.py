"""Selects the regularization of a linear head by cross-validation. No torch.

The search does not grow with the number of labels: beyond MAX_SEARCH_LABELS it uses a random subset of them. That selects the
same strength, because scikit-learn's C weighs the sum of the losses: a label's weights are fitted to its own images, and the
best C depends on how many of those there are, not on how many other labels there are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.training.data.cross_validation import Fold, Groups, Targets, stratified_group_kfold, stratified_subset, take_groups
from graft.training.features.feature_arrays import Vectors
from graft.training.features.head_trainer import HeadTrainer, fit_temperature
from graft.training.features.linear_solver import Floats, Kind, Parameters
from graft.training.features.standardization import fit_standardizer
from graft.training.runtime.progress import Progress

C_GRID = tuple(float(f"{10**exponent:.3g}") for exponent in np.arange(-4.5, 1.01, 0.5))  # scikit-learn's C
MAX_CV_IMAGES = 5_000  # images in cross-validation; the best C hardly changes with more, and the cost is linear in them
MAX_SEARCH_LABELS = 200  # labels in a search
MIN_HELD_OUT_IMAGES = 1_000  # held-out images of a search; with fewer images, all folds are used


@dataclass(frozen=True)
class CVScore:
    """Cross-validated scores of one C: calibrated log-loss and accuracy."""

    loss: float
    accuracy: float


def cross_validate(
    vectors: Vectors,
    targets: Targets,
    n_folds: int,
    seed: int,
    kind: Kind = "logistic",
    balanced: bool = False,
    groups: Groups = None,
) -> dict[float, float]:
    """The calibrated log-loss of each C by stratified grouped cross-validation; `one_percent_rule` selects from them.

    Args:
        vectors: float32 (V, N, D): V views of N images; all are trained on, only the first is evaluated.
        targets: int (N,) or bool (N, C).
        n_folds: number of folds.
        seed: of the shuffle.
        kind: "logistic" or "svm".
        balanced: whether to weight labels by inverse frequency.
        groups: group of each image; a group is in one fold, so that duplicates do not leak.
    """
    images, search_targets = search_subset(targets, MAX_CV_IMAGES, seed)
    features = fit_standardizer(vectors).apply(vectors[:, images])
    folds = search_folds(search_targets, n_folds, seed, take_groups(groups, images), MIN_HELD_OUT_IMAGES)
    with Progress("selecting the regularization", len(C_GRID) * len(folds), "fits") as progress:
        path = regularization_path(HeadTrainer(features, search_targets, kind, balanced), folds, C_GRID, progress)
    return {C: score.loss for C, score in path.items()}


def search_subset(targets: Targets, max_images: int, seed: int) -> tuple[NDArray[np.intp], Targets]:
    """A subset for a search: at most `max_images` images of at most MAX_SEARCH_LABELS labels.

    Returns:
        The sorted indices of n images, and their targets int (n,) or bool (n, c), with the labels numbered from 0.
    """
    n_labels = targets.shape[1] if targets.ndim == 2 else int(targets.max()) + 1
    images = np.arange(len(targets))
    if n_labels > MAX_SEARCH_LABELS:
        labels = np.sort(np.random.default_rng(seed).permutation(n_labels)[:MAX_SEARCH_LABELS])
        if targets.ndim == 2:
            targets = targets[:, labels]
        else:
            images = np.flatnonzero(np.isin(targets, labels))
            targets = np.searchsorted(labels, targets[images])
    selected = stratified_subset(targets, max_images, seed)
    return images[selected], targets[selected]


def search_folds(targets: Targets, n_folds: int, seed: int, groups: Groups, min_held_out: int) -> list[Fold]:
    """As many of `n_folds` folds as hold out at least `min_held_out` images together; all folds if there are fewer images."""
    folds = stratified_group_kfold(targets, n_folds, seed, groups)
    return folds[: math.ceil(min_held_out * n_folds / len(targets))]


def regularization_path(
    trainer: HeadTrainer, folds: Sequence[Fold], C_values: Sequence[float], progress: Progress | None = None
) -> dict[float, CVScore]:
    """The regularization path: scores by C, from strong to weak regularization, each warm-started from the previous one."""
    held_out = np.sort(np.concatenate([indices for _, indices in folds]))
    targets = trainer.one_hot_targets[held_out]
    starts: Sequence[Parameters | None] = [None] * len(folds)
    scores: dict[float, CVScore] = {}
    for C in C_values:
        logits, starts = trainer.fit_folds(folds, C, starts)
        loss = fit_temperature(trainer.eval_loss, logits[held_out], targets)[1]
        scores[C] = CVScore(loss, _accuracy(logits[held_out], targets, trainer.multilabel))
        if progress is not None:
            progress.advance(len(folds))
        if is_overfitting([score.loss for score in scores.values()]):
            break
    return scores


def _accuracy(logits: Floats, targets: Floats, multilabel: bool) -> float:
    correct = (logits > 0) == (targets > 0) if multilabel else logits.argmax(axis=1) == targets.argmax(axis=1)
    return float(correct.mean())


def one_percent_rule(losses: Mapping[float, float]) -> float:
    """Selects C: the strongest regularization with a loss at most 1 % above the lowest.

    For separable data the loss becomes flat towards weak regularization, so the exact minimum is arbitrary. There the
    weights only grow, and temperature scaling reverses that.
    """
    lowest = min(losses.values())
    return min(C for C, loss in losses.items() if loss <= 1.01 * lowest)


def is_overfitting(losses: Sequence[float]) -> bool:
    """Whether weaker regularization would only overfit more and converge more slowly.

    It would after two steps more than 1 % above the minimum, or after five steps without an improvement, as with random
    labels. Fewer steps could be the flat start of the path, where regularization is so strong that only the norm of the
    weights changes.
    """
    return min(losses[-2:]) > 1.01 * min(losses) or (len(losses) > 5 and min(losses[-5:]) > 0.999 * min(losses[:-5]))

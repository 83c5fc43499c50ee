"""Stratified, grouped k-fold splits and stratified subsets. NumPy only."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Targets = NDArray[Any]  # int64 (N,), each in [0, C); or bool (N, C) for multi-label data
Fold = tuple[NDArray[np.intp], NDArray[np.intp]]  # training indices, validation indices
Groups = Sequence[Hashable] | None  # the group of each image; None if every image is its own group


def stratified_group_kfold(targets: Targets, n_folds: int, seed: int, groups: Groups = None) -> list[Fold]:
    """Split N images into `n_folds` folds with the same label distribution; images of one group stay in one fold."""
    index_of = {group: index for index, group in enumerate(dict.fromkeys(groups or range(len(targets))))}
    group_indices = np.array([index_of[group] for group in groups or range(len(targets))])
    first = np.unique(group_indices, return_index=True)[1]
    # Round-robin over the groups sorted by label, so that every fold gets an equal share of each label.
    order = _shuffle_by_label(_strata(targets)[first], seed)
    fold_of = np.empty(len(order), np.int64)
    fold_of[order] = np.arange(len(order)) % n_folds
    folds = fold_of[group_indices]
    return [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in range(n_folds)]


def stratified_subset(targets: Targets, max_size: int, seed: int) -> NDArray[np.intp]:
    """Return the sorted indices of at most `max_size` images with the same label distribution."""
    if len(targets) <= max_size:
        return np.arange(len(targets))
    positions = np.linspace(0, len(targets) - 1, max_size).round().astype(np.intp)
    return np.sort(_shuffle_by_label(_strata(targets), seed)[positions])


def take_groups(groups: Groups, indices: NDArray[np.intp]) -> Groups:
    """Return the groups of the images at the given indices."""
    return None if groups is None else [groups[index] for index in indices]


def _shuffle_by_label(strata: NDArray[np.int64], seed: int) -> NDArray[np.intp]:
    shuffled = np.random.default_rng(seed).permutation(len(strata))
    return shuffled[np.argsort(strata[shuffled], kind="stable")]


def _strata(targets: Targets) -> NDArray[np.int64]:
    """Return one label per image: the rarest of several, because it is the hardest to balance; C for none."""
    if targets.ndim == 1:
        return targets.astype(np.int64)
    counts = np.where(targets, targets.sum(axis=0), len(targets) + 1)
    strata: NDArray[np.int64] = np.where(targets.any(axis=1), counts.argmin(axis=1), targets.shape[1])
    return strata

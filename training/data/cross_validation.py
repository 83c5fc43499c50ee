"""Images -> parts with the same mix of labels, for cross-validation. Numpy only."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Targets = NDArray[Any]  # int64 (N,), each in [0, C); or bool (N, C) where an image may have several labels
Part = tuple[NDArray[np.intp], NDArray[np.intp]]  # the images to learn from, and those to judge by
Groups = Sequence[Hashable] | None  # of each image, what must stay together; None where each stands alone


def deal(targets: Targets, n_folds: int, seed: int, groups: Groups = None) -> list[Part]:
    """N images in `n_folds` parts with the same mix of labels, groups kept together: for each part, the rest and itself."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups or range(len(targets))))}
    member = np.array([numbers[group] for group in groups or range(len(targets))])
    first = np.unique(member, return_index=True)[1]
    # As cards are dealt: those of one label come one after the other, so every hand gets its share.
    cards = _alike_together(_strata(targets)[first], seed)
    hand = np.empty(len(cards), np.int64)
    hand[cards] = np.arange(len(cards)) % n_folds
    return [(np.flatnonzero(hand[member] != part), np.flatnonzero(hand[member] == part)) for part in range(n_folds)]


def subset(targets: Targets, most: int, seed: int) -> NDArray[np.intp]:
    """Indices of at most `most` images with the same mix of labels; all of them if there are no more."""
    if len(targets) <= most:
        return np.arange(len(targets))
    evenly = np.linspace(0, len(targets) - 1, most).round().astype(np.intp)
    return np.sort(_alike_together(_strata(targets), seed)[evenly])


def among(groups: Groups, images: NDArray[np.intp]) -> Groups:
    """The groups of some images."""
    return None if groups is None else [groups[image] for image in images]


def _alike_together(strata: NDArray[np.int64], seed: int) -> NDArray[np.intp]:
    shuffled = np.random.default_rng(seed).permutation(len(strata))
    return shuffled[np.argsort(strata[shuffled], kind="stable")]


def _strata(targets: Targets) -> NDArray[np.int64]:
    """Each image's label; of several, the rarest, because that one is the hardest to share out; C for none."""
    if targets.ndim == 1:
        return targets.astype(np.int64)
    counts = np.where(targets, targets.sum(axis=0), len(targets) + 1)
    strata: NDArray[np.int64] = np.where(targets.any(axis=1), counts.argmin(axis=1), targets.shape[1])
    return strata

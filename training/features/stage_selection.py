"""Feature selection: one stage, the last vector or all of them, and the kind of head, by cross-validation. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from graft.training.data.cross_validation import Fold, Groups, Targets, stratified_group_kfold, stratified_subset, take_groups
from graft.training.features.feature_arrays import Vectors, select_columns
from graft.training.features.linear_probe import (
    ALL_COLUMNS,
    C_GRID,
    MAX_CV_IMAGES,
    Head,
    HeadTrainer,
    fit,
    mean_and_scale,
    one_percent_rule,
    standardize,
)
from graft.training.features.linear_solver import Floats, Kind

MAX_SCREENING_IMAGES = 2_000  # images
SCREENING_HELD_OUT_IMAGES = 400  # held-out images for screening; with fewer images, all folds are used
N_FINALISTS = 3
KINDS: tuple[Kind, ...] = ("logistic", "svm")


@dataclass(frozen=True)
class Candidate:
    """A feature set and a kind of head, with their cross-validated scores.

    Attributes:
        feature_set: name of the feature set: a stage, `last` or `all`.
        C: selected C, the inverse regularization strength.
        loss: log-loss after temperature scaling, by which candidates are compared.
        accuracy: for multi-label data, the accuracy of all binary decisions.
        n_held_out: held-out images behind the scores; fewer for candidates that were only screened.
    """

    feature_set: str
    kind: Kind
    C: float
    loss: float
    accuracy: float
    n_held_out: int

    @property
    def head_input(self) -> Literal["last", "all"]:
        """The head's input as stored in the manifest: the last vector, or all features."""
        return "last" if self.feature_set == "last" else "all"


@dataclass(frozen=True)
class Selection:
    """The best candidate, and all candidates: the finalists first, each group sorted by loss."""

    best: Candidate
    candidates: tuple[Candidate, ...]


def select_features(
    features: Vectors,
    slices: Mapping[str, slice],
    targets: Targets,
    n_folds: int,
    seed: int,
    balanced: bool = False,
    groups: Groups = None,
) -> Selection:
    """Selects the feature set and kind of head with the lowest cross-validated log-loss.

    All candidates are screened with at most 2,000 images, about 400 of them held out. The best three are compared by full
    cross-validation on at most 5,000. So the run time does not grow with the dataset.

    Args:
        features: features float32 (V, N, W): V views of N images.
        slices: column range of each feature set, from `graft.training.backbones.onnx_cache.feature_slices`.
        targets: int (N,) or bool (N, C).
        balanced: whether to weight labels by inverse frequency.
        groups: group of each image; a group is in one fold.
    """
    mean, scale = mean_and_scale(features, _stage_slices(slices))
    few, many = (stratified_subset(targets, n_images, seed) for n_images in (MAX_SCREENING_IMAGES, MAX_CV_IMAGES))
    folds = stratified_group_kfold(targets[few], n_folds, seed, take_groups(groups, few))[
        : -(-SCREENING_HELD_OUT_IMAGES * n_folds // len(few))
    ]
    unmirrored = standardize(features[:1, few], mean, scale)
    screened = [
        _evaluate(name, kind, unmirrored[:, :, selected], targets[few], folds, C_GRID, balanced)
        for name, selected in slices.items()
        for kind in KINDS
        if name != "all" or selected != slices["last"]
    ]
    screened.sort(key=lambda candidate: candidate.loss)
    folds, standardized = (
        stratified_group_kfold(targets[many], n_folds, seed, take_groups(groups, many)),
        standardize(features[:, many], mean, scale),
    )
    finalists = [
        _evaluate(
            candidate.feature_set,
            candidate.kind,
            standardized[:, :, slices[candidate.feature_set]],
            targets[many],
            folds,
            _grid_neighbors(candidate.C),
            balanced,
        )
        for candidate in screened[:N_FINALISTS]
    ]
    finalists.sort(key=lambda candidate: candidate.loss)
    return Selection(finalists[0], (*finalists, *screened[N_FINALISTS:]))


def _evaluate(
    feature_set: str,
    kind: Kind,
    features: Floats,
    targets: Targets,
    folds: Sequence[Fold],
    C_values: Sequence[float],
    balanced: bool,
) -> Candidate:
    path = HeadTrainer(features, targets, kind, balanced).regularization_path(folds, C_values)
    best_C = one_percent_rule({C: score.loss for C, score in path.items()})
    n_held_out = sum(len(held_out) for _, held_out in folds)
    return Candidate(feature_set, kind, best_C, path[best_C].loss, path[best_C].accuracy, n_held_out)


def _grid_neighbors(C: float) -> tuple[float, ...]:
    """The value and its neighbors in the grid."""
    index = C_GRID.index(C)
    return C_GRID[max(0, index - 1) : index + 2]


def _stage_slices(slices: Mapping[str, slice]) -> list[slice]:
    """The column ranges of the single stages; each is standardized with its own scale."""
    return [selected for name, selected in slices.items() if name != "all"]


def fit_candidate(
    candidate: Candidate, features: Vectors, slices: Mapping[str, slice], targets: Targets, balanced: bool = False
) -> Head:
    """Trains the candidate's head on all of these images; its input is `candidate.head_input`.

    A head on a single stage takes all features, with zero weights for the other stages, so that two kinds of package suffice.
    """
    selected = slices[candidate.feature_set]
    scale_groups = _stage_slices(slices) if candidate.feature_set == "all" else ALL_COLUMNS
    head = fit(select_columns(features, selected), targets, candidate.C, candidate.kind, scale_groups, balanced)
    if candidate.feature_set == "last":
        return head
    weight = np.zeros((len(head.bias), slices["all"].stop), np.float32)
    weight[:, selected] = head.weight
    return Head(weight, head.bias, head.C)

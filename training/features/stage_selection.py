"""Feature selection: one stage, the last vector or all of them, and the kind of head, by cross-validation. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from graft.service.inference.head import Head
from graft.training.data.cross_validation import Fold, Groups, Targets, take_groups
from graft.training.features.feature_arrays import Floats, Vectors, select_columns
from graft.training.features.head_trainer import FINAL_TOLERANCE, HeadTrainer
from graft.training.features.linear_probe import fit
from graft.training.features.linear_solver import Kind
from graft.training.features.regularization import (
    C_GRID,
    MAX_CV_IMAGES,
    MIN_HELD_OUT_IMAGES,
    one_percent_rule,
    regularization_path,
    search_folds,
    search_subset,
)
from graft.training.features.standardization import ALL_COLUMNS, fit_standardizer
from graft.training.runtime.progress import Progress

MAX_SCREENING_IMAGES = 2_000  # images
SCREENING_HELD_OUT_IMAGES = 400  # held-out images for screening; with fewer images, all folds are used
N_FINALISTS = 3
KINDS: tuple[Kind, ...] = ("logistic", "svm")


@dataclass(frozen=True)
class Candidate:
    """A feature set and a kind of head, with their cross-validated scores.

    Attributes:
        feature_set: name of the feature set: a stage, `last` or `all`.
        C: selected C, the inverse regularization strength; of a kernel machine, the inverse of its ridge.
        loss: log-loss after temperature scaling, by which candidates are compared.
        accuracy: for multi-label data, the accuracy of all binary decisions.
        n_held_out: held-out images behind the scores; fewer for candidates that were only screened.
    """

    feature_set: str
    kind: Kind | Literal["kernel"]
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

    All candidates are screened with at most 2,000 images, about 400 of them held out. The best three are compared with at
    most 5,000. Both use at most 200 labels. So the run time does not grow with the dataset.

    Args:
        features: features float32 (V, N, W): V views of N images.
        slices: column range of each feature set, from `graft.training.backbones.onnx_cache.feature_slices`.
        targets: int (N,) or bool (N, C).
        balanced: whether to weight labels by inverse frequency.
        groups: group of each image; a group is in one fold.
    """
    standardizer = fit_standardizer(features, _stage_slices(slices))
    names = [name for name in slices if name != "all" or slices[name] != slices["last"]]

    def load(max_images: int, min_held_out: int) -> tuple[NDArray[np.intp], Targets, list[Fold]]:
        images, search_targets = search_subset(targets, max_images, seed)
        return images, search_targets, search_folds(search_targets, n_folds, seed, take_groups(groups, images), min_held_out)

    with Progress("comparing features", len(names) * len(KINDS) + N_FINALISTS, "candidates") as progress:
        images, search_targets, folds = load(MAX_SCREENING_IMAGES, SCREENING_HELD_OUT_IMAGES)
        unmirrored = standardizer.apply(features[:1, images])
        screened = [
            _evaluate(name, kind, unmirrored[:, :, slices[name]], search_targets, folds, C_GRID, balanced)
            for name, kind in progress.track(list(product(names, KINDS)))
        ]
        screened.sort(key=lambda candidate: candidate.loss)
        images, search_targets, folds = load(MAX_CV_IMAGES, MIN_HELD_OUT_IMAGES)
        standardized = standardizer.apply(features[:, images])
        finalists = [
            _evaluate(
                candidate.feature_set,
                _linear_kind(candidate),
                standardized[:, :, slices[candidate.feature_set]],
                search_targets,
                folds,
                _grid_neighbors(candidate.C),
                balanced,
            )
            for candidate in progress.track(screened[:N_FINALISTS])
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
    path = regularization_path(HeadTrainer(features, targets, kind, balanced), folds, C_values)
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


def out_of_fold_logits(
    candidate: Candidate,
    features: Vectors,
    slices: Mapping[str, slice],
    targets: Targets,
    folds: Sequence[Fold],
    balanced: bool = False,
) -> Floats:
    """Logits float32 (N, C) of each image by a head of this candidate that was trained on the other folds.

    Args:
        features: features float32 (V, N, W): V views of N images; all are trained on, the first is predicted.
        slices: as for `select_features`.
        targets: int (N,) or bool (N, C).
        folds: every image is held out in one of them.
    """
    columns = select_columns(features, slices[candidate.feature_set])
    scale_groups = _stage_slices(slices) if candidate.feature_set == "all" else ALL_COLUMNS
    kind = _linear_kind(candidate)
    trainer = HeadTrainer(fit_standardizer(columns, scale_groups).apply(columns[:, :]), targets, kind, balanced)
    return trainer.fit_folds(folds, candidate.C, [None] * len(folds), FINAL_TOLERANCE)[0]


def fit_candidate(
    candidate: Candidate,
    features: Vectors,
    slices: Mapping[str, slice],
    targets: Targets,
    balanced: bool = False,
    init: Head | None = None,
    tolerance: float = FINAL_TOLERANCE,
) -> Head:
    """Trains the candidate's head on all of these images; its input is `candidate.head_input`.

    A head on a single stage takes all features, with zero weights for the other stages, so that two kinds of package suffice.

    Args:
        init: a head of this candidate to start from, such as one trained on fewer images.
        tolerance: as for `linear_solver.fit_lbfgs`.
    """
    selected = slices[candidate.feature_set]
    scale_groups = _stage_slices(slices) if candidate.feature_set == "all" else ALL_COLUMNS
    if init is not None and candidate.feature_set != "last":
        init = Head(np.ascontiguousarray(init.weight[:, selected]), init.bias)
    head = fit(
        select_columns(features, selected),
        targets,
        candidate.C,
        _linear_kind(candidate),
        scale_groups,
        balanced,
        init,
        tolerance,
    )
    return head if candidate.feature_set == "last" else widen(head, selected, slices["all"].stop)


def widen(head: Head, columns: slice, width: int) -> Head:
    """A linear head for these columns of `width` features as one for all of them, with zeros for the others."""
    weight = np.zeros((len(head.bias), width), np.float32)
    weight[:, columns] = head.weight
    return Head(weight, head.bias)


def _linear_kind(candidate: Candidate) -> Kind:
    assert candidate.kind != "kernel", "kernel machines are trained by `kernel_ridge`"
    return candidate.kind

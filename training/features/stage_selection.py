"""Feature selection: one stage, the last vector or all of them, and the kind of head, by cross-validation. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from graft.training.data.cross_validation import Groups, Part, Targets, among, deal, subset
from graft.training.features.feature_arrays import Vectors, columns_of
from graft.training.features.linear_probe import (
    MOST_FOR_CHOOSING,
    STRENGTHS,
    WHOLE,
    Head,
    Search,
    fit,
    preferred,
    scaled,
    standard,
)
from graft.training.features.linear_solver import Floats, Kind

MOST_FOR_SCREENING = 2_000  # images
ENOUGH_TO_SCREEN = 400  # held-out images for screening; with fewer images, all folds are used
FINALISTS = 3
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

    block: str
    kind: Kind
    strength: float
    loss: float
    accuracy: float
    n_judged: int

    @property
    def sees(self) -> Literal["last", "all"]:
        """The head's input as stored in the manifest: the last vector, or all features."""
        return "last" if self.block == "last" else "all"


@dataclass(frozen=True)
class Chosen:
    """The best candidate, and all candidates: the finalists first, each group sorted by loss."""

    best: Candidate
    table: tuple[Candidate, ...]


def best_of(
    seen: Vectors,
    columns: Mapping[str, slice],
    targets: Targets,
    n_folds: int,
    seed: int,
    balanced: bool = False,
    groups: Groups = None,
) -> Chosen:
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
    mean, scale = standard(seen, _stages(columns))
    few, many = (subset(targets, n_images, seed) for n_images in (MOST_FOR_SCREENING, MOST_FOR_CHOOSING))
    folds = deal(targets[few], n_folds, seed, among(groups, few))[: -(-ENOUGH_TO_SCREEN * n_folds // len(few))]
    unmirrored = scaled(seen[:1, few], mean, scale)
    screened = [
        _judged(name, kind, unmirrored[:, :, selected], targets[few], folds, STRENGTHS, balanced)
        for name, selected in columns.items()
        for kind in KINDS
        if name != "all" or selected != columns["last"]
    ]
    screened.sort(key=lambda candidate: candidate.loss)
    folds, standardized = deal(targets[many], n_folds, seed, among(groups, many)), scaled(seen[:, many], mean, scale)
    finalists = [
        _judged(
            candidate.block,
            candidate.kind,
            standardized[:, :, columns[candidate.block]],
            targets[many],
            folds,
            _around(candidate.strength),
            balanced,
        )
        for candidate in screened[:FINALISTS]
    ]
    finalists.sort(key=lambda candidate: candidate.loss)
    return Chosen(finalists[0], (*finalists, *screened[FINALISTS:]))


def _judged(
    block: str,
    kind: Kind,
    standardised: Floats,
    targets: Targets,
    parts: Sequence[Part],
    strengths: Sequence[float],
    balanced: bool,
) -> Candidate:
    path = Search(standardised, targets, kind, balanced).trials(parts, strengths)
    best_C = preferred({C: score.loss for C, score in path.items()})
    n_held_out = sum(len(held_out) for _, held_out in parts)
    return Candidate(block, kind, best_C, path[best_C].loss, path[best_C].accuracy, n_held_out)


def _around(strength: float) -> tuple[float, ...]:
    """The value and its neighbors in the grid."""
    index = STRENGTHS.index(strength)
    return STRENGTHS[max(0, index - 1) : index + 2]


def _stages(columns: Mapping[str, slice]) -> list[slice]:
    """The column ranges of the single stages; each is standardized with its own scale."""
    return [selected for name, selected in columns.items() if name != "all"]


def learn(candidate: Candidate, seen: Vectors, columns: Mapping[str, slice], targets: Targets, balanced: bool = False) -> Head:
    """Trains the candidate's head on all of these images; its input is `candidate.head_input`.

    A head on a single stage takes all features, with zero weights for the other stages, so that two kinds of package suffice.
    """
    selected = columns[candidate.block]
    scale_groups = _stages(columns) if candidate.block == "all" else WHOLE
    head = fit(columns_of(seen, selected), targets, candidate.strength, candidate.kind, scale_groups, balanced)
    if candidate.block == "last":
        return head
    weight = np.zeros((len(head.bias), columns["all"].stop), np.float32)
    weight[:, selected] = head.weight
    return Head(weight, head.bias, head.strength)

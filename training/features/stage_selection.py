"""Which features a head should see: one stage's, the last vector, or all of it side by side; and learned how. No torch."""

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
ENOUGH_TO_SCREEN = 400  # images to judge by; where there are fewer, every part judges
FINALISTS = 3
KINDS: tuple[Kind, ...] = ("logistic", "svm")


@dataclass(frozen=True)
class Candidate:
    """One block of features, one kind of head, and how it did on images that it did not learn from.

    Attributes:
        strength: the best one tried.
        loss: log-loss after the temperature that suits it best; what candidates are compared by.
        accuracy: the share of right labels; where an image may have several, of right yes-or-no answers.
        n_judged: images it was judged by; fewer for one that was not among the best after the first part.
    """

    block: str
    kind: Kind
    strength: float
    loss: float
    accuracy: float
    n_judged: int

    @property
    def sees(self) -> Literal["last", "all"]:
        """What a head on this block takes, as the manifest says it."""
        return "last" if self.block == "last" else "all"


@dataclass(frozen=True)
class Chosen:
    """The best candidate, and the table it was chosen from, best first; finalists before those that were not."""

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
    """The block and kind of head that cross-validation on these images prefers.

    Every candidate is screened on at most 2,000 images, judged by about 400; the best three then meet on all parts of at
    most 5,000. So the time does not grow with the images.

    Args:
        seen: float32 (V, N, W): V views of N images, rows as `columns` divides them.
        columns: blocks by name, such as `graft.training.backbones.onnx_cache.columns` gives.
        targets: int (N,) or bool (N, C).
        balanced: whether rare labels weigh as much as frequent ones.
        groups: of each image; a group is never torn apart.
    """
    mean, scale = standard(seen, _stages(columns))
    few, many = (subset(targets, most, seed) for most in (MOST_FOR_SCREENING, MOST_FOR_CHOOSING))
    parts = deal(targets[few], n_folds, seed, among(groups, few))[: -(-ENOUGH_TO_SCREEN * n_folds // len(few))]
    upright = scaled(seen[:1, few], mean, scale)
    screened = [
        _judged(block, kind, upright[:, :, place], targets[few], parts, STRENGTHS, balanced)
        for block, place in columns.items()
        for kind in KINDS
        if block != "all" or place != columns["last"]
    ]
    screened.sort(key=lambda candidate: candidate.loss)
    parts, ready = deal(targets[many], n_folds, seed, among(groups, many)), scaled(seen[:, many], mean, scale)
    finalists = [
        _judged(one.block, one.kind, ready[:, :, columns[one.block]], targets[many], parts, _around(one.strength), balanced)
        for one in screened[:FINALISTS]
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
    trials = Search(standardised, targets, kind, balanced).trials(parts, strengths)
    strength = preferred({strength: trial.loss for strength, trial in trials.items()})
    n_judged = sum(len(judged) for _, judged in parts)
    return Candidate(block, kind, strength, trials[strength].loss, trials[strength].accuracy, n_judged)


def _around(strength: float) -> tuple[float, ...]:
    place = STRENGTHS.index(strength)
    return STRENGTHS[max(0, place - 1) : place + 2]


def _stages(columns: Mapping[str, slice]) -> list[slice]:
    """The blocks that make up a row: each has a scale of its own."""
    return [place for block, place in columns.items() if block != "all"]


def learn(candidate: Candidate, seen: Vectors, columns: Mapping[str, slice], targets: Targets, balanced: bool = False) -> Head:
    """The candidate's head, learned from all of these images: it takes what `candidate.sees` says.

    A head on one stage takes whole rows with zeros for all else, so that two kinds of package are enough.
    """
    place = columns[candidate.block]
    together = _stages(columns) if candidate.block == "all" else WHOLE
    head = fit(columns_of(seen, place), targets, candidate.strength, candidate.kind, together, balanced)
    if candidate.block == "last":
        return head
    weight = np.zeros((len(head.bias), columns["all"].stop), np.float32)
    weight[:, place] = head.weight
    return Head(weight, head.bias, head.strength)

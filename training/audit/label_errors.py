"""Which images look out of place, and which labels look wrong: judged by the backbone's vectors. No images, no torch.

Both are lists for a person to look through, so few false alarms count for more than finding everything.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from graft.service.inference.devices import cores
from graft.service.inference.neighbours import unit
from graft.training.data.cross_validation import Groups, Targets, among
from graft.training.data.dataset import Dataset, Sample
from graft.training.data.errors import plain
from graft.training.data.findings import Finding, Suspect
from graft.training.features.feature_arrays import Vectors
from graft.training.features.linear_probe import ONE_THREAD, out_of_fold
from graft.training.runtime.thread_map import each

KIND = "label-error"  # of a finding
STRENGTH = 1e-3  # strong regularisation: errors must not be learned by heart
FOLDS = 5
FEWEST_TO_JUDGE = 5  # images that have a label, and that do not: one for each fold
MOST_AT_ONCE = 5_000  # images that are judged by one another; and that distances are measured to
SURE = 0.5  # what the suggested label must have at least
# The given label may have DOUBT over the square of the model's error rate: where the model is often wrong, it is often
# wrong with confidence. Seen with one label in twenty planted wrong: nine in ten of what is found, and half of them.
DOUBT, MOST_DOUBT = 0.0004, 0.06
NEIGHBOUR = 5
FAR_FROM_ALL, FAR_FROM_OWN = 3.3, 4.0  # robust deviations; seen on 7,900 pictures of three clean sets: none is beyond
FEWEST_OF_LABEL = 30  # images from which a label's own spread can be told
BLOCK = 500  # rows of one product

Floats = NDArray[np.float32]
Given = NDArray[np.bool_]
Probabilities = NDArray[np.float64]


@dataclass(frozen=True)
class Outlier:
    """An image unlike all others.

    Attributes:
        path: below the data set's root.
        distance: cosine distance to its fifth nearest neighbour.
    """

    path: str
    distance: float


class _Doubt(NamedTuple):
    """Why the label of one image is probably wrong: the chance of its own label, and that of the better one."""

    row: int
    own: float
    given: str
    better: str
    chance: float


def look(dataset: Dataset, samples: Sequence[Sample], vectors: Vectors) -> tuple[list[Suspect], list[Outlier]]:
    """Both lists for some samples of a data set, whose vectors float32 (N, D) are in the same order."""
    targets, paths = dataset.targets(samples), [sample.path for sample in samples]
    groups = [sample.group or sample.digest for sample in samples]
    return suspects(vectors, targets, paths, dataset.labels, groups), outliers(vectors, targets, paths)


def suspects(
    vectors: Vectors, targets: Targets, paths: Sequence[str], labels: Sequence[str], groups: Groups = None
) -> list[Suspect]:
    """The images whose labels are probably wrong, the most certain first.

    Args:
        vectors: float32 (N, D).
        targets: int (N,), or bool (N, C) where an image may have several labels.
        paths: of the N.
        labels: names of the C.
        groups: of each image, what shows the same and so must not answer for one another.
    """
    found: list[tuple[float, Suspect]] = []
    shuffled = np.random.default_rng(0).permutation(len(vectors))
    for rows in np.array_split(shuffled, math.ceil(len(vectors) / MOST_AT_ONCE)):
        doubts = _doubts(vectors, rows, targets[rows], labels, among(groups, rows))
        found += [
            (doubt.own, Suspect(paths[int(rows[doubt.row])], doubt.given, doubt.better, doubt.chance)) for doubt in doubts
        ]
    return [suspect for _, suspect in sorted(found, key=lambda pair: (pair[0], pair[1].path))]


def _doubts(vectors: Vectors, rows: NDArray[np.intp], targets: Targets, labels: Sequence[str], groups: Groups) -> list[_Doubt]:
    """Of some rows, with their targets and groups: of the labels that are frequent enough to be judged."""
    multilabel = targets.ndim == 2
    given = targets if multilabel else targets[:, None] == np.arange(len(labels))
    counts = given.sum(axis=0)
    frequent = np.flatnonzero((counts >= FEWEST_TO_JUDGE) & (len(given) - counts >= FEWEST_TO_JUDGE))
    if len(frequent) < (1 if multilabel else 2):
        return []
    judged = np.arange(len(given)) if multilabel else np.flatnonzero(given[:, frequent].any(axis=1))
    own = given[judged][:, frequent]
    wanted = own if multilabel else own.argmax(axis=1)
    said = out_of_fold(vectors[rows[judged]][None], wanted, STRENGTH, FOLDS, seed=0, groups=among(groups, judged))
    judge = _of_many if multilabel else _of_one
    doubts = judge(said.astype(np.float64), own, [labels[label] for label in frequent.tolist()])
    return [doubt._replace(row=int(judged[doubt.row])) for doubt in doubts]


def _of_one(said: Probabilities, own: Given, names: Sequence[str]) -> list[_Doubt]:
    given = own.argmax(axis=1)
    rows = [(row, int(given[row]), better) for row, better in enumerate(doubtful(said, given).tolist()) if better >= 0]
    return [_Doubt(row, said[row, was], names[was], names[better], float(said[row, better])) for row, was, better in rows]


def _of_many(said: Probabilities, own: Given, names: Sequence[str]) -> list[_Doubt]:
    """Each label by itself: has an image it, or not? An image is named once, with all its labels set right."""
    wrong, surest = np.zeros(own.shape, bool), np.zeros(len(own))
    for label in range(own.shape[1]):
        has = own[:, label].astype(np.int64)
        both = np.stack([1 - said[:, label], said[:, label]], axis=1)
        wrong[:, label] = doubtful(both, has) >= 0
        surest = np.maximum(surest, np.where(wrong[:, label], both[np.arange(len(has)), 1 - has], 0))
    mended = own ^ wrong
    return [
        _Doubt(row, float(1 - surest[row]), _named(own[row], names), _named(mended[row], names), float(surest[row]))
        for row in np.flatnonzero(wrong.any(axis=1)).tolist()
    ]


def _named(chosen: Given, names: Sequence[str]) -> str:
    return ", ".join(name for name, true in zip(names, chosen.tolist(), strict=True) if true) or "no label"


def doubtful(said: Probabilities, own: NDArray[np.int64]) -> NDArray[np.int64]:
    """The label that each image probably has instead of its own, or -1 where its own may stand: int (N,).

    Confident learning (Northcutt et al. 2021): another label must have at least the probability that it usually has where
    it was given. And its own must have next to none.

    Args:
        said: out of fold, float64 (N, C).
        own: the given labels, int (N,).
    """
    self_confidence = said[np.arange(len(own)), own]
    counts = np.bincount(own, minlength=said.shape[1])
    usual = np.bincount(own, self_confidence, minlength=said.shape[1]) / np.maximum(counts, 1)
    confident = np.where(said >= np.maximum(usual, SURE), said, 0)
    best = confident.argmax(axis=1)
    error_rate = max(float((said.argmax(axis=1) != own).mean()), 1e-6)
    doubted = (confident.max(axis=1) > 0) & (best != own) & (self_confidence < min(MOST_DOUBT, DOUBT / error_rate**2))
    return np.where(doubted, best, -1)


def outliers(vectors: Vectors, targets: Targets, paths: Sequence[str]) -> list[Outlier]:
    """The images that are unlike all others, or far more alone than others of their label; the strangest first.

    Args:
        vectors: float32 (N, D).
        targets: int (N,), or bool (N, C) where an image may have several labels.
        paths: of the N.
    """
    if len(vectors) <= FEWEST_OF_LABEL:
        return []
    distances = _alone(vectors)
    logarithms = np.log(distances + 1e-6)
    alone = _deviations(logarithms, np.ones(len(vectors), bool)) > FAR_FROM_ALL
    for label in range(targets.shape[1] if targets.ndim == 2 else targets.max() + 1):
        own = targets[:, label] if targets.ndim == 2 else targets == label
        if own.sum() >= FEWEST_OF_LABEL:
            alone |= own & (_deviations(logarithms, own) > FAR_FROM_OWN)
    rows = np.flatnonzero(alone)
    return [Outlier(paths[row], float(distances[row])) for row in rows[np.argsort(-distances[rows], kind="stable")]]


def _alone(vectors: Vectors) -> NDArray[np.float64]:
    """Each image's cosine distance to its fifth nearest neighbour among at most MOST_AT_ONCE others, float64 (N,)."""
    reference = np.sort(np.random.default_rng(0).permutation(len(vectors))[:MOST_AT_ONCE])
    others = unit(vectors[reference])
    place = np.full(len(vectors), -1)
    place[reference] = np.arange(len(reference))

    def distances(start: int) -> Floats:
        likeness = unit(vectors[start : start + BLOCK]) @ others.T
        own = place[start : start + BLOCK]
        likeness[np.flatnonzero(own >= 0), own[own >= 0]] = -np.inf  # nobody is a neighbour of oneself
        likeness.partition(likeness.shape[1] - NEIGHBOUR, axis=1)
        return 1 - likeness[:, -NEIGHBOUR]

    with threadpool_limits(ONE_THREAD):  # out here, because the limit is the whole process's
        found = list(each(distances, range(0, len(vectors), BLOCK), cores()))
    return np.maximum(np.concatenate(found), 0).astype(np.float64)


def _deviations(values: NDArray[np.float64], among: Given) -> NDArray[np.float64]:
    """How many robust standard deviations each value lies above the median of some of them."""
    median = np.median(values[among])
    spread = 1.4826 * np.median(np.abs(values[among] - median))
    return (values - median) / max(float(spread), 0.05)


def findings(wrong: Sequence[Suspect], strange: Sequence[Outlier]) -> list[Finding]:
    """A warning for each, so that the audit lists them with everything else."""
    found = []
    for suspect in wrong:
        names = f"labelled {plain(suspect.given)}, looks like {plain(suspect.suggested)}"
        text = f"{plain(suspect.path)} is {names} ({suspect.probability:.0%})"
        found.append(Finding(KIND, "warning", text, (suspect.path,)))
    for outlier in strange:
        text = f"{plain(outlier.path)} is unlike all other images"
        found.append(Finding("outlier", "warning", text, (outlier.path,)))
    return found

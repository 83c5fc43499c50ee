"""Which images look out of place, and which labels look wrong: judged by the backbone's vectors. No images, no torch.

Both are lists for a person to look through, so few false alarms count for more than finding everything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.findings import Finding
from training.quality import printable

ONE_THREAD = 1  # the products are small: more threads gain little, and on a busy machine wait for each other
WIDTH = 256  # principal components that labels are judged by; more are slower and not more telling
STRENGTH = 1.5  # over the number of images: sklearn's C on components of unit scale; errors must not be learned by heart
FOLDS = 5
MOST_LEARNED = 5_000  # images that one fold's model learns from, and that distances are measured to
SURE = 0.5  # what the suggested label must have at least
DOUBT, MOST_DOUBT = 0.01, 0.15  # the given label may have DOUBT / (the model's own error rate), never more than MOST_DOUBT
NEIGHBOUR = 5
FAR_FROM_ALL, FAR_FROM_OWN = 3.3, 4.0  # robust deviations; seen on 7,900 pictures of three clean sets: none is beyond
FEWEST_OF_LABEL = 30  # images from which a label's own spread can be told
BLOCK = 2_000  # rows of one product

Floats = NDArray[np.float32]
Given = NDArray[np.bool_]


@dataclass(frozen=True)
class Suspect:
    """An image whose label is probably wrong.

    Attributes:
        given, suggested: names of labels; several are joined by commas.
        probability: of the suggested label, by a model that did not learn from this image.
    """

    path: str
    given: str
    suggested: str
    probability: float


@dataclass(frozen=True)
class Outlier:
    """An image unlike all others.

    Attributes:
        path: below the data set's root.
        distance: cosine distance to its fifth nearest neighbour.
    """

    path: str
    distance: float


def suspects(vectors: Floats, given: Given, paths: Sequence[str], labels: Sequence[str], multilabel: bool) -> list[Suspect]:
    """The images whose labels are probably wrong, the most certain first.

    Args:
        vectors: float32 (N, D).
        given: which labels each image has, bool (N, C); exactly one each unless `multilabel`.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(ONE_THREAD):
        components = _components(vectors)
        judge = _wrong_of_many if multilabel else _wrong_of_one
        return judge(components, given, paths, labels)


def _wrong_of_one(components: Floats, given: Given, paths: Sequence[str], labels: Sequence[str]) -> list[Suspect]:
    targets = given.argmax(axis=1)
    probabilities = out_of_fold(components, targets, len(labels))
    suggested = doubtful(probabilities, targets)
    rows = np.flatnonzero(suggested >= 0)
    return [
        Suspect(paths[row], labels[targets[row]], labels[suggested[row]], float(probabilities[row, suggested[row]]))
        for row in rows[np.argsort(probabilities[rows, targets[rows]], kind="stable")]
    ]


def _wrong_of_many(components: Floats, given: Given, paths: Sequence[str], labels: Sequence[str]) -> list[Suspect]:
    """Each label by itself: has an image it, or not? An image is named once, with all its labels set right."""
    wrong = np.zeros(given.shape, bool)
    surest = np.zeros(len(given))
    for label in range(given.shape[1]):
        targets = given[:, label].astype(np.int64)
        probabilities = out_of_fold(components, targets, 2)
        wrong[:, label] = doubtful(probabilities, targets) >= 0
        against = probabilities[np.arange(len(targets)), 1 - targets]
        surest = np.where(wrong[:, label], np.maximum(surest, against), surest)
    rows = np.flatnonzero(wrong.any(axis=1))
    rows = rows[np.argsort(-surest[rows], kind="stable")]
    mended = given ^ wrong
    return [Suspect(paths[row], _named(given[row], labels), _named(mended[row], labels), float(surest[row])) for row in rows]


def _named(chosen: Given, labels: Sequence[str]) -> str:
    return ", ".join(labels[label] for label in np.flatnonzero(chosen)) or "no label"


def _components(vectors: Floats) -> Floats:
    """The vectors' principal components, of unit scale together: float32 (N, WIDTH or fewer)."""
    from sklearn.decomposition import PCA

    chosen = _some(len(vectors))
    width = min(WIDTH, vectors.shape[1], len(chosen) - 1)
    model = PCA(width, svd_solver="randomized", random_state=0).fit(vectors[chosen])
    scale = float(np.sqrt(vectors[chosen].var(axis=0).mean())) or 1.0
    components: Floats = (model.transform(vectors) / scale).astype(np.float32)
    return components


def _some(n: int) -> NDArray[np.int64]:
    """At most MOST_LEARNED of n rows, ascending."""
    if n <= MOST_LEARNED:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, MOST_LEARNED, replace=False))


def out_of_fold(components: Floats, targets: NDArray[np.int64], n_labels: int) -> NDArray[np.float64]:
    """What logistic regression says of each image that it did not learn from, float64 (N, C); NaN where it cannot.

    That is where an image's own label has fewer images than there are folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    probabilities = np.full((len(targets), n_labels), np.nan)
    known = np.flatnonzero(np.bincount(targets, minlength=n_labels)[targets] >= FOLDS)
    if len(np.unique(targets[known])) < 2:
        return probabilities
    for learn, check in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(known, targets[known]):
        chosen = known[learn[_some(len(learn))]]
        model = LogisticRegression(C=STRENGTH / len(chosen), max_iter=200, tol=1e-3).fit(components[chosen], targets[chosen])
        said = np.zeros((len(check), n_labels))
        said[:, model.classes_] = model.predict_proba(components[known[check]])
        probabilities[known[check]] = said
    return probabilities


def doubtful(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """The label that each image probably has instead of its own, or -1 where its own may stand: int (N,).

    Confident learning (Northcutt et al. 2021): another label must have at least the probability that it usually has where
    it was given. And because a weak model is confidently wrong by itself, the given label must be the less probable the
    more often the model errs.

    Args:
        probabilities: out of fold, float (N, C); rows of NaN are not judged.
        targets: the given labels, int (N,).
    """
    rows, suggested = np.flatnonzero(~np.isnan(probabilities[:, 0])), np.full(len(targets), -1)
    if not len(rows):
        return suggested
    said, own = probabilities[rows], targets[rows]
    self_confidence = said[np.arange(len(rows)), own]
    counts = np.bincount(own, minlength=said.shape[1])
    usual = np.bincount(own, self_confidence, minlength=said.shape[1]) / np.maximum(counts, 1)
    confident = np.where((said >= np.maximum(usual, SURE)) & (counts > 0), said, 0)
    best = confident.argmax(axis=1)
    error_rate = max(float((said.argmax(axis=1) != own).mean()), 1e-6)
    doubted = (confident.max(axis=1) > 0) & (best != own) & (self_confidence < min(MOST_DOUBT, DOUBT / error_rate))
    suggested[rows[doubted]] = best[doubted]
    return suggested


def outliers(vectors: Floats, given: Given, paths: Sequence[str]) -> list[Outlier]:
    """The images that are unlike all others, or far more alone than others of their label; the strangest first.

    Args:
        vectors: float32 (N, D).
        given: which labels each image has, bool (N, C).
    """
    from threadpoolctl import threadpool_limits

    if len(vectors) <= FEWEST_OF_LABEL:
        return []
    with threadpool_limits(ONE_THREAD):
        distances = _alone(vectors)
    logarithms = np.log(distances + 1e-6)
    alone = _deviations(logarithms, np.ones(len(vectors), bool)) > FAR_FROM_ALL
    for label in range(given.shape[1]):
        if given[:, label].sum() >= FEWEST_OF_LABEL:
            alone |= given[:, label] & (_deviations(logarithms, given[:, label]) > FAR_FROM_OWN)
    rows = np.flatnonzero(alone)
    return [Outlier(paths[row], float(distances[row])) for row in rows[np.argsort(-distances[rows], kind="stable")]]


def _alone(vectors: Floats) -> NDArray[np.float64]:
    """Each image's cosine distance to its fifth nearest neighbour among at most MOST_LEARNED others, float64 (N,)."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    reference = _some(len(unit))
    place = np.full(len(unit), -1)
    place[reference] = np.arange(len(reference))
    distances = np.zeros(len(unit))
    for start in range(0, len(unit), BLOCK):
        likeness = unit[start : start + BLOCK] @ unit[reference].T
        own = place[start : start + BLOCK]
        likeness[np.flatnonzero(own >= 0), own[own >= 0]] = -np.inf  # nobody is a neighbour of oneself
        distances[start : start + BLOCK] = 1 - np.partition(likeness, -NEIGHBOUR, axis=1)[:, -NEIGHBOUR]
    return np.maximum(distances, 0)


def _deviations(values: NDArray[np.float64], among: Given) -> NDArray[np.float64]:
    """How many robust standard deviations each value lies above the median of some of them."""
    median = np.median(values[among])
    spread = 1.4826 * np.median(np.abs(values[among] - median))
    return (values - median) / max(float(spread), 0.05)


def findings(wrong: Sequence[Suspect], strange: Sequence[Outlier]) -> list[Finding]:
    """A warning for each, so that the audit lists them with everything else."""
    found = []
    for suspect in wrong:
        names = f"labelled {printable(suspect.given)}, looks like {printable(suspect.suggested)}"
        text = f"{printable(suspect.path)} is {names} ({suspect.probability:.0%})"
        found.append(Finding("label-error", "warning", text, (suspect.path,)))
    for outlier in strange:
        text = f"{printable(outlier.path)} is unlike all other images"
        found.append(Finding("outlier", "warning", text, (outlier.path,)))
    return found

"""How each label fares, and the scores that are put together from that. Numpy only.

Every share's interval is Wilson's, and every mean over labels puts theirs together, so that a label of two test images
brings its own doubt with it.
"""

import numpy as np
from numpy.typing import NDArray

from graft.service.artifact import Calibration
from graft.service.inference.postprocess import given
from graft.training.evaluation import confidence_intervals
from graft.training.evaluation.confidence_intervals import design_effect, mean_of, share
from graft.training.results import Estimate, LabelScores

Floats = NDArray[np.float64]


def average_precision(scores: NDArray[np.floating], targets: NDArray[np.bool_]) -> tuple[float, Floats]:
    """One label's average precision: the mean, over the images that have it, of the precision down to them.

    Images of equal score count as one step, as in scikit-learn: their order means nothing.

    Args:
        scores: (N,), higher is more likely.
        targets: (N,), which images have the label.

    Returns:
        The value in [0, 1], NaN if no image has the label; and its derivative (N,) by each image's weight (the
        infinitesimal jackknife, Jaeckel 1972), whose squares sum to the value's variance.
    """
    n_positive = int(targets.sum())
    if n_positive == 0:
        return float("nan"), np.zeros(len(targets))
    order = np.argsort(-scores, kind="stable")
    ranked, has = scores[order], targets[order].astype(np.float64)
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    step = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=-1))
    found, looked_at = has.cumsum()[ends][step], (ends + 1.0)[step]
    value = float((has * found / looked_at).sum() / n_positive)
    # An image raises `found` and `looked_at` of every image that is ranked no higher than itself.
    starts = np.append(0, ends[:-1] + 1)
    more_found = _from_here_on(has / looked_at)[starts][step]
    more_looked_at = _from_here_on(has * found / looked_at**2)[starts][step]
    influence = np.empty(len(targets))
    influence[order] = has * (found / looked_at - value + more_found) - more_looked_at
    return value, influence / n_positive


def _from_here_on(values: Floats) -> Floats:
    return values[::-1].cumsum()[::-1]


def average_precisions(scores: NDArray[np.floating], targets: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Every label's average precision, (C,), and the images' influences, (N, C), of scores and targets (N, C)."""
    pairs = [average_precision(scores[:, label], targets[:, label]) for label in range(targets.shape[1])]
    return np.array([value for value, _ in pairs]), np.stack([influence for _, influence in pairs], axis=1)


Counts = NDArray[np.int64]
Table = tuple[dict[str, Estimate], tuple[LabelScores, ...]]


def single(chances: Floats, targets: Counts, labels: tuple[str, ...], calibration: Calibration) -> Table:
    """Accuracy, top-5 and balanced accuracy, and each label's scores, where every image has one label.

    Args:
        chances: float64 (N, C), calibrated; N > 0.
        targets: int64 (N,).
    """
    counts = confusion(chances, targets)
    right, support, said = (each.tolist() for each in (counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)))
    above = _above(chances, targets, calibration)
    by_label = tuple(
        LabelScores(
            label=label,
            support=support[c],
            precision=share(right[c], said[c]),
            recall=share(right[c], support[c]),
            f1=confidence_intervals.f1(right[c], support[c] + said[c] - right[c]),
            threshold=calibration.thresholds[c],
            precision_above=above[c],
        )
        for c, label in enumerate(labels)
    )
    found = {"accuracy": share(sum(right), len(targets))}
    if len(labels) > 5:
        found["top5"] = share(_n_in_top(chances, targets, 5), len(targets))
    found["balanced_accuracy"] = _balanced(counts)
    return _known(found), by_label


def several(chances: Floats, targets: NDArray[np.bool_], labels: tuple[str, ...], calibration: Calibration) -> Table:
    """Mean average precision, F1 and exact match, and each label's scores, where an image may have several labels.

    Args:
        chances: float64 (N, C), calibrated; N > 0.
        targets: bool (N, C).

    Raises:
        ValueError: if no image has any label.
    """
    said = given(chances, np.array(calibration.thresholds, np.float64))
    right, support, n_said = (each.sum(axis=0).tolist() for each in (said & targets, targets, said))
    mean_precision, precisions = macro_precision(*average_precisions(chances, targets), targets)
    by_label = tuple(
        LabelScores(
            label=label,
            support=support[c],
            precision=share(right[c], n_said[c]),
            recall=share(right[c], support[c]),
            f1=confidence_intervals.f1(right[c], support[c] + n_said[c] - right[c]),
            average_precision=precisions[c],
            threshold=calibration.thresholds[c],
            precision_above=share(right[c], n_said[c]),
        )
        for c, label in enumerate(labels)
    )
    found = {
        "map": mean_precision,
        "micro_f1": _micro_f1(said, targets),
        "macro_f1": _macro_f1(said, targets),
        "exact_match": share(int((said == targets).all(axis=1).sum()), len(targets)),
    }
    return _known(found), by_label


def _known(found: dict[str, Estimate | None]) -> dict[str, Estimate]:
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def confusion(chances: Floats, labels: Counts) -> Counts:
    """How many images of each label (row) were given each label (column): int64 (C, C)."""
    n_labels = chances.shape[1]
    cells = labels * n_labels + chances.argmax(axis=1)
    return np.bincount(cells, minlength=n_labels**2).reshape(n_labels, n_labels)


def _above(chances: Floats, targets: Counts, calibration: Calibration) -> list[Estimate | None]:
    """How often each label was right where it was given with at least its threshold's probability."""
    said, top = chances.argmax(axis=1), chances.max(axis=1)
    # Where there is no threshold, nothing is probable enough.
    least = np.array([2.0 if threshold is None else threshold for threshold in calibration.thresholds])[said]
    n_said = np.bincount(said[top >= least], minlength=chances.shape[1]).tolist()
    n_right = np.bincount(said[(top >= least) & (said == targets)], minlength=chances.shape[1]).tolist()
    return [share(right, n) for right, n in zip(n_right, n_said, strict=True)]


def _n_in_top(chances: Floats, targets: Counts, k: int) -> int:
    """In how many images the right label is among the k most probable; equal ones in the labels' own order."""
    own = chances[np.arange(len(targets)), targets][:, None]
    earlier = np.arange(chances.shape[1]) < targets[:, None]
    n_before = (chances > own).sum(axis=1) + ((chances == own) & earlier).sum(axis=1)
    return int((n_before < k).sum())


def macro_precision(
    values: Floats, influences: Floats, targets: NDArray[np.bool_]
) -> tuple[Estimate, tuple[Estimate | None, ...]]:
    """The mean average precision and each label's, None for a label that no image has.

    A label's is taken for a share of the images that have it (Boyd, Eng & Page 2013, "Area under the Precision-Recall
    Curve: Point Estimates and Confidence Intervals": this holds where they are few).

    Args:
        values, influences: (C,) and (N, C), as from `average_precisions`.
        targets: bool (N, C).

    Raises:
        ValueError: if no image has any label.
    """
    counts = targets.sum(axis=0).tolist()
    found = tuple(share(value * n, n) if n else None for value, n in zip(values.tolist(), counts, strict=True))
    known = np.array(counts) > 0
    if not known.any():
        raise ValueError("None of the images has any label, so there is nothing to rank.")
    return mean_of(values[known], np.array(counts, np.float64)[known], design_effect(influences)), found


def _micro_f1(said: NDArray[np.bool_], targets: NDArray[np.bool_]) -> Estimate | None:
    """F1 of all labels of all images together; what an image says about several labels does not count as independent."""
    both, either = (said & targets).sum(axis=1), (said | targets).sum(axis=1)
    if either.sum() == 0:
        return None
    jaccard = float(both.sum() / either.sum())
    independent = jaccard * (1 - jaccard) * float(either.sum())
    effect = float(((both - jaccard * either) ** 2).sum()) / independent if independent > 0 else 1.0
    return confidence_intervals.f1(float(both.sum()), float(either.sum()), effect)


def _macro_f1(said: NDArray[np.bool_], targets: NDArray[np.bool_]) -> Estimate | None:
    """The mean over the labels that any image has or was given."""
    both, either = ((each).sum(axis=0).astype(np.float64) for each in (said & targets, said | targets))
    known = either > 0
    if not known.any():
        return None
    jaccard, total = both[known] / either[known], (either + both)[known]
    values = 2 * jaccard / (1 + jaccard)
    influences = (2.0 * (said & targets)[:, known] - values * (said.astype(int) + targets)[:, known]) / total
    # F1 varies as a share of this many would; see `intervals.f1`.
    return mean_of(values, either[known] * (1 + jaccard) ** 2 / 2, design_effect(influences))


def _balanced(counts: Counts) -> Estimate:
    """The mean recall, of the labels that any image has."""
    support = counts.sum(axis=1)
    known = support > 0
    return mean_of(counts.diagonal()[known] / support[known], support[known].astype(np.float64))

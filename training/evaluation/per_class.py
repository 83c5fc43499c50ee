"""Per-class metrics, and the metrics averaged over classes. Numpy only.

Every proportion has a Wilson interval, and every mean over labels combines theirs, so that a label with two test images adds
its own uncertainty.
"""

import numpy as np
from numpy.typing import NDArray

from graft.service.inference.postprocess import above_threshold
from graft.service.manifest import Calibration
from graft.training.evaluation import confidence_intervals
from graft.training.evaluation.confidence_intervals import design_effect, macro_mean_interval, proportion
from graft.training.results import Estimate, LabelScores

Floats = NDArray[np.float64]


def average_precision(scores: NDArray[np.floating], targets: NDArray[np.bool_]) -> tuple[float, Floats]:
    """One label's average precision: the mean precision at the rank of each positive image.

    Images with equal scores are one step, as in scikit-learn, because their order is arbitrary.

    Args:
        scores: (N,), higher is more likely.
        targets: (N,), whether each image has the label.

    Returns:
        The value in [0, 1], NaN if no image has the label; and its derivative (N,) with respect to each image's weight (the
        infinitesimal jackknife, Jaeckel 1972), whose squares sum to the value's variance.
    """
    n_positive = int(targets.sum())
    if n_positive == 0:
        return float("nan"), np.zeros(len(targets))
    order = np.argsort(-scores, kind="stable")
    ranked, positive = scores[order], targets[order].astype(np.float64)
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    step = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=-1))
    true_positives, retrieved = positive.cumsum()[ends][step], (ends + 1.0)[step]
    value = float((positive * true_positives / retrieved).sum() / n_positive)
    # An image adds to `true_positives` and `retrieved` of every image that is ranked no higher than itself.
    starts = np.append(0, ends[:-1] + 1)
    gain = _suffix_sums(positive / retrieved)[starts][step]
    loss = _suffix_sums(positive * true_positives / retrieved**2)[starts][step]
    influence = np.empty(len(targets))
    influence[order] = positive * (true_positives / retrieved - value + gain) - loss
    return value, influence / n_positive


def _suffix_sums(values: Floats) -> Floats:
    return values[::-1].cumsum()[::-1]


def average_precisions(scores: NDArray[np.floating], targets: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Average precision of every label, (C,), and the influences of the images, (N, C), from scores and targets (N, C)."""
    pairs = [average_precision(scores[:, label], targets[:, label]) for label in range(targets.shape[1])]
    return np.array([value for value, _ in pairs]), np.stack([influence for _, influence in pairs], axis=1)


Counts = NDArray[np.int64]
MetricsTable = tuple[dict[str, Estimate], tuple[LabelScores, ...]]


def multiclass_metrics(
    probabilities: Floats, targets: Counts, labels: tuple[str, ...], calibration: Calibration
) -> MetricsTable:
    """Accuracy, top-5 and balanced accuracy, and per-class metrics, for data with one label per image.

    Args:
        probabilities: float64 (N, C), calibrated; N > 0.
        targets: int64 (N,).
    """
    counts = confusion_matrix(probabilities, targets)
    correct, support, n_predicted = (axis.tolist() for axis in (counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)))
    precision_above = _precision_above_thresholds(probabilities, targets, calibration)
    by_label = tuple(
        LabelScores(
            label=label,
            support=support[c],
            precision=proportion(correct[c], n_predicted[c]),
            recall=proportion(correct[c], support[c]),
            f1=confidence_intervals.f1_interval(correct[c], support[c] + n_predicted[c] - correct[c]),
            threshold=calibration.thresholds[c],
            precision_above=precision_above[c],
        )
        for c, label in enumerate(labels)
    )
    metrics = {"accuracy": proportion(sum(correct), len(targets))}
    if len(labels) > 5:
        metrics["top5"] = proportion(_n_top_k_correct(probabilities, targets, 5), len(targets))
    metrics["balanced_accuracy"] = _balanced_accuracy(counts)
    return _drop_missing(metrics), by_label


def multilabel_metrics(
    probabilities: Floats, targets: NDArray[np.bool_], labels: tuple[str, ...], calibration: Calibration
) -> MetricsTable:
    """Mean average precision, F1 and exact match, and per-class metrics, for multi-label data.

    Args:
        probabilities: float64 (N, C), calibrated; N > 0.
        targets: bool (N, C).

    Raises:
        ValueError: if no image has any label.
    """
    predicted = above_threshold(probabilities, np.array(calibration.thresholds, np.float64))
    correct, support, n_predicted = (mask.sum(axis=0).tolist() for mask in (predicted & targets, targets, predicted))
    mean_precision, precisions = macro_average_precision(*average_precisions(probabilities, targets), targets)
    by_label = tuple(
        LabelScores(
            label=label,
            support=support[c],
            precision=proportion(correct[c], n_predicted[c]),
            recall=proportion(correct[c], support[c]),
            f1=confidence_intervals.f1_interval(correct[c], support[c] + n_predicted[c] - correct[c]),
            average_precision=precisions[c],
            threshold=calibration.thresholds[c],
            precision_above=proportion(correct[c], n_predicted[c]),
        )
        for c, label in enumerate(labels)
    )
    metrics = {
        "map": mean_precision,
        "micro_f1": _micro_f1(predicted, targets),
        "macro_f1": _macro_f1(predicted, targets),
        "exact_match": proportion(int((predicted == targets).all(axis=1).sum()), len(targets)),
    }
    return _drop_missing(metrics), by_label


def _drop_missing(metrics: dict[str, Estimate | None]) -> dict[str, Estimate]:
    return {name: estimate for name, estimate in metrics.items() if estimate is not None}


def confusion_matrix(probabilities: Floats, labels: Counts) -> Counts:
    """Confusion matrix: number of images of each true label (row) per predicted label (column), int64 (C, C)."""
    n_labels = probabilities.shape[1]
    cells = labels * n_labels + probabilities.argmax(axis=1)
    return np.bincount(cells, minlength=n_labels**2).reshape(n_labels, n_labels)


def _precision_above_thresholds(probabilities: Floats, targets: Counts, calibration: Calibration) -> list[Estimate | None]:
    """Precision of each label among the images predicted with at least its threshold's probability."""
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    # A label without a threshold gets one that no probability reaches.
    thresholds = np.array([2.0 if threshold is None else threshold for threshold in calibration.thresholds])[predicted]
    above = confidence >= thresholds
    n_predicted = np.bincount(predicted[above], minlength=probabilities.shape[1]).tolist()
    n_correct = np.bincount(predicted[above & (predicted == targets)], minlength=probabilities.shape[1]).tolist()
    return [proportion(correct, n) for correct, n in zip(n_correct, n_predicted, strict=True)]


def _n_top_k_correct(probabilities: Floats, targets: Counts, k: int) -> int:
    """Number of images with the true label among the k most probable; ties are broken by label index."""
    target_probability = probabilities[np.arange(len(targets)), targets][:, None]
    lower_index = np.arange(probabilities.shape[1]) < targets[:, None]
    rank = (probabilities > target_probability).sum(axis=1) + ((probabilities == target_probability) & lower_index).sum(axis=1)
    return int((rank < k).sum())


def macro_average_precision(
    values: Floats, influences: Floats, targets: NDArray[np.bool_]
) -> tuple[Estimate, tuple[Estimate | None, ...]]:
    """Mean average precision and the average precision of each label, None for a label without images.

    A label's interval is that of a proportion of its images (Boyd, Eng & Page 2013, "Area under the Precision-Recall
    Curve: Point Estimates and Confidence Intervals": valid for few images).

    Args:
        values, influences: (C,) and (N, C), from `average_precisions`.
        targets: bool (N, C).

    Raises:
        ValueError: if no image has any label.
    """
    counts = targets.sum(axis=0).tolist()
    by_label = tuple(proportion(value * n, n) if n else None for value, n in zip(values.tolist(), counts, strict=True))
    present = np.array(counts) > 0
    if not present.any():
        raise ValueError("None of the images has any label, so there is nothing to rank.")
    return macro_mean_interval(values[present], np.array(counts, np.float64)[present], design_effect(influences)), by_label


def _micro_f1(predicted: NDArray[np.bool_], targets: NDArray[np.bool_]) -> Estimate | None:
    """F1 over all (image, label) pairs. The pairs of one image do not count as independent."""
    intersection, union = (predicted & targets).sum(axis=1), (predicted | targets).sum(axis=1)
    if union.sum() == 0:
        return None
    jaccard = float(intersection.sum() / union.sum())
    independent = jaccard * (1 - jaccard) * float(union.sum())
    inflation = float(((intersection - jaccard * union) ** 2).sum()) / independent if independent > 0 else 1.0
    return confidence_intervals.f1_interval(float(intersection.sum()), float(union.sum()), inflation)


def _macro_f1(predicted: NDArray[np.bool_], targets: NDArray[np.bool_]) -> Estimate | None:
    """Mean F1 of the labels that any image has or is predicted to have."""
    intersection, union = (mask.sum(axis=0).astype(np.float64) for mask in (predicted & targets, predicted | targets))
    present = union > 0
    if not present.any():
        return None
    jaccard, total = intersection[present] / union[present], (union + intersection)[present]
    values = 2 * jaccard / (1 + jaccard)
    influences = (2.0 * (predicted & targets)[:, present] - values * (predicted.astype(int) + targets)[:, present]) / total
    # The sample size at which a proportion has the variance of F1; see `confidence_intervals.f1_interval`.
    return macro_mean_interval(values, union[present] * (1 + jaccard) ** 2 / 2, design_effect(influences))


def _balanced_accuracy(counts: Counts) -> Estimate:
    """Mean recall of the labels that have images."""
    support = counts.sum(axis=1)
    present = support > 0
    return macro_mean_interval(counts.diagonal()[present] / support[present], support[present].astype(np.float64))

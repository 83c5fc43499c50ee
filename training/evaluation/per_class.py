"""Per-class metrics, and the metrics averaged over classes. Numpy only.

Every proportion has a Wilson interval, and every mean over labels combines theirs, so that a label with two test images adds
its own uncertainty. Images of one cluster do not count as independent.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graft.service.inference.postprocess import above_threshold, prediction_set
from graft.service.manifest import Calibration
from graft.training.evaluation.average_precision import average_precisions, macro_average_precision
from graft.training.evaluation.clusters import Clusters, are_single, inflation_of_sums, n_clusters, sum_by, variance_inflation
from graft.training.evaluation.confidence_intervals import f1_interval, macro_mean_interval, proportion, share
from graft.training.results import Estimate, LabelScores

Floats = NDArray[np.float64]


Counts = NDArray[np.int64]
MetricsTable = tuple[dict[str, Estimate], tuple[LabelScores, ...]]


class _Cases(NamedTuple):
    """The cases of a proportion of each label, K in all.

    Attributes:
        labels: int (K,), the label that each case counts for.
        successes: bool (K,).
        clusters: int64 (K,); None if no two images belong together.
    """

    labels: Counts
    successes: NDArray[np.bool_]
    clusters: Clusters | None


class _Pairs(NamedTuple):
    """Every pair of an image and a label that it has or is predicted to have, K in all.

    Attributes:
        images, labels: int (K,), each label in [0, C).
        is_predicted, is_true: bool (K,).
    """

    images: Counts
    labels: Counts
    is_predicted: NDArray[np.bool_]
    is_true: NDArray[np.bool_]


def multiclass_metrics(
    probabilities: Floats,
    targets: Counts,
    labels: tuple[str, ...],
    calibration: Calibration,
    clusters: Clusters | None = None,
) -> MetricsTable:
    """Accuracy, top-5 and balanced accuracy, macro F1, and per-class metrics, for data with one label per image.

    Args:
        probabilities: float64 (N, C), calibrated; N > 0.
        targets: int64 (N,).
        clusters: int64 (N,); None if every image is its own.
    """
    clusters = None if are_single(clusters) else clusters
    predicted, n_labels = probabilities.argmax(axis=1), len(labels)
    correct, wrong = predicted == targets, np.flatnonzero(predicted != targets)
    # An image counts for the Jaccard index of its true and of its predicted label: once if they are the same.
    either = np.concatenate([targets, predicted[wrong]])
    in_both = np.concatenate([correct, np.zeros(len(wrong), bool)])
    twice = None if clusters is None else np.concatenate([clusters, clusters[wrong]])
    columns = (
        np.bincount(targets, minlength=n_labels).tolist(),
        _by_label(proportion, _Cases(predicted, correct, clusters), n_labels),
        _by_label(proportion, _Cases(targets, correct, clusters), n_labels),
        _by_label(f1_interval, _Cases(either, in_both, twice), n_labels),
        calibration.thresholds,
        _precision_above_thresholds(probabilities, targets, calibration, clusters),
        _set_coverage(probabilities, targets, calibration, clusters),
        calibration.covered_by_label,
    )
    by_label = tuple(
        LabelScores(
            label=label,
            support=support,
            precision=precision,
            recall=recall,
            f1=f1,
            threshold=threshold,
            precision_above=precision_above,
            coverage=coverage,
            covered_by_label=covered_by_label,
        )
        for label, support, precision, recall, f1, threshold, precision_above, coverage, covered_by_label in zip(
            labels, *columns, strict=True
        )
    )
    metrics = {"accuracy": share(correct, clusters)}
    if n_labels > 5:
        metrics["top5"] = share(_is_in_top_k(probabilities, targets, 5), clusters)
    metrics["balanced_accuracy"] = _balanced_accuracy(correct, targets, n_labels, clusters)
    images = np.concatenate([np.arange(len(targets)), wrong])
    is_true = np.arange(len(images)) < len(targets)
    metrics["macro_f1"] = _macro_f1(_Pairs(images, either, in_both | ~is_true, is_true), clusters)
    return metrics, by_label


def multilabel_metrics(
    probabilities: Floats,
    targets: NDArray[np.bool_],
    labels: tuple[str, ...],
    calibration: Calibration,
    clusters: Clusters | None = None,
) -> MetricsTable:
    """Mean average precision, F1 and exact match, and per-class metrics, for multi-label data.

    Args:
        probabilities: float64 (N, C), calibrated; N > 0.
        targets: bool (N, C).
        clusters: int64 (N,); None if every image is its own.

    Raises:
        ValueError: if no image has any label.
    """
    clusters = None if are_single(clusters) else clusters
    predicted = above_threshold(probabilities, np.array(calibration.thresholds, np.float64))
    mean_precision, precisions = macro_average_precision(*average_precisions(probabilities, targets), targets, clusters)
    precision, recall, f1 = (
        _by_label(interval, _cases_where(mask, predicted & targets, clusters), len(labels))
        for interval, mask in ((proportion, predicted), (proportion, targets), (f1_interval, predicted | targets))
    )
    support = targets.sum(axis=0).tolist()
    by_label = tuple(
        LabelScores(
            label=label,
            support=support[c],
            precision=precision[c],
            recall=recall[c],
            f1=f1[c],
            average_precision=precisions[c],
            threshold=calibration.thresholds[c],
            precision_above=precision[c],
        )
        for c, label in enumerate(labels)
    )
    metrics = {
        "map": mean_precision,
        "micro_f1": _micro_f1(predicted, targets, clusters),
        "macro_f1": _macro_f1(_pairs(predicted, targets), clusters),
        "exact_match": share((predicted == targets).all(axis=1), clusters),
    }
    return {name: estimate for name, estimate in metrics.items() if estimate is not None}, by_label


def _cases_where(mask: NDArray[np.bool_], successes: NDArray[np.bool_], clusters: Clusters | None) -> _Cases:
    """The (image, label) pairs of a mask (N, C) as cases of their labels."""
    rows, columns = np.nonzero(mask)
    return _Cases(columns, successes[rows, columns], None if clusters is None else clusters[rows])


def _by_label(
    interval: Callable[[float, float, float], Estimate | None], cases: _Cases, n_labels: int
) -> list[Estimate | None]:
    """The estimate of each label from its successes, its cases, and the variance inflation of its clusters."""
    successes = np.bincount(cases.labels, cases.successes, minlength=n_labels).tolist()
    totals = np.bincount(cases.labels, minlength=n_labels).tolist()
    inflations = [1.0] * n_labels if cases.clusters is None else _inflations(cases, cases.clusters, n_labels)
    return [interval(*row) for row in zip(successes, totals, inflations, strict=True)]


def _inflations(cases: _Cases, clusters: Clusters, n_labels: int) -> list[float]:
    """The variance inflation of the proportion of each label."""
    if not len(clusters):
        return [1.0] * n_labels
    stride = n_clusters(clusters)
    pairs, index = np.unique(cases.labels * stride + clusters, return_inverse=True)
    sizes, sums = sum_by(index, np.ones(len(index))), sum_by(index, cases.successes.astype(np.float64))
    ends = np.searchsorted(pairs, stride * np.arange(1, n_labels))
    by_label = zip(np.split(sums, ends), np.split(sizes, ends), strict=True)
    return [_inflation(label_sums, label_sizes) for label_sums, label_sizes in by_label]


def _inflation(sums: Floats, sizes: Floats) -> float:
    if not len(sizes):
        return 1.0
    n_cases = float(sizes.sum())
    value = float(sums.sum()) / n_cases
    return inflation_of_sums(sums - value * sizes, sizes, n_cases * value * (1 - value))


def confusion_matrix(probabilities: Floats, labels: Counts) -> Counts:
    """Confusion matrix: number of images of each true label (row) per predicted label (column), int64 (C, C)."""
    n_labels = probabilities.shape[1]
    cells = labels * n_labels + probabilities.argmax(axis=1)
    return np.bincount(cells, minlength=n_labels**2).reshape(n_labels, n_labels)


def _precision_above_thresholds(
    probabilities: Floats, targets: Counts, calibration: Calibration, clusters: Clusters | None
) -> list[Estimate | None]:
    """Precision of each label among the images predicted with at least its threshold's probability."""
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    # A label without a threshold gets one that no probability reaches.
    thresholds = np.array([2.0 if threshold is None else threshold for threshold in calibration.thresholds])[predicted]
    above = confidence >= thresholds
    cases = _Cases(predicted[above], (predicted == targets)[above], None if clusters is None else clusters[above])
    return _by_label(proportion, cases, probabilities.shape[1])


def _set_coverage(
    probabilities: Floats, targets: Counts, calibration: Calibration, clusters: Clusters | None
) -> list[Estimate | None]:
    """How often the prediction set of an image contains its label, for each label."""
    in_set = prediction_set(probabilities, np.array(calibration.set_thresholds, np.float64))
    return _by_label(proportion, _Cases(targets, in_set[np.arange(len(targets)), targets], clusters), probabilities.shape[1])


def _is_in_top_k(probabilities: Floats, targets: Counts, k: int) -> NDArray[np.bool_]:
    """Whether the true label is among the k most probable, bool (N,); ties are broken by label index."""
    target_probability = probabilities[np.arange(len(targets)), targets][:, None]
    lower_index = np.arange(probabilities.shape[1]) < targets[:, None]
    rank = (probabilities > target_probability).sum(axis=1) + ((probabilities == target_probability) & lower_index).sum(axis=1)
    is_in: NDArray[np.bool_] = rank < k
    return is_in


def _micro_f1(predicted: NDArray[np.bool_], targets: NDArray[np.bool_], clusters: Clusters | None) -> Estimate | None:
    """F1 over all (image, label) pairs. The pairs of one image do not count as independent."""
    intersection, union = (predicted & targets).sum(axis=1), (predicted | targets).sum(axis=1)
    jaccard = float(intersection.sum() / union.sum())
    residuals = intersection - jaccard * union
    independent = jaccard * (1 - jaccard) * float(union.sum())
    inflation = float((residuals**2).sum()) / independent if independent > 0 else 1.0
    inflation *= variance_inflation(residuals, union.astype(np.float64), clusters)
    return f1_interval(float(intersection.sum()), float(union.sum()), inflation)


def _pairs(predicted: NDArray[np.bool_], targets: NDArray[np.bool_]) -> _Pairs:
    images, labels = np.nonzero(predicted | targets)
    return _Pairs(images, labels, predicted[images, labels], targets[images, labels])


def _macro_f1(pairs: _Pairs, clusters: Clusters | None) -> Estimate:
    """Mean F1 of the labels that any image has or is predicted to have."""
    in_both = pairs.is_predicted & pairs.is_true
    union = np.bincount(pairs.labels).astype(np.float64)
    intersection = np.bincount(pairs.labels, in_both)
    jaccard = intersection / np.maximum(union, 1)
    f1 = 2 * jaccard / (1 + jaccard)
    counted = pairs.is_predicted.astype(np.float64) + pairs.is_true
    influences = (2.0 * in_both - f1[pairs.labels] * counted) / (union + intersection)[pairs.labels]
    n_images = 0 if clusters is None else len(clusters)
    by_image = np.bincount(pairs.images, influences, n_images).astype(np.float64)
    weights = np.bincount(pairs.images, 1 / union[pairs.labels], n_images).astype(np.float64)
    inflation = variance_inflation(by_image, weights, clusters)
    # As `confidence_intervals.design_effect`, of the pairs alone: a matrix of all images and labels may not fit in memory.
    squares, present = float((influences**2).sum()), union > 0
    design_effect = float((by_image**2).sum()) / squares if squares > 0 else 1.0
    # The sample size at which a proportion has the variance of F1; see `confidence_intervals.f1_interval`.
    sizes = union[present] * (1 + jaccard[present]) ** 2 / 2 / inflation
    return macro_mean_interval(f1[present], sizes, design_effect)


def _balanced_accuracy(correct: NDArray[np.bool_], targets: Counts, n_labels: int, clusters: Clusters | None) -> Estimate:
    """Mean recall of the labels that have images."""
    support = np.bincount(targets, minlength=n_labels).astype(np.float64)
    present = support > 0
    recall = np.bincount(targets, correct, minlength=n_labels) / np.maximum(support, 1)
    weights = 1 / support[targets]
    inflation = variance_inflation((correct - recall[targets]) * weights, weights, clusters)
    return macro_mean_interval(recall[present], support[present] / inflation)

"""Finds label issues and outliers from the backbone's feature vectors. No images, no torch.

Both lists are for manual review, so high precision matters more than high recall. Every label has the probability that it is
wrong, so that a person can read on where the default list ends.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graft.service.inference.devices import available_cpus
from graft.service.inference.neighbors import l2_normalize
from graft.service.inference.thread_map import ordered_map
from graft.training.audit.label_noise import fit_label_noise
from graft.training.audit.label_ranking import LabelRanking
from graft.training.data.cross_validation import Groups, Targets, take_groups
from graft.training.data.dataset import Dataset, Sample
from graft.training.data.errors import printable
from graft.training.data.findings import Finding, LabelIssue
from graft.training.features.feature_arrays import Vectors, select_rows
from graft.training.features.head_trainer import CV_TOLERANCE, limit_blas_threads
from graft.training.features.linear_probe import out_of_fold_probabilities
from graft.training.runtime.progress import Progress

FINDING_KIND = "label-error"  # of a finding
REGULARIZATION_C = 1e-3  # strong regularization, so that the model does not memorize label errors
N_FOLDS = 5
MIN_IMAGES_PER_LABEL = 5  # images with a label, and images without it: one per fold; those of a group count once
MAX_CHUNK_SIZE = 5_000  # images per cross-validation, and reference images for distances
CHUNK_IMAGES_PER_LABEL = 10  # images per label in a chunk, on average, so that few labels have too few for the folds
MIN_SUGGESTED_PROBABILITY = 0.5  # minimum probability of the suggested label
# The given label's probability must be below SELF_CONFIDENCE_SCALE / error_rate**2: a model that is often wrong is often
# wrong with confidence. Measured with 5 % of the labels changed: precision 90 %, recall 50 %.
SELF_CONFIDENCE_SCALE, MAX_SELF_CONFIDENCE = 0.0004, 0.06
K_NEIGHBORS = 5
GLOBAL_OUTLIER_Z, LABEL_OUTLIER_Z = 3.3, 4.0  # robust z-scores; none of 7,900 images of three clean data sets exceeds them
MIN_IMAGES_FOR_OUTLIERS = 30  # images that are enough to estimate the spread within one label
BLOCK_SIZE = 500  # rows of one matrix product

Floats = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Probabilities = NDArray[np.float64]


@dataclass(frozen=True)
class Outlier:
    """An image that is far from all others.

    Attributes:
        path: relative to the data set's root.
        distance: cosine distance to its fifth nearest neighbor.
    """

    path: str
    distance: float


class _LabelIssue(NamedTuple):
    """One image: its given label, the one that it may have instead, and the probability of that one.

    Attributes:
        is_certain: whether the default list has it.
        error_probability: that the given label is wrong.
    """

    row: int
    given_label: str
    suggested_label: str
    probability: float
    is_certain: bool
    error_probability: float


def find_issues(dataset: Dataset, samples: Sequence[Sample], vectors: Vectors) -> tuple[LabelRanking, list[Outlier]]:
    """Returns the ranked labels, and the outliers among samples whose vectors, float32 (N, D), are in the same order.

    The result does not depend on that order, so that a check and a fit of the same images name the same ones.
    """
    order = np.array(sorted(range(len(samples)), key=lambda row: (samples[row].digest, samples[row].path)), np.intp)
    samples, vectors = [samples[row] for row in order.tolist()], select_rows(vectors, order)
    targets, paths = dataset.targets(samples), [sample.path for sample in samples]
    groups = [sample.group or sample.digest for sample in samples]
    return rank_labels(vectors, targets, paths, dataset.labels, groups), find_outliers(vectors, targets, paths)


def rank_labels(
    vectors: Vectors, targets: Targets, paths: Sequence[str], labels: Sequence[str], groups: Groups = None
) -> LabelRanking:
    """Ranks the images by the probability that their label is wrong; images of labels that are too rare are left out.

    Args:
        vectors: float32 (N, D).
        targets: int (N,), or bool (N, C) for multi-label data.
        paths: of the N images.
        labels: names of the C labels.
        groups: of each image; a group of near-duplicates is never split between training and validation folds.
    """
    results: list[tuple[bool, LabelIssue]] = []
    shuffled = np.random.default_rng(0).permutation(len(vectors))
    chunk_size = max(MAX_CHUNK_SIZE, CHUNK_IMAGES_PER_LABEL * len(labels))
    with Progress("looking for wrong labels", len(vectors), "images") as progress:
        for rows in np.array_split(shuffled, math.ceil(len(vectors) / chunk_size)):
            issues = _issues_in_chunk(vectors, rows, targets[rows], labels, take_groups(groups, rows))
            progress.advance(len(rows))
            results += [
                (issue.is_certain, LabelIssue(paths[int(rows[issue.row])], *issue[1:4], issue.error_probability))
                for issue in issues
            ]
    results.sort(key=lambda pair: (not pair[0], -pair[1].error_probability, pair[1].path))
    return LabelRanking(tuple(issue for _, issue in results), sum(is_certain for is_certain, _ in results))


def _issues_in_chunk(
    vectors: Vectors, rows: NDArray[np.intp], targets: Targets, labels: Sequence[str], groups: Groups
) -> list[_LabelIssue]:
    """Every image among some rows, given their targets and groups. Labels with too few images are skipped."""
    multilabel = targets.ndim == 2
    has_label = targets if multilabel else targets[:, None] == np.arange(len(labels))
    with_label, without_label = (_count_groups(mask, groups) for mask in (has_label, ~has_label))
    frequent = np.flatnonzero(np.minimum(with_label, without_label) >= MIN_IMAGES_PER_LABEL)
    if len(frequent) < (1 if multilabel else 2):
        return []
    selected = np.arange(len(has_label)) if multilabel else np.flatnonzero(has_label[:, frequent].any(axis=1))
    given = has_label[selected][:, frequent]
    fold_targets = given if multilabel else given.argmax(axis=1)
    probabilities = out_of_fold_probabilities(
        vectors[rows[selected]][None],
        fold_targets,
        REGULARIZATION_C,
        N_FOLDS,
        seed=0,
        groups=take_groups(groups, selected),
        tolerance=CV_TOLERANCE,
    )
    find = _multilabel_issues if multilabel else _multiclass_issues
    issues = find(probabilities.astype(np.float64), given, [labels[label] for label in frequent.tolist()])
    return [issue._replace(row=int(selected[issue.row])) for issue in issues]


def _count_groups(mask: BoolArray, groups: Groups) -> NDArray[np.intp]:
    """The number of groups with an image in each column of a mask (N, C): int (C,)."""
    index_of = {group: index for index, group in enumerate(dict.fromkeys(groups or range(len(mask))))}
    in_group = np.zeros((len(index_of), mask.shape[1]), bool)
    np.logical_or.at(in_group, [index_of[group] for group in groups or range(len(mask))], mask)
    counts: NDArray[np.intp] = in_group.sum(axis=0)
    return counts


def _multiclass_issues(probabilities: Probabilities, has_label: BoolArray, label_names: Sequence[str]) -> list[_LabelIssue]:
    given, rows = has_label.argmax(axis=1), np.arange(len(has_label))
    certain = suggest_labels(probabilities, given)
    suggested = np.where(certain >= 0, certain, np.where(has_label, -1, probabilities).argmax(axis=1))
    columns = (given, suggested, probabilities[rows, suggested], certain >= 0)
    errors = fit_label_noise(probabilities, given).error_probability.tolist()
    return [
        _LabelIssue(row, label_names[label], label_names[better], probability, is_certain, error)
        for row, (label, better, probability, is_certain, error) in enumerate(
            zip(*(column.tolist() for column in columns), errors, strict=True)
        )
    ]


def _multilabel_issues(probabilities: Probabilities, given: BoolArray, label_names: Sequence[str]) -> list[_LabelIssue]:
    """Checks each label as a binary problem; an image is listed once, with its probably wrong labels corrected."""
    flipped = np.where(given, 1 - probabilities, probabilities)  # probability of the other decision
    binary = np.stack([1 - probabilities, probabilities], axis=2)
    certain = np.stack(
        [suggest_labels(binary[:, label], given[:, label].astype(np.int64)) >= 0 for label in range(given.shape[1])], axis=1
    )
    noise = fit_label_noise(binary.reshape(-1, 2), given.ravel().astype(np.int64))
    errors = noise.error_probability.reshape(given.shape)
    # At least the most probably wrong label is corrected, so that every image has a suggestion.
    likeliest = np.arange(given.shape[1]) == errors.argmax(axis=1)[:, None]
    wrong = np.where(certain.any(axis=1, keepdims=True), certain, (errors > 0.5) | likeliest)
    error_probability = 1 - np.exp(np.log1p(-np.minimum(errors, 1 - 1e-12)).sum(axis=1))
    confidence = np.where(wrong, flipped, 0).max(axis=1)
    corrected = given ^ wrong
    return [
        _LabelIssue(
            row,
            _join_labels(given[row], label_names),
            _join_labels(corrected[row], label_names),
            float(confidence[row]),
            bool(certain[row].any()),
            float(error_probability[row]),
        )
        for row in range(len(given))
    ]


def _join_labels(mask: BoolArray, label_names: Sequence[str]) -> str:
    return ", ".join(name for name, is_set in zip(label_names, mask.tolist(), strict=True) if is_set) or "no label"


def suggest_labels(probabilities: Probabilities, given: NDArray[np.int64]) -> NDArray[np.int64]:
    """The label that each image probably has instead of the given one, or -1 if the given one is plausible: int (N,).

    Confident learning (Northcutt et al. 2021): the suggested label needs at least the mean probability that it has among
    the images that are given it. In addition, the given label's probability must be close to 0.

    Args:
        probabilities: out of fold, float64 (N, C).
        given: the given labels, int (N,).
    """
    self_confidence = probabilities[np.arange(len(given)), given]
    counts = np.bincount(given, minlength=probabilities.shape[1])
    thresholds = np.bincount(given, self_confidence, minlength=probabilities.shape[1]) / np.maximum(counts, 1)
    confident = np.where(probabilities >= np.maximum(thresholds, MIN_SUGGESTED_PROBABILITY), probabilities, 0)
    best = confident.argmax(axis=1)
    error_rate = max(float((probabilities.argmax(axis=1) != given).mean()), 1e-6)
    max_self_confidence = min(MAX_SELF_CONFIDENCE, SELF_CONFIDENCE_SCALE / error_rate**2)
    is_issue = (confident.max(axis=1) > 0) & (best != given) & (self_confidence < max_self_confidence)
    return np.where(is_issue, best, -1)


def find_outliers(vectors: Vectors, targets: Targets, paths: Sequence[str]) -> list[Outlier]:
    """Returns the images that are far from all others, or much farther than others of their label; farthest first.

    Args:
        vectors: float32 (N, D).
        targets: int (N,), or bool (N, C) for multi-label data.
        paths: of the N images.
    """
    if len(vectors) <= MIN_IMAGES_FOR_OUTLIERS:
        return []
    distances = _knn_distances(vectors)
    log_distances = np.log(distances + 1e-6)
    is_outlier = _robust_z_scores(log_distances, np.ones(len(vectors), bool)) > GLOBAL_OUTLIER_Z
    for label in range(targets.shape[1] if targets.ndim == 2 else targets.max() + 1):
        has_label = targets[:, label] if targets.ndim == 2 else targets == label
        if has_label.sum() >= MIN_IMAGES_FOR_OUTLIERS:
            is_outlier |= has_label & (_robust_z_scores(log_distances, has_label) > LABEL_OUTLIER_Z)
    rows = np.flatnonzero(is_outlier)
    return [Outlier(paths[row], float(distances[row])) for row in rows[np.argsort(-distances[rows], kind="stable")]]


def _knn_distances(vectors: Vectors) -> NDArray[np.float64]:
    """Each image's cosine distance to its fifth nearest neighbor among at most MAX_CHUNK_SIZE others, float64 (N,)."""
    reference = np.sort(np.random.default_rng(0).permutation(len(vectors))[:MAX_CHUNK_SIZE])
    reference_vectors = l2_normalize(vectors[reference])
    position = np.full(len(vectors), -1)
    position[reference] = np.arange(len(reference))

    def block_distances(start: int) -> Floats:
        similarity = l2_normalize(vectors[start : start + BLOCK_SIZE]) @ reference_vectors.T
        own = position[start : start + BLOCK_SIZE]
        similarity[np.flatnonzero(own >= 0), own[own >= 0]] = -np.inf  # an image is not its own neighbor
        similarity.partition(similarity.shape[1] - K_NEIGHBORS, axis=1)
        return 1 - similarity[:, -K_NEIGHBORS]

    with limit_blas_threads():  # outside of the threads, because the limit holds for the whole process
        blocks = list(ordered_map(block_distances, range(0, len(vectors), BLOCK_SIZE), available_cpus()))
    return np.maximum(np.concatenate(blocks), 0).astype(np.float64)


def _robust_z_scores(values: NDArray[np.float64], reference: BoolArray) -> NDArray[np.float64]:
    """Robust z-scores (median and MAD of the reference values) of all values."""
    median = np.median(values[reference])
    deviation = 1.4826 * np.median(np.abs(values[reference] - median))
    return (values - median) / max(float(deviation), 0.05)


def to_findings(label_issues: Sequence[LabelIssue], outliers: Sequence[Outlier]) -> list[Finding]:
    """Converts label issues and outliers to warnings of the audit."""
    warnings = []
    for issue in label_issues:
        labels = f"labeled {printable(issue.given_label)}, looks like {printable(issue.predicted_label)}"
        text = f"{printable(issue.path)} is {labels} ({issue.probability:.0%})"
        warnings.append(Finding(FINDING_KIND, "warning", text, (issue.path,)))
    for outlier in outliers:
        text = f"{printable(outlier.path)} is an outlier: it differs from all other images"
        warnings.append(Finding("outlier", "warning", text, (outlier.path,)))
    return warnings

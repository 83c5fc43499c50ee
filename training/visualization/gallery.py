"""Selects the images of a report: a bounded number for each section."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.training.data.errors import printable
from graft.training.data.findings import Finding, LabelIssue, Severity
from graft.training.results import Evaluation
from graft.training.visualization.charts import percent
from graft.training.visualization.thumbnails import ThumbnailCache

MAX_ERRORS, MAX_OUTLIERS, MAX_LABEL_ISSUES, MAX_PER_FINDING, MAX_FINDING_IMAGES, MAX_PER_CELL, MAX_CONFUSED_PAIRS = (
    24,
    12,
    36,
    12,
    120,
    8,
    30,
)
MAX_TABLE_LABELS = 30  # labels; a larger confusion matrix becomes an image, with links only for the most confused pairs


@dataclass(frozen=True)
class ImagePredictions:
    """Predictions for N images.

    Attributes:
        paths: relative to the root of the data set.
        targets: the true labels of each image, as in `Sample.labels`.
        probabilities: float32 (N, C), calibrated.
        outlier_scores: float32 (N,), or None if not measured.
    """

    paths: tuple[str, ...]
    targets: tuple[tuple[int, ...], ...]
    probabilities: NDArray[np.float32]
    outlier_scores: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class CaptionedImage:
    """One image on a page.

    Attributes:
        picture: a data URI, or "" without a thumbnail.
        caption: (term, value) pairs.
    """

    path: str
    picture: str
    caption: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ConfusionCell:
    """The images behind one cell of the confusion matrix; `figures` are the first few of `n_images`."""

    true_label: int
    predicted_label: int
    n_images: int
    share: float
    figures: tuple[CaptionedImage, ...]


@dataclass(frozen=True)
class ContactSheet:
    """One finding with images of affected files."""

    finding: Finding
    figures: tuple[CaptionedImage, ...]


@dataclass(frozen=True)
class FindingGroup:
    """All findings of one kind and severity.

    Attributes:
        n_files: files that an option excludes, in all of them.
        flag: that option; "" if there is none.
    """

    kind: str
    severity: Severity
    sheets: tuple[ContactSheet, ...]
    n_files: int
    flag: str


def confident_errors(
    predictions: ImagePredictions, evaluation: Evaluation, labels: Sequence[str], thumbnails: ThumbnailCache
) -> tuple[CaptionedImage, ...]:
    """Misclassified images, highest confidence first."""
    if evaluation.multilabel:
        return _multilabel_errors(predictions, evaluation, labels, thumbnails)
    predicted = predictions.probabilities.argmax(axis=1)
    confidence = predictions.probabilities.max(axis=1)
    wrong = [row for row in np.argsort(-confidence, kind="stable").tolist() if predicted[row] != predictions.targets[row][0]]
    return tuple(_prediction_figure(predictions, row, int(predicted[row]), labels, thumbnails) for row in wrong[:MAX_ERRORS])


def _multilabel_errors(
    predictions: ImagePredictions, evaluation: Evaluation, labels: Sequence[str], thumbnails: ThumbnailCache
) -> tuple[CaptionedImage, ...]:
    """Multi-label: the images with the largest error in one label, each with that label."""
    is_true = np.zeros(predictions.probabilities.shape, bool)
    for row, target in enumerate(predictions.targets):
        is_true[row, list(target)] = True
    thresholds = np.array([0.5 if scores.threshold is None else scores.threshold for scores in evaluation.labels])
    error = np.where((predictions.probabilities >= thresholds) == is_true, 0, np.abs(is_true - predictions.probabilities))
    order = np.argsort(-error.max(axis=1), kind="stable")[:MAX_ERRORS]
    return tuple(
        _multilabel_figure(predictions, row, int(error[row].argmax()), labels, thumbnails)
        for row in order
        if error[row].max() > 0
    )


def _multilabel_figure(
    predictions: ImagePredictions, row: int, label: int, labels: Sequence[str], thumbnails: ThumbnailCache
) -> CaptionedImage:
    path, target = predictions.paths[row], predictions.targets[row]
    error = "missed" if label in target else "false positive"
    prediction = f"{labels[label]} ({percent(float(predictions.probabilities[row, label]))})"
    true_labels = ", ".join(labels[other] for other in target) or "no label"
    return CaptionedImage(path, thumbnails.data_uri(path), (("true", true_labels), (error, prediction)))


def _prediction_figure(
    predictions: ImagePredictions, row: int, predicted: int, labels: Sequence[str], thumbnails: ThumbnailCache
) -> CaptionedImage:
    path, [target] = predictions.paths[row], predictions.targets[row]
    prediction = f"{labels[predicted]} ({percent(float(predictions.probabilities[row, predicted]))})"
    return CaptionedImage(path, thumbnails.data_uri(path), (("true", labels[target]), ("predicted", prediction)))


def top_outliers(
    predictions: ImagePredictions, labels: Sequence[str], thumbnails: ThumbnailCache
) -> tuple[CaptionedImage, ...]:
    """The test images with the largest distance to the training images."""
    if predictions.outlier_scores is None:
        return ()
    figures = []
    for row in np.argsort(-predictions.outlier_scores, kind="stable")[:MAX_OUTLIERS].tolist():
        path, true_labels = predictions.paths[row], ", ".join(labels[label] for label in predictions.targets[row]) or "no label"
        caption = (("true", true_labels), ("distance", f"{predictions.outlier_scores[row]:.3f}"))
        figures.append(CaptionedImage(path, thumbnails.data_uri(path), caption))
    return tuple(figures)


def confusion_cells(
    predictions: ImagePredictions, confusion: Sequence[Sequence[int]], labels: Sequence[str], thumbnails: ThumbnailCache
) -> tuple[ConfusionCell, ...]:
    """The non-empty confusion matrix cells: all cells of a small matrix, the most confused pairs of a large one."""
    rows: dict[tuple[int, int], list[int]] = defaultdict(list)
    predicted = predictions.probabilities.argmax(axis=1)
    for row, target in enumerate(predictions.targets):
        rows[target[0], int(predicted[row])].append(row)
    wrong = sorted((key for key in rows if key[0] != key[1]), key=lambda key: (-len(rows[key]), key))
    small = len(confusion) <= MAX_TABLE_LABELS
    # Errors first, so that correct predictions lose their thumbnails when the budget runs out.
    keys = [*wrong, *sorted(key for key in rows if key[0] == key[1])] if small else wrong[:MAX_CONFUSED_PAIRS]
    return tuple(_confusion_cell(predictions, key, rows[key], sum(confusion[key[0]]), labels, thumbnails) for key in keys)


def _confusion_cell(
    predictions: ImagePredictions,
    key: tuple[int, int],
    rows: list[int],
    total: int,
    labels: Sequence[str],
    thumbnails: ThumbnailCache,
) -> ConfusionCell:
    true_label, predicted = key
    confidence = predictions.probabilities[:, predicted]
    # Errors with the highest confidence, correct predictions with the lowest.
    order = sorted(rows, key=lambda row: float(confidence[row] if true_label == predicted else -confidence[row]))
    figures = tuple(_prediction_figure(predictions, row, predicted, labels, thumbnails) for row in order[:MAX_PER_CELL])
    return ConfusionCell(true_label, predicted, len(rows), len(rows) / max(1, total), figures)


def label_issues(issues: Sequence[LabelIssue], thumbnails: ThumbnailCache) -> tuple[CaptionedImage, ...]:
    """Images with a probable label error, most probable first."""
    figures = []
    for issue in sorted(issues, key=lambda issue: -issue.error_probability)[:MAX_LABEL_ISSUES]:
        suggested = f"{issue.predicted_label} ({percent(issue.probability)})"
        caption = (("labeled", issue.given_label), ("predicted", suggested))
        figures.append(CaptionedImage(issue.path, thumbnails.data_uri(issue.path), caption))
    return tuple(figures)


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """The findings, most severe first."""
    return sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding.severity))


def finding_sheet(finding: Finding, pictures: Mapping[str, str]) -> ContactSheet:
    """A finding with the available thumbnails of its files; `pictures` are data URIs by path."""
    shown = [path for path in finding.paths if pictures.get(path)]
    return ContactSheet(finding, tuple(CaptionedImage(path, pictures[path]) for path in shown[:MAX_PER_FINDING]))


def group_findings(sheets: Sequence[ContactSheet]) -> list[FindingGroup]:
    """The findings by kind, in the order in which each kind comes first."""
    by_kind: dict[tuple[str, Severity], list[ContactSheet]] = defaultdict(list)
    for sheet in sheets:
        by_kind[sheet.finding.kind, sheet.finding.severity].append(sheet)
    groups = []
    for (kind, severity), same in by_kind.items():
        dropped = [sheet.finding for sheet in same if sheet.finding.flag and sheet.finding.drop]
        n_files, flag = sum(len(finding.drop) for finding in dropped), dropped[0].flag if dropped else ""
        groups.append(FindingGroup(kind, severity, tuple(same), n_files, flag))
    return groups


def remark(sheet: ContactSheet) -> str:
    """What a finding says besides the names of its files and its kind, which a page shows anyway; "" if nothing."""
    finding = sheet.finding
    if len(sheet.figures) < len(finding.paths):
        return finding.text
    rest = finding.text
    for path in sorted(finding.paths, key=len, reverse=True):
        rest = rest.replace(printable(path), "")
    start, _, after = rest.partition(":")
    if after.strip(" ,"):
        return finding.text
    return "" if start.rstrip("s").lower() == finding.kind.rstrip("s").lower() else start.strip()


def affected_paths(findings: Iterable[Finding]) -> list[str]:
    """The files whose thumbnails a page of findings shows, most severe first."""
    paths = [path for finding in by_severity(findings) for path in finding.paths[:MAX_PER_FINDING]]
    return list(dict.fromkeys(paths))[:MAX_FINDING_IMAGES]

"""Selects the images of a report: a bounded number for each section."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.training.data.findings import Finding, Suspect
from graft.training.results import Evaluation
from graft.training.visualization.charts import percent
from graft.training.visualization.thumbnails import Album

MISTAKES, STRANGEST, SUSPECTS, OF_A_FINDING, OF_ALL_FINDINGS, OF_A_CELL, PAIRS = 24, 12, 36, 12, 120, 8, 30
WIDEST_TABLE = 30  # labels; a larger confusion matrix becomes an image, with links only for the most confused pairs


@dataclass(frozen=True)
class Answers:
    """Predictions for N images.

    Attributes:
        paths: relative to the root of the data set.
        targets: the true labels of each image, as in `Sample.labels`.
        probabilities: float32 (N, C), calibrated.
        outlier_scores: float32 (N,), or None if not measured.
    """

    paths: tuple[str, ...]
    truth: tuple[tuple[int, ...], ...]
    probabilities: NDArray[np.float32]
    outlier_scores: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Figure:
    """One image on a page.

    Attributes:
        picture: a data URI, or "" without a thumbnail.
        caption: (term, value) pairs.
    """

    path: str
    picture: str
    facts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Cell:
    """The images behind one cell of the confusion matrix; `figures` are the first few of `n_images`."""

    truth: int
    said: int
    n: int
    share: float
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Sheet:
    """One finding with images of affected files."""

    finding: Finding
    figures: tuple[Figure, ...]


def mistakes(answers: Answers, evaluation: Evaluation, labels: Sequence[str], album: Album) -> tuple[Figure, ...]:
    """Misclassified images, highest confidence first."""
    if evaluation.multilabel:
        return _wrong_labels(answers, evaluation, labels, album)
    predicted = answers.probabilities.argmax(axis=1)
    confidence = answers.probabilities.max(axis=1)
    wrong = [row for row in np.argsort(-confidence, kind="stable").tolist() if predicted[row] != answers.truth[row][0]]
    return tuple(_answered(answers, row, int(predicted[row]), labels, album) for row in wrong[:MISTAKES])


def _wrong_labels(answers: Answers, evaluation: Evaluation, labels: Sequence[str], album: Album) -> tuple[Figure, ...]:
    """Multi-label: the images with the largest error in one label, each with that label."""
    is_true = np.zeros(answers.probabilities.shape, bool)
    for row, target in enumerate(answers.truth):
        is_true[row, list(target)] = True
    thresholds = np.array([0.5 if scores.threshold is None else scores.threshold for scores in evaluation.labels])
    error = np.where((answers.probabilities >= thresholds) == is_true, 0, np.abs(is_true - answers.probabilities))
    order = np.argsort(-error.max(axis=1), kind="stable")[:MISTAKES]
    return tuple(_misjudged(answers, row, int(error[row].argmax()), labels, album) for row in order if error[row].max() > 0)


def _misjudged(answers: Answers, row: int, label: int, labels: Sequence[str], album: Album) -> Figure:
    path, target = answers.paths[row], answers.truth[row]
    error = "missed" if label in target else "false positive"
    prediction = f"{labels[label]} ({percent(float(answers.probabilities[row, label]))})"
    true_labels = ", ".join(labels[other] for other in target) or "no label"
    return Figure(path, album.picture(path), (("true", true_labels), (error, prediction)))


def _answered(answers: Answers, row: int, said: int, labels: Sequence[str], album: Album) -> Figure:
    path, [target] = answers.paths[row], answers.truth[row]
    prediction = f"{labels[said]} ({percent(float(answers.probabilities[row, said]))})"
    return Figure(path, album.picture(path), (("true", labels[target]), ("predicted", prediction)))


def strangest(answers: Answers, labels: Sequence[str], album: Album) -> tuple[Figure, ...]:
    """The test images with the largest distance to the training images."""
    if answers.outlier_scores is None:
        return ()
    figures = []
    for row in np.argsort(-answers.outlier_scores, kind="stable")[:STRANGEST].tolist():
        path, true_labels = answers.paths[row], ", ".join(labels[label] for label in answers.truth[row]) or "no label"
        caption = (("true", true_labels), ("distance", f"{answers.outlier_scores[row]:.3f}"))
        figures.append(Figure(path, album.picture(path), caption))
    return tuple(figures)


def cells(answers: Answers, confusion: Sequence[Sequence[int]], labels: Sequence[str], album: Album) -> tuple[Cell, ...]:
    """The non-empty confusion matrix cells: all cells of a small matrix, the most confused pairs of a large one."""
    rows: dict[tuple[int, int], list[int]] = defaultdict(list)
    predicted = answers.probabilities.argmax(axis=1)
    for row, target in enumerate(answers.truth):
        rows[target[0], int(predicted[row])].append(row)
    wrong = sorted((key for key in rows if key[0] != key[1]), key=lambda key: (-len(rows[key]), key))
    small = len(confusion) <= WIDEST_TABLE
    # Errors first, so that correct predictions lose their thumbnails when the budget runs out.
    keys = [*wrong, *sorted(key for key in rows if key[0] == key[1])] if small else wrong[:PAIRS]
    return tuple(_cell(answers, key, rows[key], sum(confusion[key[0]]), labels, album) for key in keys)


def _cell(answers: Answers, key: tuple[int, int], rows: list[int], total: int, labels: Sequence[str], album: Album) -> Cell:
    true_label, predicted = key
    confidence = answers.probabilities[:, predicted]
    # Errors with the highest confidence, correct predictions with the lowest.
    order = sorted(rows, key=lambda row: float(confidence[row] if true_label == predicted else -confidence[row]))
    figures = tuple(_answered(answers, row, predicted, labels, album) for row in order[:OF_A_CELL])
    return Cell(true_label, predicted, len(rows), len(rows) / max(1, total), figures)


def suspects(found: Sequence[Suspect], album: Album) -> tuple[Figure, ...]:
    """Images with a probable label error, most probable first."""
    figures = []
    for issue in sorted(found, key=lambda issue: -issue.probability)[:SUSPECTS]:
        suggested = f"{issue.suggested} ({percent(issue.probability)})"
        caption = (("labeled", issue.given), ("predicted", suggested))
        figures.append(Figure(issue.path, album.picture(issue.path), caption))
    return tuple(figures)


def graded(findings: Iterable[Finding]) -> list[Finding]:
    """The findings, most severe first."""
    return sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding.severity))


def sheet(finding: Finding, pictures: Mapping[str, str]) -> Sheet:
    """A finding with the available thumbnails of its files; `pictures` are data URIs by path."""
    shown = [path for path in finding.paths if pictures.get(path)]
    return Sheet(finding, tuple(Figure(path, pictures[path]) for path in shown[:OF_A_FINDING]))


def concerned(findings: Iterable[Finding]) -> list[str]:
    """The files whose thumbnails a page of findings shows, most severe first."""
    paths = [path for finding in graded(findings) for path in finding.paths[:OF_A_FINDING]]
    return list(dict.fromkeys(paths))[:OF_ALL_FINDINGS]

"""Which images a report shows: the most telling ones of each kind, a bounded number of each."""

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
WIDEST_TABLE = 30  # labels: a larger confusion matrix is drawn, and only its most confused pairs can be opened


@dataclass(frozen=True)
class Answers:
    """What a trained network said about each test image.

    Attributes:
        paths: of the N images, below the data set's root.
        truth: the labels that are true of each, as in `Sample.labels`.
        probabilities: float32 (N, C), calibrated.
        outlier_scores: float32 (N,), or None if they were not measured.
    """

    paths: tuple[str, ...]
    truth: tuple[tuple[int, ...], ...]
    probabilities: NDArray[np.float32]
    outlier_scores: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Figure:
    """One image on the page.

    Attributes:
        picture: a data URI, or "" if there is nothing to see.
        facts: (term, what is said) for its caption.
    """

    path: str
    picture: str
    facts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Cell:
    """The images behind one cell of the confusion matrix; `figures` are the first few of `n`."""

    truth: int
    said: int
    n: int
    share: float
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Sheet:
    """One finding, and its contact sheet."""

    finding: Finding
    figures: tuple[Figure, ...]


def mistakes(answers: Answers, evaluation: Evaluation, labels: Sequence[str], album: Album) -> tuple[Figure, ...]:
    """The wrong answers that were given with the most confidence."""
    if evaluation.multilabel:
        return _wrong_labels(answers, evaluation, labels, album)
    said = answers.probabilities.argmax(axis=1)
    sure = answers.probabilities.max(axis=1)
    wrong = [row for row in np.argsort(-sure, kind="stable").tolist() if said[row] != answers.truth[row][0]]
    return tuple(_answered(answers, row, int(said[row]), labels, album) for row in wrong[:MISTAKES])


def _wrong_labels(answers: Answers, evaluation: Evaluation, labels: Sequence[str], album: Album) -> tuple[Figure, ...]:
    """For several labels an image: the worst label of each of the images that were most confidently wrong about one."""
    true = np.zeros(answers.probabilities.shape, bool)
    for row, own in enumerate(answers.truth):
        true[row, list(own)] = True
    thresholds = np.array([0.5 if scores.threshold is None else scores.threshold for scores in evaluation.labels])
    error = np.where((answers.probabilities >= thresholds) == true, 0, np.abs(true - answers.probabilities))
    order = np.argsort(-error.max(axis=1), kind="stable")[:MISTAKES]
    return tuple(_misjudged(answers, row, int(error[row].argmax()), labels, album) for row in order if error[row].max() > 0)


def _misjudged(answers: Answers, row: int, label: int, labels: Sequence[str], album: Album) -> Figure:
    path, own = answers.paths[row], answers.truth[row]
    verdict = "missed" if label in own else "wrongly said"
    told = f"{labels[label]} ({percent(float(answers.probabilities[row, label]))})"
    is_ = ", ".join(labels[other] for other in own) or "no label"
    return Figure(path, album.picture(path), (("is", is_), (verdict, told)))


def _answered(answers: Answers, row: int, said: int, labels: Sequence[str], album: Album) -> Figure:
    path, [truth] = answers.paths[row], answers.truth[row]
    told = f"{labels[said]} ({percent(float(answers.probabilities[row, said]))})"
    return Figure(path, album.picture(path), (("is", labels[truth]), ("said", told)))


def strangest(answers: Answers, labels: Sequence[str], album: Album) -> tuple[Figure, ...]:
    """The test images that are least like those learned from."""
    if answers.outlier_scores is None:
        return ()
    figures = []
    for row in np.argsort(-answers.outlier_scores, kind="stable")[:STRANGEST].tolist():
        path, is_ = answers.paths[row], ", ".join(labels[label] for label in answers.truth[row]) or "no label"
        facts = (("is", is_), ("distance", f"{answers.outlier_scores[row]:.3f}"))
        figures.append(Figure(path, album.picture(path), facts))
    return tuple(figures)


def cells(answers: Answers, confusion: Sequence[Sequence[int]], labels: Sequence[str], album: Album) -> tuple[Cell, ...]:
    """The confusion matrix's cells that have images: all of a small matrix, the most confused pairs of a large one."""
    rows: dict[tuple[int, int], list[int]] = defaultdict(list)
    said = answers.probabilities.argmax(axis=1)
    for row, own in enumerate(answers.truth):
        rows[own[0], int(said[row])].append(row)
    wrong = sorted((key for key in rows if key[0] != key[1]), key=lambda key: (-len(rows[key]), key))
    small = len(confusion) <= WIDEST_TABLE
    # Mistakes first: where the page is full, it is the right answers that go without pictures.
    keys = [*wrong, *sorted(key for key in rows if key[0] == key[1])] if small else wrong[:PAIRS]
    return tuple(_cell(answers, key, rows[key], sum(confusion[key[0]]), labels, album) for key in keys)


def _cell(answers: Answers, key: tuple[int, int], rows: list[int], total: int, labels: Sequence[str], album: Album) -> Cell:
    truth, said = key
    sure = answers.probabilities[:, said]
    # Of mistakes the surest are the most telling; of right answers the least sure.
    telling = sorted(rows, key=lambda row: float(sure[row] if truth == said else -sure[row]))[:OF_A_CELL]
    figures = tuple(_answered(answers, row, said, labels, album) for row in telling)
    return Cell(truth, said, len(rows), len(rows) / max(1, total), figures)


def suspects(found: Sequence[Suspect], album: Album) -> tuple[Figure, ...]:
    """The images whose labels are probably wrong, the surest first."""
    figures = []
    for suspect in sorted(found, key=lambda suspect: -suspect.probability)[:SUSPECTS]:
        suggested = f"{suspect.suggested} ({percent(suspect.probability)})"
        facts = (("labelled", suspect.given), ("looks like", suggested))
        figures.append(Figure(suspect.path, album.picture(suspect.path), facts))
    return tuple(figures)


def graded(findings: Iterable[Finding]) -> list[Finding]:
    """The gravest first."""
    return sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding.severity))


def sheet(finding: Finding, pictures: Mapping[str, str]) -> Sheet:
    """A finding with the images it is about, as far as there are pictures of them (data URIs by path)."""
    shown = [path for path in finding.paths if pictures.get(path)]
    return Sheet(finding, tuple(Figure(path, pictures[path]) for path in shown[:OF_A_FINDING]))


def concerned(findings: Iterable[Finding]) -> list[str]:
    """The files whose pictures a page of findings wants, the gravest first."""
    paths = [path for finding in graded(findings) for path in finding.paths[:OF_A_FINDING]]
    return list(dict.fromkeys(paths))[:OF_ALL_FINDINGS]

"""Prepares table rows and chart series for the report templates. No HTML here."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graft.training.evaluation.comparison import Row, Table
from graft.training.results import Estimate, Evaluation, LabelScores, LearningCurve
from graft.training.robustness.measure import Withstood
from graft.training.visualization.charts import Line, lines
from graft.training.visualization.gallery import Cell, Sheet

Gap = tuple[Row, Row, Estimate]

MOST_ROWS = 1_000  # labels in a table, so that the page stays small
MOST_TICKS = 8


@dataclass(frozen=True)
class Epoch:
    """Metrics of one training epoch; None where not measured."""

    number: int
    train_loss: float | None = None
    validation_loss: float | None = None
    validation_score: float | None = None


def losses(epochs: Sequence[Epoch]) -> str:
    """Training and validation loss by epoch, as SVG; empty without losses."""
    train = [(float(epoch.number), epoch.train_loss) for epoch in epochs if epoch.train_loss is not None]
    validation = [(float(epoch.number), epoch.validation_loss) for epoch in epochs if epoch.validation_loss is not None]
    series = [line for line in (Line("train", tuple(train)), Line("validation", tuple(validation))) if line.points]
    return lines("Loss by epoch", "epoch", _whole([epoch.number for epoch in epochs]), series, False) if series else ""


def scores(epochs: Sequence[Epoch]) -> str:
    """Validation score by epoch, as SVG; empty without scores."""
    points = [(float(epoch.number), epoch.validation_score) for epoch in epochs if epoch.validation_score is not None]
    series = [Line("validation", tuple(points))]
    title = "Validation score by epoch"
    return lines(title, "epoch", _whole([epoch.number for epoch in epochs]), series, True) if points else ""


def learning_curve(curve: LearningCurve) -> str:
    """Score by number of training images on a log2 axis, as SVG."""
    at = [math.log2(n_images) for n_images in curve.n_images]
    points = tuple((x, estimate.value) for x, estimate in zip(at, curve.accuracy, strict=True))
    band = tuple((x, estimate.low, estimate.high) for x, estimate in zip(at, curve.accuracy, strict=True))
    ticks = [(x, f"{n_images:,}") for x, n_images in zip(at, curve.n_images, strict=True)][-MOST_TICKS:]
    title = "Score by number of training images"
    return lines(title, "training images", ticks, [Line("held-out images", points, band)], True)


def withstood(title: str, axis: str, rows: Sequence[tuple[str, Withstood]]) -> str:
    """Accuracy with its confidence band and the share of changed predictions by severity, evenly spaced, as SVG."""
    ticks = [(float(index), level) for index, (level, _) in enumerate(rows)]
    accuracy = tuple((float(index), point.right.value) for index, (_, point) in enumerate(rows))
    band = tuple((float(index), point.right.low, point.right.high) for index, (_, point) in enumerate(rows))
    changed = tuple((float(index), point.changed.value) for index, (_, point) in enumerate(rows))
    return lines(title, axis, ticks, [Line("accuracy", accuracy, band), Line("changed predictions", changed)], True)


def _whole(numbers: Sequence[int]) -> list[tuple[float, str]]:
    """At most MAX_TICKS ticks at integers."""
    step = math.ceil(len(numbers) / MOST_TICKS)
    return [(float(number), str(number)) for number in numbers[::step]]


def scale(estimates: Sequence[Estimate | None]) -> tuple[float, float]:
    """The smallest common scale for several intervals, with both ends at multiples of 0.1."""
    present = [estimate for estimate in estimates if estimate is not None]
    low = min((estimate.low for estimate in present), default=0.0)
    high = max((estimate.high for estimate in present), default=1.0)
    return math.floor(low * 10 + 1e-9) / 10, math.ceil(high * 10 - 1e-9) / 10


def count_rows(labels: Sequence[str], counts: Mapping[str, Sequence[int]]) -> list[tuple[str, tuple[int, ...]]]:
    """Images by split for each label, the most frequent label first."""
    rows = [(label, tuple(counts[split][index] for split in counts)) for index, label in enumerate(labels)]
    return sorted(rows, key=lambda row: -sum(row[1]))[:MOST_ROWS]


def label_rows(evaluation: Evaluation) -> list[LabelScores]:
    """Per-class metrics sorted by F1 (or average precision), lowest first; labels without test images last."""

    def sort_key(scores: LabelScores) -> float:
        estimate = scores.average_precision if evaluation.multilabel else scores.f1
        return 2.0 if estimate is None or not scores.support else estimate.value

    return sorted(evaluation.labels, key=sort_key)[:MOST_ROWS]


def heat(count: int, total: int) -> int:
    """Shade of a confusion matrix cell, from 0 to 10; the square root keeps rare errors visible."""
    return math.ceil(10 * math.sqrt(count / total)) if count else 0


def by_place(cells: Sequence[Cell]) -> dict[tuple[int, int], Cell]:
    """Confusion matrix cells by (true label, predicted label)."""
    return {(cell.truth, cell.said): cell for cell in cells}


def in_words(sheets: Sequence[Sheet]) -> str:
    """`2 errors, 1 warning, 5 notes`."""
    counts = Counter(sheet.finding.severity for sheet in sheets)
    return ", ".join(f"{counts[s]} {s}{'s' * (counts[s] > 1)}" for s in ("error", "warning", "note") if counts[s])


def reasons(left_out: Mapping[str, str]) -> list[tuple[str, int]]:
    """Reasons for excluding files, with the number of files, most frequent first."""
    return Counter(left_out.values()).most_common()


def parted(table: Table) -> tuple[list[Gap], list[Gap]]:
    """Splits differences into those that involve the best row, and the remaining ones."""
    best = [gap for gap in table.differences if gap[0] is table.rows[0]]
    return best, [gap for gap in table.differences if gap[0] is not table.rows[0]]

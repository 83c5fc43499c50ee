"""Records -> what a page lays out: the rows of its tables, and which lines a chart draws."""

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

MOST_ROWS = 1_000  # labels in a table; nobody reads further, and the page must stay small
MOST_TICKS = 8


@dataclass(frozen=True)
class Epoch:
    """One epoch of training; what was not measured is None."""

    number: int
    train_loss: float | None = None
    validation_loss: float | None = None
    validation_score: float | None = None


def losses(epochs: Sequence[Epoch]) -> str:
    """The losses by epoch."""
    learned = [(float(epoch.number), epoch.train_loss) for epoch in epochs if epoch.train_loss is not None]
    checked = [(float(epoch.number), epoch.validation_loss) for epoch in epochs if epoch.validation_loss is not None]
    drawn = [line for line in (Line("train", tuple(learned)), Line("validation", tuple(checked))) if line.points]
    return lines("Loss by epoch", "epoch", _whole([epoch.number for epoch in epochs]), drawn, False) if drawn else ""


def scores(epochs: Sequence[Epoch]) -> str:
    """The validation score by epoch."""
    found = [(float(epoch.number), epoch.validation_score) for epoch in epochs if epoch.validation_score is not None]
    drawn = [Line("validation", tuple(found))]
    title = "Validation score by epoch"
    return lines(title, "epoch", _whole([epoch.number for epoch in epochs]), drawn, True) if found else ""


def learning_curve(curve: LearningCurve) -> str:
    """The score by number of images learned from, where each step to the right of the same width doubles them."""
    at = [math.log2(n_images) for n_images in curve.n_images]
    points = tuple((x, estimate.value) for x, estimate in zip(at, curve.accuracy, strict=True))
    band = tuple((x, estimate.low, estimate.high) for x, estimate in zip(at, curve.accuracy, strict=True))
    ticks = [(x, f"{n_images:,}") for x, n_images in zip(at, curve.n_images, strict=True)][-MOST_TICKS:]
    title = "Score by number of images learned from"
    return lines(title, "images learned from", ticks, [Line("held-out images", points, band)], True)


def withstood(title: str, axis: str, rows: Sequence[tuple[str, Withstood]]) -> str:
    """What became of the answers by severity, evenly spaced: right with its band, and changed."""
    ticks = [(float(place), words) for place, (words, _) in enumerate(rows)]
    right = tuple((float(place), one.right.value) for place, (_, one) in enumerate(rows))
    band = tuple((float(place), one.right.low, one.right.high) for place, (_, one) in enumerate(rows))
    changed = tuple((float(place), one.changed.value) for place, (_, one) in enumerate(rows))
    return lines(title, axis, ticks, [Line("right", right, band), Line("changed", changed)], True)


def _whole(numbers: Sequence[int]) -> list[tuple[float, str]]:
    """Ticks at whole numbers, not too many."""
    step = math.ceil(len(numbers) / MOST_TICKS)
    return [(float(number), str(number)) for number in numbers[::step]]


def scale(estimates: Sequence[Estimate | None]) -> tuple[float, float]:
    """A common scale for several intervals: round, and no wider than it must be, so that differences can be seen."""
    known = [estimate for estimate in estimates if estimate is not None]
    low = min((estimate.low for estimate in known), default=0.0)
    high = max((estimate.high for estimate in known), default=1.0)
    return math.floor(low * 10 + 1e-9) / 10, math.ceil(high * 10 - 1e-9) / 10


def count_rows(labels: Sequence[str], counts: Mapping[str, Sequence[int]]) -> list[tuple[str, tuple[int, ...]]]:
    """For each label, its images by split; the most common labels first."""
    rows = [(label, tuple(counts[split][index] for split in counts)) for index, label in enumerate(labels)]
    return sorted(rows, key=lambda row: -sum(row[1]))[:MOST_ROWS]


def label_rows(evaluation: Evaluation) -> list[LabelScores]:
    """The labels that fare worst first; those that no test image has last."""

    def fares(scores: LabelScores) -> float:
        estimate = scores.average_precision if evaluation.multilabel else scores.f1
        return 2.0 if estimate is None or not scores.support else estimate.value

    return sorted(evaluation.labels, key=fares)[:MOST_ROWS]


def heat(count: int, total: int) -> int:
    """How strongly a cell of the confusion matrix is coloured, from 0 to 10; the root lets rare mistakes be seen."""
    return math.ceil(10 * math.sqrt(count / total)) if count else 0


def by_place(cells: Sequence[Cell]) -> dict[tuple[int, int], Cell]:
    """Cells of the confusion matrix by (true label, predicted label)."""
    return {(cell.truth, cell.said): cell for cell in cells}


def in_words(sheets: Sequence[Sheet]) -> str:
    """`2 errors, 1 warning, 5 notes`."""
    n_found = Counter(sheet.finding.severity for sheet in sheets)
    return ", ".join(f"{n_found[s]} {s}{'s' * (n_found[s] > 1)}" for s in ("error", "warning", "note") if n_found[s])


def reasons(left_out: Mapping[str, str]) -> list[tuple[str, int]]:
    """Why files were left out, and how many each time."""
    return Counter(left_out.values()).most_common()


def parted(table: Table) -> tuple[list[Gap], list[Gap]]:
    """The differences between the best row and the others, and those among the others."""
    best = [gap for gap in table.differences if gap[0] is table.rows[0]]
    return best, [gap for gap in table.differences if gap[0] is not table.rows[0]]

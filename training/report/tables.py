"""Prepares table rows and chart series for the report templates. No HTML here."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graft.training.evaluation.comparison import Comparison, StrategySummary
from graft.training.results import Estimate, Evaluation, LabelScores, LearningCurve, SelectivePrediction
from graft.training.robustness.measure import SeverityResult
from graft.training.visualization.charts import Series, line_chart
from graft.training.visualization.gallery import ConfusionCell, ContactSheet

Difference = tuple[StrategySummary, StrategySummary, Estimate]

MAX_ROWS = 1_000  # labels in a table, so that the page stays small
MAX_TICKS = 8
MIN_SHARE = (
    0.1  # of the answered images in a risk-coverage curve, from which its band is shown: before, it would fill the chart
)
MAX_OPEN_FINDINGS = 6  # findings of one kind; the others are folded


@dataclass(frozen=True)
class Epoch:
    """Metrics of one training epoch; None where not measured."""

    number: int
    train_loss: float | None = None
    validation_loss: float | None = None
    validation_score: float | None = None


def loss_chart(epochs: Sequence[Epoch]) -> str:
    """Training and validation loss by epoch, as SVG; empty without losses."""
    train = [(float(epoch.number), epoch.train_loss) for epoch in epochs if epoch.train_loss is not None]
    validation = [(float(epoch.number), epoch.validation_loss) for epoch in epochs if epoch.validation_loss is not None]
    series = [line for line in (Series("train", tuple(train)), Series("validation", tuple(validation))) if line.points]
    return (
        line_chart("Loss by epoch", "epoch", _integer_ticks([epoch.number for epoch in epochs]), series, False)
        if series
        else ""
    )


def score_chart(epochs: Sequence[Epoch]) -> str:
    """Validation score by epoch, as SVG; empty without scores."""
    points = [(float(epoch.number), epoch.validation_score) for epoch in epochs if epoch.validation_score is not None]
    series = [Series("validation", tuple(points))]
    title = "Validation score by epoch"
    return line_chart(title, "epoch", _integer_ticks([epoch.number for epoch in epochs]), series, True) if points else ""


def learning_curve_chart(curve: LearningCurve) -> str:
    """Score by number of training images on a log2 axis, as SVG."""
    at = [math.log2(n_images) for n_images in curve.n_images]
    points = tuple((x, estimate.value) for x, estimate in zip(at, curve.accuracy, strict=True))
    band = tuple((x, estimate.low, estimate.high) for x, estimate in zip(at, curve.accuracy, strict=True))
    ticks = [(x, f"{n_images:,}") for x, n_images in zip(at, curve.n_images, strict=True)][-MAX_TICKS:]
    title = "Score by number of training images"
    return line_chart(title, "training images", ticks, [Series("held-out images", points, band)], True)


def risk_coverage_curve(selective: SelectivePrediction) -> str:
    """Error by share of answered images with its confidence band, as SVG."""
    points = tuple((point.answered, point.error.value) for point in selective.curve)
    band = tuple(
        (point.answered, point.error.low, point.error.high) for point in selective.curve if point.answered >= MIN_SHARE
    )
    ticks = [(tick / 4, f"{25 * tick}%") for tick in range(5)]
    series = [Series("error of answered images", points, band, radius=1.5)]
    if selective.error is not None:
        series.append(Series("where the model abstains", ((selective.answered.value, selective.error.value),), radius=5))
    return line_chart("Risk-coverage curve: error by share of answered images", "answered images", ticks, series, True)


def robustness_curve(title: str, axis: str, rows: Sequence[tuple[str, SeverityResult]]) -> str:
    """Accuracy with its confidence band and the share of changed predictions by severity, evenly spaced, as SVG."""
    ticks = [(float(index), level) for index, (level, _) in enumerate(rows)]
    accuracy = tuple((float(index), point.accuracy.value) for index, (_, point) in enumerate(rows))
    band = tuple((float(index), point.accuracy.low, point.accuracy.high) for index, (_, point) in enumerate(rows))
    changed = tuple((float(index), point.flip_rate.value) for index, (_, point) in enumerate(rows))
    return line_chart(title, axis, ticks, [Series("accuracy", accuracy, band), Series("changed predictions", changed)], True)


def _integer_ticks(numbers: Sequence[int]) -> list[tuple[float, str]]:
    """At most MAX_TICKS ticks at integers."""
    step = math.ceil(len(numbers) / MAX_TICKS)
    return [(float(number), str(number)) for number in numbers[::step]]


def common_scale(estimates: Sequence[Estimate | None]) -> tuple[float, float]:
    """The smallest common scale for several intervals, with both ends at multiples of 0.1."""
    present = [estimate for estimate in estimates if estimate is not None]
    low = min((estimate.low for estimate in present), default=0.0)
    high = max((estimate.high for estimate in present), default=1.0)
    return math.floor(low * 10 + 1e-9) / 10, math.ceil(high * 10 - 1e-9) / 10


def count_rows(labels: Sequence[str], counts: Mapping[str, Sequence[int]]) -> list[tuple[str, tuple[int, ...]]]:
    """Images by split for each label, the most frequent label first."""
    rows = [(label, tuple(counts[split][index] for split in counts)) for index, label in enumerate(labels)]
    return sorted(rows, key=lambda row: -sum(row[1]))[:MAX_ROWS]


def label_rows(evaluation: Evaluation) -> list[LabelScores]:
    """Per-class metrics sorted by F1 (or average precision), lowest first; labels without test images last."""
    return sorted(evaluation.labels, key=lambda scores: _label_score(evaluation, scores))[:MAX_ROWS]


def _label_score(evaluation: Evaluation, scores: LabelScores) -> float:
    estimate = scores.average_precision if evaluation.multilabel else scores.f1
    return 2.0 if estimate is None or not scores.support else estimate.value


def n_tied_labels(evaluation: Evaluation, n_shown: int) -> int:
    """How many labels score as low as the last of the `n_shown` lowest, but are not among them."""
    scores = sorted(_label_score(evaluation, scores) for scores in evaluation.labels)
    return scores[n_shown:].count(scores[n_shown - 1])


def n_tied_pairs(confusion: Sequence[Sequence[int]], cells: Sequence[ConfusionCell]) -> int:
    """How many pairs of labels are confused as often as the last pair shown, but are not shown."""
    last = cells[-1].n_images
    pairs = Counter(count for row, counts in enumerate(confusion) for column, count in enumerate(counts) if row != column)
    return pairs[last] - sum(cell.n_images == last for cell in cells)


def cell_shade(count: int, total: int) -> int:
    """Shade of a confusion matrix cell, from 0 to 10; the square root keeps rare errors visible."""
    return math.ceil(10 * math.sqrt(count / total)) if count else 0


def by_cell(cells: Sequence[ConfusionCell]) -> dict[tuple[int, int], ConfusionCell]:
    """Confusion matrix cells by (true label, predicted label)."""
    return {(cell.true_label, cell.predicted_label): cell for cell in cells}


def severity_counts(sheets: Sequence[ContactSheet]) -> str:
    """`2 errors, 1 warning, 5 notes`."""
    counts = Counter(sheet.finding.severity for sheet in sheets)
    return ", ".join(f"{counts[s]} {s}{'s' * (counts[s] > 1)}" for s in ("error", "warning", "note") if counts[s])


def exclusion_reasons(excluded: Mapping[str, str]) -> list[tuple[str, int]]:
    """Reasons for excluding files, with the number of files, most frequent first."""
    return Counter(excluded.values()).most_common()


def split_differences(comparison: Comparison) -> tuple[list[Difference], list[Difference]]:
    """Splits differences into those that involve the best row, and the remaining ones."""
    best = [gap for gap in comparison.differences if gap[0] is comparison.rows[0]]
    return best, [gap for gap in comparison.differences if gap[0] is not comparison.rows[0]]


def tied_for_best(comparison: Comparison) -> list[StrategySummary]:
    """The best strategy, and all that are not significantly worse."""
    best, _ = split_differences(comparison)
    return [comparison.rows[0], *(worse for _, worse, gain in best if gain.low <= 0)]

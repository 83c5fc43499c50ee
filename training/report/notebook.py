"""Results as HTML fragments for notebooks: what `_repr_html_` returns. Computes nothing; the full story is in `report.html`."""

from collections.abc import Sequence
from dataclasses import dataclass

from graft.training.data.findings import Finding
from graft.training.evaluation.comparison import Comparison
from graft.training.evaluation.metrics import METRICS
from graft.training.report import render, tables
from graft.training.results import Estimate, Evaluation, StrategyAttempt
from graft.training.runtime.progress import format_duration
from graft.training.visualization.charts import percent
from graft.training.visualization.formatting import format_difference, format_interval, format_metric

MAX_ROWS, MAX_CONFUSION_LABELS = 12, 20


@dataclass(frozen=True)
class Table:
    """A table of texts; the first column names the row.

    Attributes:
        n_hidden: rows that were left out.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    n_hidden: int = 0


def fragment(
    title: str, lines: Sequence[str], listed: Sequence[Table] = (), labels: Sequence[str] = (), confusion: object = None
) -> str:
    """An HTML fragment; all texts are escaped."""
    context = {"title": title, "lines": lines, "tables": listed, "labels": labels, "confusion": confusion}
    return render.render_fragment("notebook.html", context)


def evaluation_fragment(title: str, lines: Sequence[str], evaluation: Evaluation, extra: Sequence[Table] = ()) -> str:
    """The metrics of an evaluation and its confusion matrix, or the lowest classes where that would be too large."""
    labels = [scores.label for scores in evaluation.labels]
    show_matrix = evaluation.confusion is not None and len(labels) <= MAX_CONFUSION_LABELS
    per_class = () if show_matrix else (per_class_table(evaluation),)
    confusion = evaluation.confusion if show_matrix else None
    return fragment(title, lines, (metrics_table(evaluation), *extra, *per_class), labels, confusion)


def metrics_table(evaluation: Evaluation) -> Table:
    """Every metric with its interval."""
    rows = []
    for name, metric in evaluation.metrics.items():
        value, low, high = (format_metric(name, number) for number in (metric.value, metric.low, metric.high))
        rows.append((METRICS[name].title, value, f"{low} to {high}"))
    return Table(("metric", "value", "95% interval"), tuple(rows))


def per_class_table(evaluation: Evaluation) -> Table:
    """The classes with the lowest F1, or average precision for multi-label data."""
    scores = tables.label_rows(evaluation)
    rows = []
    for label in scores[:MAX_ROWS]:
        estimate = label.average_precision if evaluation.multilabel else label.f1
        rows.append((label.label, f"{label.support:,}", _percent(estimate)))
    name = "average precision" if evaluation.multilabel else "F1"
    return Table(("label", "test images", name), tuple(rows), max(0, len(evaluation.labels) - MAX_ROWS))


def _percent(estimate: Estimate | None) -> str:
    return percent(estimate.value) if estimate else "–"


def attempts_table(attempts: Sequence[StrategyAttempt]) -> Table:
    """The strategies that were tried, in order."""
    rows = [
        (
            f"{attempt.strategy}{' (selected)' if attempt.kept else ''}",
            f"{percent(attempt.validation.value)} ({format_interval(attempt.validation)})",
            format_duration(attempt.seconds),
        )
        for attempt in attempts
    ]
    return Table(("strategy", "validation", "time"), tuple(rows))


def findings_table(findings: Sequence[Finding]) -> Table:
    """The most severe findings."""
    rows = tuple((finding.severity, finding.kind.replace("-", " "), finding.text) for finding in findings[:MAX_ROWS])
    return Table(("severity", "kind", "finding"), rows, max(0, len(findings) - MAX_ROWS))


def comparison_tables(comparison: Comparison) -> tuple[Table, Table]:
    """The strategies, best first, and the differences between them."""
    rows = []
    for row in comparison.rows:
        score, seconds = percent(row.accuracy.value), format_duration(row.seconds)
        interval = format_interval(row.accuracy)
        rows.append((f"{row.strategy} on {row.backbone}", score, interval, row.latency_text, seconds))
    gaps = [
        (f"{better.strategy} on {better.backbone} − {worse.strategy} on {worse.backbone}", format_difference(gap))
        for better, worse, gap in comparison.differences
    ]
    columns = ("strategy", comparison.metric, "95% interval", "ms/image", "time")
    return Table(columns, tuple(rows)), Table(("difference", "points"), tuple(gaps))

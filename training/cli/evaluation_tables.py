"""The tables of `graft evaluate`: per-class metrics, and the confusion matrix or the most confused pairs. Text only."""

from typing import TYPE_CHECKING

from graft.training.cli.output import Column, Table

if TYPE_CHECKING:
    from graft.training.results import Estimate, Evaluation

MAX_ROWS = 20
MAX_MATRIX_LABELS = 12  # a larger confusion matrix becomes a list of the most confused pairs


def per_class(evaluation: "Evaluation") -> Table:
    """A row for each class, lowest F1 (or average precision) first; at most MAX_ROWS."""
    from graft.training.report.tables import label_rows

    ranking = (Column("average precision", right=True),) if evaluation.multilabel else ()
    columns = (
        Column("label"),
        Column("images", right=True),
        *ranking,
        Column("precision", right=True, optional=True),
        Column("recall", right=True, optional=True),
        Column("F1", right=True),
        Column("95 % interval", right=True, optional=True),
    )
    rows = []
    for scores in label_rows(evaluation)[:MAX_ROWS]:
        ranked = (scores.average_precision,) if evaluation.multilabel else ()
        values = (*ranked, scores.precision, scores.recall, scores.f1)
        interval = scores.average_precision if evaluation.multilabel else scores.f1
        rows.append((scores.label, f"{scores.support:,}", *map(_value, values), _interval(interval)))
    return Table(columns, tuple(rows))


def confusion_matrix(evaluation: "Evaluation", width: int | None = None) -> Table:
    """A row for each true label, a column for each predicted one.

    Args:
        width: columns of the terminal; if the names of the labels do not fit above the columns, numbers stand for them.
    """
    from rich.cells import cell_len

    names, confusion = [scores.label for scores in evaluation.labels], evaluation.confusion or ()
    needed = max(map(cell_len, names)) + sum(2 + max(cell_len(name), 3) for name in names)
    numbered = width is not None and needed > width
    heads = [str(number) for number in range(1, len(names) + 1)] if numbered else names
    first = [f"{number:>2} {name}" if numbered else name for number, name in enumerate(names, 1)]
    rows = tuple((name, *map(str, counts)) for name, counts in zip(first, confusion, strict=True))
    return Table((Column("true label"), *(Column(head, right=True) for head in heads)), rows, cell_styles=_shades(confusion))


def confused_pairs(evaluation: "Evaluation") -> Table:
    """A row for each pair of labels that were confused, most frequent first; at most MAX_ROWS."""
    columns = Column("true label"), Column("predicted label"), Column("images", right=True), Column("share", right=True)
    names, confusion = [scores.label for scores in evaluation.labels], evaluation.confusion or ()
    pairs = [
        (count, row, column)
        for row, counts in enumerate(confusion)
        for column, count in enumerate(counts)
        if count and row != column
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    rows = [(names[row], names[column], f"{n:,}", f"{n / sum(confusion[row]):.1%}") for n, row, column in pairs[:MAX_ROWS]]
    return Table(columns, tuple(rows))


def n_confused_pairs(evaluation: "Evaluation") -> int:
    """The number of pairs of labels that were confused."""
    confusion = evaluation.confusion or ()
    return sum(bool(n) for row, counts in enumerate(confusion) for column, n in enumerate(counts) if row != column)


def _shades(confusion: tuple[tuple[int, ...], ...]) -> dict[tuple[int, int], str]:
    """Styles by row and column of the table: correct predictions green, errors red, zeros dim."""
    return {
        (row, column + 1): "dim" if not count else "green" if row == column else "red"
        for row, counts in enumerate(confusion)
        for column, count in enumerate(counts)
    }


def _value(estimate: "Estimate | None") -> str:
    return "–" if estimate is None else f"{estimate.value:.1%}"


def _interval(estimate: "Estimate | None") -> str:
    return "–" if estimate is None else f"{estimate.low:.1%} to {estimate.high:.1%}"

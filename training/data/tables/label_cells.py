"""Reads the label cells of a table: one label, several labels in one cell, or one column of 0 and 1 for each label."""

import ast
import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

SEPARATORS = ("|", ";", ",", " ")
ONES, ZEROS = frozenset({"1", "1.0", "true", "yes"}), frozenset({"0", "0.0", "-1", "-1.0", "false", "no", ""})


@dataclass(frozen=True)
class LabelFormat:
    """How the label cells of a row become label names.

    Attributes:
        separator: what separates several labels in one cell; "" if a cell has one label.
        columns: the label of each column of 0 and 1; empty if the labels are in one column.
        multilabel: whether a row can have any number of labels, including none.
    """

    separator: str = ""
    columns: tuple[str, ...] = ()
    multilabel: bool = False

    def names(self, cells: list[str]) -> tuple[str, ...]:
        """Return the sorted label names of a row.

        Raises:
            ValueError: if a column of 0 and 1 has another value.
        """
        if self.columns:
            return tuple(sorted(name for name, cell in zip(self.columns, cells, strict=True) if is_one(cell)))
        return tuple(sorted(set(split_cell(cells[0], self.separator))))


def is_one(cell: str) -> bool:
    """Return whether a cell is 1. Raises ValueError if it is neither 0 nor 1."""
    value = cell.casefold()
    if value not in ONES and value not in ZEROS:
        raise ValueError(f"{cell!r} is neither 0 nor 1")
    return value in ONES


def is_binary(cells: Iterable[str]) -> bool:
    """Return whether all cells are 0 or 1, and both, or at least one of them not empty."""
    values = {cell.casefold() for cell in cells}
    return values <= ONES | ZEROS and bool(values - {""})


def split_cell(cell: str, separator: str) -> list[str]:
    """Split a cell into its labels. A Python list, as pandas writes it, is read as one."""
    if is_list(cell):
        try:
            values = ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            values = cell[1:-1].split(",")  # numpy and hand-written lists have no quotes
        return [str(value).strip() for value in values if str(value).strip()]
    parts = cell.split(separator) if separator.strip() else cell.split() if separator else [cell]
    return [part.strip() for part in parts if part.strip()]


def is_list(cell: str) -> bool:
    """Return whether a cell is a list in brackets, as ['cat', 'dog']."""
    return len(cell) < 10_000 and cell[:1] + cell[-1:] in ("[]", "()") and len(cell) >= 2


def infer_separator(cells: Collection[str], is_plural: bool) -> str:
    """Return what separates several labels in one cell; "" if every cell is one label.

    A bar always separates. Other characters do if the parts are labels of their own: most occur in several different cells.
    So "golden retriever" stays one label, and "haze primary" becomes two where "clear primary" and "haze" occur too.

    Args:
        cells: distinct cells.
        is_plural: whether the column's name promises several labels, as "tags" does. A space separates only then, or in
            lists of numbers.
    """
    for separator in SEPARATORS:
        several = [cell for cell in cells if len(split_cell(cell, separator)) > 1 and not is_list(cell)]
        if not several:
            continue
        if separator == "|":
            return separator
        counts = Counter(part for cell in cells for part in set(split_cell(cell, separator)))
        parts = {part for cell in several for part in split_cell(cell, separator)}
        n_shared = sum(counts[part] > 1 for part in parts)
        are_numbers = all(re.fullmatch(r"-?\d+", part) for part in parts)
        enough = n_shared >= (0.5 if is_plural else 0.9) * len(parts)
        if are_numbers or (enough and (is_plural or separator != " ")):
            return separator
    return ""

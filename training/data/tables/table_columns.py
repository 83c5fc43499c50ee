"""Finds out which columns of a table hold the files, labels, splits and groups, from their names and values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from graft.training.config.read_options import ReadOptions
from graft.training.data.errors import DatasetError, printable
from graft.training.data.split_names import split_from_name
from graft.training.data.tables import column_names
from graft.training.data.tables.label_cells import is_binary

Row = list[str]
Selected = TypeVar("Selected")
MAX_NAMES = 20  # columns to list in a message


@dataclass(frozen=True)
class TableColumns:
    """The roles of the columns, by index.

    Attributes:
        labels: one column, or several of 0 and 1.
        split: names of splits.
        split_flag: the split whose rows are true in the column `split`; "" if that column has names.
        fold: numbers of folds.
    """

    names: tuple[str, ...]
    path: int
    labels: tuple[int, ...]
    split: int | None = None
    split_flag: str = ""
    fold: int | None = None
    group: int | None = None

    @property
    def has_plural_label(self) -> bool:
        """Whether the name of the label column promises several labels."""
        return column_names.is_plural_label(self.names[self.labels[0]])

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the label columns."""
        return tuple(self.names[column] for column in self.labels)

    def to_text(self) -> str:
        """Describe the roles in one line."""
        labels = f"{len(self.labels)} columns of 0 and 1" if len(self.labels) > 1 else self._name(self.labels[0])
        roles = {"images from": self._name(self.path), "labels from": labels}
        roles |= {"split from": self._name(self.split)} if self.split is not None else {}
        roles |= {"fold from": self._name(self.fold)} if self.fold is not None else {}
        roles |= {"group from": self._name(self.group)} if self.group is not None else {}
        return ", ".join(f"{role} {name}" for role, name in roles.items())

    def _name(self, column: int) -> str:
        return printable(self.names[column]) or f"column {column + 1}"


def has_header(first: Row, options: ReadOptions, is_file: Callable[[str], bool]) -> bool:
    """Return whether the first row has the names of the columns: no cell is a file, and a name is known or given."""
    if any(is_file(cell) for cell in first):
        return False
    requested = {options.path_column, *options.label_column, options.split_column, options.declared_group}
    is_known = any(column_names.is_path(cell) or column_names.is_label(cell) for cell in first)
    return is_known or bool(requested & set(first)) or not any(map(_looks_like_file, first))


def _looks_like_file(cell: str) -> bool:
    return "/" in cell or "\\" in cell or "." in cell[-5:-2]


def infer_columns(
    names: Sequence[str], rows: Sequence[Row], options: ReadOptions, is_file: Callable[[str], bool]
) -> TableColumns:
    """Find the role of each column.

    Args:
        names: of the columns; the numbers "1", "2", … if the table has no header.
        rows: the first rows.
        is_file: whether a cell stands for an image file.

    Raises:
        DatasetError: if a role is ambiguous, or a requested column does not exist.
    """
    table = _Sample(tuple(names), rows)
    path = table.index(options.path_column, "--path-column")
    path = _find_path(table, is_file) if path is None else path
    group = _find_group(table, options)
    split = table.index(options.split_column, "--split-column")
    split = _find_split(table, {path, group}) if split is None else split
    fold = next((column for column in table.columns({path, split, group}) if _is_fold(table, column)), None)
    taken = {path, split, fold, group}
    labels = tuple(table.require(name, "--label-column") for name in options.label_column) or _find_labels(table, taken)
    flag = column_names.split_flag(names[split]) if split is not None else ""
    return TableColumns(table.names, path, labels, split, flag, fold, group)


@dataclass(frozen=True)
class _Sample:
    """The names and the first rows of a table."""

    names: tuple[str, ...]
    rows: Sequence[Row]

    def columns(self, taken: set[int | None]) -> list[int]:
        return [column for column in range(len(self.names)) if column not in taken]

    def cells(self, column: int) -> list[str]:
        return [row[column].strip() for row in self.rows]

    def index(self, name: str | None, flag: str) -> int | None:
        return None if name is None else self.require(name, flag)

    def require(self, name: str, flag: str) -> int:
        """Return the column with a name, as spelled or in any spelling. Raises DatasetError if there is none."""
        found = [column for column, other in enumerate(self.names) if other == name] or [
            column for column, other in enumerate(self.names) if column_names.normalize(other) == column_names.normalize(name)
        ]
        if len(found) != 1:
            reason = "has no such column" if not found else "has this column more than once"
            raise DatasetError(f"{flag} {name}: the table {reason}; its columns are {self.list_names()}.")
        return found[0]

    def list_names(self, columns: Sequence[int] | None = None) -> str:
        columns = range(len(self.names)) if columns is None else columns
        more = f", … ({len(columns)} in all)" if len(columns) > MAX_NAMES else ""
        return ", ".join(printable(self.names[column]) or f"column {column + 1}" for column in list(columns)[:MAX_NAMES]) + more


def _find_path(table: _Sample, is_file: Callable[[str], bool]) -> int:
    """Return the column whose cells are files; of those without any, one with a usual name."""
    named = sorted(table.columns(set()), key=lambda column: not column_names.is_path(table.names[column]))
    counts = {column: sum(map(is_file, table.cells(column)[:50])) for column in named}
    best = max(named, key=lambda column: counts[column])  # the first of equals, so a usual name wins
    if counts[best] or column_names.is_path(table.names[best]):
        return best
    raise DatasetError(
        f"no column has the names of image files: the columns are {table.list_names()}."
        " Say which one has: --path-column NAME, with --suffix .jpg if the table leaves the suffix out."
    )


def _find_group(table: _Sample, options: ReadOptions) -> int | None:
    """Return the column of the groups; None if --group-by is a regular expression on the path, not an identifier."""
    if options.group_by == "none":
        return None
    if options.declared_group is None:
        names = map(column_names.normalize, table.names)
        return next((column for column, name in enumerate(names) if name == column_names.GROUP_NAME), None)
    if options.declared_group in table.names or options.declared_group.isidentifier():
        return table.require(options.declared_group, "--group-by")
    return None


def _find_split(table: _Sample, taken: set[int | None]) -> int | None:
    for column in table.columns(taken):
        name, values = table.names[column], set(table.cells(column)) - {""}
        if column_names.normalize(name) == "split" or (column_names.split_flag(name) and is_binary(values)):
            return column
        if column_names.is_split(name) and values and all(map(split_from_name, values)):
            return column
    return None


def _is_fold(table: _Sample, column: int) -> bool:
    cells = [cell.removesuffix(".0") for cell in table.cells(column) if cell]
    return column_names.is_fold(table.names[column]) and bool(cells) and all(map(str.isdecimal, cells))


def _find_labels(table: _Sample, taken: set[int | None]) -> tuple[int, ...]:
    others = table.columns(taken)
    named = _without_numbers(table, [column for column in others if column_names.is_label(table.names[column])])
    exact = [column for column in named if column_names.is_exact_label(table.names[column])]
    if len(exact) == 1 or len(named) == 1:
        return ((exact or named)[0],)
    if len(named) > 1:
        raise _ambiguous(table, named)
    others = [column for column in others if not column_names.is_index(table.names[column])]
    if len(others) == 1:
        return (others[0],)
    binary = [column for column in others if is_binary(table.cells(column))]
    if len(binary) > 1:
        return tuple(binary)
    raise _ambiguous(table, others)


def _without_numbers(table: _Sample, columns: list[int]) -> list[int]:
    """Of columns that say the same, such as class_id and class_name, leave out the numbers."""
    numeric = [column for column in columns if all(cell.lstrip("-").isdecimal() for cell in table.cells(column))]
    texts = [column for column in columns if column not in numeric]
    same = [column for column in numeric if any(_say_the_same(table, column, text) for text in texts)]
    return [column for column in columns if column not in same]


def _say_the_same(table: _Sample, one: int, other: int) -> bool:
    pairs = set(zip(table.cells(one), table.cells(other), strict=True))
    return len({first for first, _ in pairs}) == len(pairs) == len({second for _, second in pairs})


def _ambiguous(table: _Sample, columns: list[int]) -> DatasetError:
    reason = f"several columns may have the labels: {table.list_names(columns)}" if columns else "no column has labels"
    return DatasetError(f"{reason}. The columns are {table.list_names()}. Say which one has: --label-column NAME.")

"""Builds a `Listing` from CSV tables of image files and labels: one table, or one for each split."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from graft.training.config.read_options import ReadOptions
from graft.training.data.errors import DatasetError, ScanIssues, examples, printable
from graft.training.data.listing import Listing, ListingBuilder
from graft.training.data.readers.source import Source
from graft.training.data.split_names import split_from_name
from graft.training.data.tables.csv_table import Table, open_csv
from graft.training.data.tables.label_cells import ONES, LabelFormat, infer_separator
from graft.training.data.tables.table_columns import Row, TableColumns
from graft.training.data.tables.table_files import FileFinder
from graft.training.runtime.progress import Progress

SEPARATOR_NAMES = {"|": "a bar", ";": "a semicolon", ",": "a comma", " ": "a space", "": ""}


def read_table(table: Path, options: ReadOptions, issues: ScanIssues) -> tuple[Source, Listing, bool]:
    """List the images of one table. Paths are relative to its folder.

    Returns:
        The source, the listing, and whether the groups are a column of the table.

    Raises:
        DatasetError: if the table cannot be read or lacks a required column.
    """
    source = Source(table.parent)
    finder = FileFinder(source, None, options.suffix, options.follow_links)
    opened = open_csv(source, table.name, "", options, finder)
    return source, _read([opened], options, finder, issues), opened.columns.group is not None


def read_tables(
    source: Source, paths: list[str], files: list[str], options: ReadOptions, issues: ScanIssues
) -> tuple[Listing, bool] | None:
    """List the images of the tables in a folder or archive, each the table of one split or the only one.

    Args:
        paths: the tables.
        files: the images.

    Returns:
        The listing, and whether the groups are a column; None if no table has images and labels.

    Raises:
        DatasetError: if it is not clear which of several tables is meant.
    """
    finder = FileFinder(source, files, options.suffix, options.follow_links)
    tables: list[Table] = []
    unused: list[tuple[str, DatasetError]] = []
    for path in sorted(paths):
        try:
            tables.append(open_csv(source, path, _split_of(path), options, finder))
        except DatasetError as error:
            unused.append((path, error))
    if not tables:
        return None
    if len(tables) > 1 and not all(table.split for table in tables):
        names = ", ".join(printable(table.path) for table in tables)
        raise DatasetError(f"{source.root} has several tables with labels: {names}. Pass the one that counts.")
    for path, reason in unused:
        issues.add("unused-table", path, f" ({reason})")
    return _read(tables, options, finder, issues), all(table.columns.group is not None for table in tables)


def _split_of(path: str) -> str:
    """Return the split in the name of a table, or of the nearest folder that has one."""
    name, *folders = reversed(path.split("/"))
    return next(filter(None, map(split_from_name, [name.rpartition(".")[0], *folders])), "")


@dataclass(frozen=True)
class _RowReader:
    """Adds the rows of a table to a listing."""

    label_format: LabelFormat
    test_fold: int | None
    finder: FileFinder
    builder: ListingBuilder
    issues: ScanIssues

    def add(self, table: Table, line: int, row: Row) -> None:
        columns = table.columns
        where = f"{table.path}, line {line}" if table.folder or table.split else f"line {line}"
        if len(row) != len(columns.names):
            self.issues.add("bad-row", where)
            return
        split = _split(columns, row, table.split, self.test_fold)
        path, problem = self.finder.find(row[columns.path], table.folder, split)
        if problem:
            self.issues.add(problem, path or row[columns.path].strip() or "(no path)", f" ({where})")
            return
        try:
            names = self.label_format.names([row[column].strip() for column in columns.labels])
        except ValueError as error:
            self.issues.add("bad-label", path, f" ({where}): {error}")
            return
        group = row[columns.group].strip() if columns.group is not None else ""
        self.builder.add(path, names, split, group, f" ({where})")


def _read(tables: list[Table], options: ReadOptions, finder: FileFinder, issues: ScanIssues) -> Listing:
    label_format = _label_format(tables)
    allow_unlabeled = label_format.multilabel and (bool(label_format.columns) or tables[0].columns.has_plural_label)
    folds = sorted({fold for table in tables for fold in _folds(table)})
    test_fold = _select_fold(folds, options.fold, tables)
    reader = _RowReader(label_format, test_fold, finder, ListingBuilder(allow_unlabeled, issues), issues)
    with Progress("listing", 0, "rows") as progress:
        for table in tables:
            for line, row in progress.track(table.rows()):
                reader.add(table, line, row)
    for table in tables:
        if not table.encoding.startswith("utf"):
            issues.add("guessed-encoding", table.path, f" as {table.encoding}")
    listing = reader.builder.build()
    listing.multilabel = label_format.multilabel
    fold = (
        f"; of the folds {', '.join(map(str, folds))}, {test_fold} is the test set; --fold N selects another" if folds else ""
    )
    listing.layout = _describe(tables, label_format) + fold
    return listing


def _split(columns: TableColumns, row: Row, table_split: str, test_fold: int | None) -> str:
    """Return the split of a row, in the table's spelling."""
    if columns.split is not None and columns.split_flag:
        other = "test" if columns.split_flag == "train" else "train"
        return columns.split_flag if row[columns.split].strip().casefold() in ONES else other
    if columns.split is not None:
        return row[columns.split].strip()
    if columns.fold is not None and test_fold is not None:
        return "test" if _fold(row[columns.fold]) == test_fold else "train"
    return table_split


def _fold(cell: str) -> int | None:
    number = cell.strip().removesuffix(".0")
    return int(number) if number.isdecimal() else None


def _folds(table: Table) -> set[int]:
    column = table.columns.fold
    if column is None or table.columns.split is not None or table.split:
        return set()
    return {fold for row in table.complete_rows() if (fold := _fold(row[column])) is not None}


def _select_fold(folds: list[int], requested: int | None, tables: list[Table]) -> int | None:
    if requested is not None and requested not in folds:
        known = f"has the folds {', '.join(map(str, folds))}" if folds else "has no folds"
        raise DatasetError(f"--fold {requested}: {tables[0].source.root / tables[0].path} {known}.")
    return requested if requested is not None else max(folds, default=None)


def _label_format(tables: list[Table]) -> LabelFormat:
    """Find out from all rows whether an image has several labels, and what separates them."""
    if len(tables[0].columns.labels) > 1:
        return _binary_format(tables)
    cells = {row[table.columns.labels[0]].strip() for table in tables for row in table.complete_rows()}
    is_plural = tables[0].columns.has_plural_label
    separator = infer_separator(cells - {""}, is_plural)
    format_ = LabelFormat(separator)
    # An empty cell of a column such as "tags" means no label; of a column with one label each, it is a mistake.
    has_several = any(len(format_.names([cell])) != 1 for cell in cells - {""})
    return LabelFormat(separator, (), has_several or (is_plural and "" in cells))


def _binary_format(tables: list[Table]) -> LabelFormat:
    """The format of one column for each label: multi-label unless each row has exactly one 1."""
    names = tables[0].columns.label_names
    for table in tables:
        if table.columns.label_names != names:
            raise DatasetError(f"{table.source.root / table.path} has other label columns than {tables[0].path}.")
    counts: Counter[int] = Counter()
    for table in tables:
        for row in table.complete_rows():
            try:
                counts[len(LabelFormat("", names).names([row[column].strip() for column in table.columns.labels]))] += 1
            except ValueError:
                continue  # becomes an issue when the row is read
    return LabelFormat("", names, set(counts) != {1})


def _describe(tables: list[Table], label_format: LabelFormat) -> str:
    """Describe how the tables were understood, in one line."""
    kind = "several labels per image" if label_format.multilabel else "one label per image"
    separator = SEPARATOR_NAMES[label_format.separator]
    separated = f", separated by {separator}" if separator else ""
    splits = "".join(f"; {printable(table.path)} is {table.split}" for table in tables if table.split)
    return f"{examples([table.path for table in tables])}: {tables[0].columns.to_text()}; {kind}{separated}{splits}"

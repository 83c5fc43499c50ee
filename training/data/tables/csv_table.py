"""Opens a CSV table: its encoding, its separator, and the roles of its columns. Yields rows; knows nothing of listings."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TextIO

from graft.training.config.read_options import ReadOptions
from graft.training.data.errors import DatasetError
from graft.training.data.readers.source import Source
from graft.training.data.split_names import UNLABELED
from graft.training.data.tables.table_columns import Row, TableColumns, has_header, infer_columns
from graft.training.data.tables.table_files import FileFinder
from graft.training.data.tables.table_text import open_table, sniff_separator
from graft.training.runtime.spreadsheet import restore

SUFFIXES = (".csv", ".tsv")
SAMPLE_ROWS = 1000  # rows from which the roles of the columns are inferred
SAMPLE_CELLS = 2_000_000
MAX_FIELD_BYTES = 2**20
MAX_COLUMNS = 100_000
MAX_ROW_CHARACTERS = 2**22


@dataclass(frozen=True)
class Table:
    """A CSV table and the roles of its columns.

    Attributes:
        path: relative to the data set.
        split: in the name of the table or its folder; "" if there is none.
        n_skipped: lines before the first row of values.
    """

    source: Source
    path: str
    split: str
    encoding: str
    separator: str
    n_skipped: int
    columns: TableColumns

    @property
    def folder(self) -> str:
        """The folder of the table, relative to the data set."""
        return self.path.rpartition("/")[0]

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Yield each row that is not empty, with its line number."""
        with open_table(self.source, self.path, self.encoding) as file:
            try:
                for line, cells in islice(_parse(file, self.separator), self.n_skipped, None):
                    if any(cells):
                        yield line, cells
            except csv.Error as error:
                raise DatasetError(f"{self.source.root / self.path} cannot be read: {error}.") from None

    def complete_rows(self) -> Iterator[Row]:
        """Yield the rows that have a cell for each column."""
        return (row for _, row in self.rows() if len(row) == len(self.columns.names))


def open_csv(source: Source, path: str, split: str, options: ReadOptions, finder: FileFinder) -> Table:
    """Open a table and infer the roles of its columns from its first rows.

    Raises:
        DatasetError: if it cannot be read, or has no images or no labels.
    """
    name, folder = source.root / path, path.rpartition("/")[0]
    if split == UNLABELED or "submission" in path.rpartition("/")[2].casefold():
        raise DatasetError(f"{name} has no labels to learn.")
    csv.field_size_limit(MAX_FIELD_BYTES)
    with open_table(source, path) as file:
        separator, n_skipped = sniff_separator(file)
        encoding = file.encoding
        try:
            rows = _first_rows(cells for _, cells in _parse(file, separator) if any(cells))
        except csv.Error as error:
            raise DatasetError(f"{name} cannot be read: {error}.") from None
    if not rows:
        raise DatasetError(f"{name} is empty.")
    is_file = _file_test(finder, folder, split)
    header = has_header(rows[0], options, is_file)
    names = [cell.strip() for cell in rows[0]] if header else [str(column + 1) for column in range(len(rows[0]))]
    sample = [row for row in rows[header:] if len(row) == len(names)]
    try:
        _refuse_addresses(sample, is_file)
        columns = infer_columns(names, sample, options, is_file)
    except DatasetError as error:
        raise DatasetError(f"{name}: {error}") from None
    finder.forget_prefix()
    return Table(source, path, split, encoding, separator, n_skipped + header, columns)


def _parse(file: TextIO, separator: str) -> Iterator[tuple[int, Row]]:
    """Yield each row with its line number, without the apostrophes that protect a spreadsheet.

    Raises:
        csv.Error: if a row is too long.
    """
    lines = _BoundedLines(file)
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    for cells in reader:
        if len(cells) > MAX_COLUMNS:
            raise csv.Error(f"line {reader.line_num} has {len(cells):,} cells; the most is {MAX_COLUMNS:,}")
        lines.n_characters = 0
        yield reader.line_num, [restore(cell) for cell in cells]


class _BoundedLines:
    """The lines of a table, as `csv.reader` asks for them. Raises csv.Error if the lines of one row are too long.

    Attributes:
        n_characters: of the current row; set it to 0 after each row.
    """

    def __init__(self, file: TextIO) -> None:
        self._file, self._n_lines = file, 0
        self.n_characters = 0

    def __iter__(self) -> "_BoundedLines":
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_ROW_CHARACTERS + 1)
        self._n_lines += 1
        self.n_characters += len(line)
        if self.n_characters > MAX_ROW_CHARACTERS:
            raise csv.Error(f"the row at line {self._n_lines:,} has more than {MAX_ROW_CHARACTERS:,} characters")
        if not line:
            raise StopIteration
        return line


def _first_rows(rows: Iterator[Row]) -> list[Row]:
    """The first rows of a table, fewer if they are long."""
    sample: list[Row] = []
    n_cells = 0
    for row in islice(rows, SAMPLE_ROWS):
        sample.append(row)
        n_cells += len(row)
        if n_cells > SAMPLE_CELLS:
            break
    return sample


def _file_test(finder: FileFinder, folder: str, split: str) -> Callable[[str], bool]:
    """Return a function that says whether a cell stands for an image file."""
    known: dict[str, bool] = {}

    def is_file(cell: str) -> bool:
        if cell not in known:
            known[cell] = bool(cell.strip()) and not finder.find(cell, folder, split)[1]
        return known[cell]

    return is_file


def _refuse_addresses(sample: list[Row], is_file: Callable[[str], bool]) -> None:
    """Raise DatasetError if the images are on the web."""
    for row in sample[:1]:
        if any(cell.strip().startswith(("http://", "https://")) for cell in row) and not any(map(is_file, row)):
            raise DatasetError("the images are web addresses. Graft fetches nothing: download them and list the files.")

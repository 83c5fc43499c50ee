"""CSV files that people open in a spreadsheet: a label such as `=HYPERLINK(...)` must stay text there, and not run.

A text that a spreadsheet would take for a formula is written with an apostrophe before it, and read back without. Numbers stay
numbers.
"""

import csv
import re
from collections.abc import Iterable
from typing import TextIO

_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # with apostrophes, so that a text which has them already is read back unchanged


class SpreadsheetWriter:
    """Writes rows of CSV. Only `str` cells are protected: pass numbers as numbers.

    Args:
        line_end: as in `csv.writer`.
    """

    def __init__(self, file: TextIO, line_end: str = "\r\n") -> None:
        self._writer = csv.writer(file, lineterminator=line_end)

    def write(self, *cells: str | float | None) -> None:
        """Writes one row; None is an empty cell."""
        self._writer.writerow([protect(cell) if isinstance(cell, str) else cell for cell in cells])

    def write_all(self, rows: Iterable[tuple[str | float | None, ...]]) -> None:
        """Writes several rows."""
        for row in rows:
            self.write(*row)


def protect(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def restore(cell: str) -> str:
    """The text that `protect` made a cell of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell

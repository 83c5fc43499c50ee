"""Prints results on stdout: colored tables that fit the width of a terminal; elsewhere plain aligned columns, complete."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from graft.training.runtime.progress import is_quiet
from graft.training.runtime.terminal import is_terminal, make_console, sanitize

if TYPE_CHECKING:
    from rich.table import Table as RichTable

GAP = 2  # spaces between columns
MIN_FLEXIBLE_WIDTH = 12
# Lines to copy from: on a terminal they are not broken into several.
COPYABLE = ("next: ", "report: ", "package: ", "page: ", "image: ", "all runs: ")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        right: aligned to the right, for numbers.
        optional: left out if the terminal is too narrow, the last optional column first.
    """

    header: str
    right: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of text.

    Attributes:
        key_styles: for each row, the style of its first cell on a terminal, such as "red"; may be empty.
        cell_styles: styles of further cells, by row and column.
        is_prefix: whether the first cell is a prefix such as `error:`; a pipe gets one space after it instead of columns.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    key_styles: tuple[str, ...] = ()
    cell_styles: Mapping[tuple[int, int], str] = field(default_factory=dict)
    is_prefix: bool = False

    @property
    def headers(self) -> tuple[str, ...]:
        """The headers; empty strings if there is no header row."""
        return tuple(column.header for column in self.columns)


def print_table(table: Table) -> None:
    """Prints a table, unless it has no rows."""
    if not table.rows:
        return
    table = replace(table, rows=tuple(tuple(map(_one_line, row)) for row in table.rows))
    if not is_terminal(sys.stdout):
        print("\n".join(_plain_lines(table)))
        return
    console = make_console(sys.stdout)
    fitted = without_optional(table, console.width)
    console.print(_to_rich(fitted, console.width))
    if hidden := [header for header in table.headers if header and header not in fitted.headers]:
        console.print(f"not shown at this width: {', '.join(hidden)}", style="dim")


def print_text(text: str) -> None:
    """Prints lines of text; nothing if the text is empty."""
    if not text:
        return
    if not is_terminal(sys.stdout):
        print(sanitize(text))
        return
    from rich.text import Text

    console = make_console(sys.stdout)
    for line in sanitize(text).split("\n"):
        copyable = next((prefix for prefix in COPYABLE if line.startswith(prefix)), "")
        styled = Text(line)
        styled.stylize("bold", 0, len(copyable))
        styled.stylize("cyan", len(copyable) if copyable else len(line))
        console.print(styled, soft_wrap=bool(copyable))


def terminal_width() -> int | None:
    """The width of the terminal in columns; None if the results go elsewhere."""
    return make_console(sys.stdout).width if is_terminal(sys.stdout) else None


def print_hint(text: str) -> None:
    """Prints what to do next; not with --quiet, because it is not a result."""
    if not is_quiet():
        print_text(text)


def _one_line(cell: str) -> str:
    return sanitize(cell).replace("\n", "\\n").replace("\t", "\\t")


def _widths(table: Table) -> list[int]:
    """Width of each column, in cells of a terminal: a Chinese character takes two."""
    from rich.cells import cell_len

    lines = (table.headers, *table.rows)
    return [max(cell_len(line[index]) for line in lines) for index in range(len(table.columns))]


def _plain_lines(table: Table) -> list[str]:
    from rich.cells import cell_len

    if table.is_prefix:
        return [" ".join(row) for row in table.rows]

    def pad(cell: str, width: int, right: bool) -> str:
        space = " " * (width - cell_len(cell))
        return space + cell if right else cell + space

    widths = _widths(table)
    lines = (table.headers, *table.rows) if any(table.headers) else table.rows
    return [(" " * GAP).join(map(pad, line, widths, (column.right for column in table.columns))).rstrip() for line in lines]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def without_optional(table: Table, width: int) -> Table:
    """The table without the optional columns that do not fit."""
    while _total(_widths(table)) > width:
        index = max((index for index, column in enumerate(table.columns) if column.optional), default=None)
        if index is None:
            break
        columns = table.columns[:index] + table.columns[index + 1 :]
        table = replace(table, columns=columns, rows=tuple(row[:index] + row[index + 1 :] for row in table.rows))
    return table


def _to_rich(table: Table, width: int) -> "RichTable":
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    has_header = any(table.headers)
    grid = RichTable(
        box=box.SIMPLE_HEAD if has_header else None,
        show_header=has_header,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - has_header, 0, 0),  # the box adds one space
        header_style="bold",
    )
    widths: Sequence[int | None] = _shrink(table, width)
    for column, column_width in zip(table.columns, widths, strict=True):
        justify = "right" if column.right else "left"
        grid.add_column(Text(column.header), justify=justify, overflow="fold", width=column_width)  # type: ignore[arg-type]
    styles = table.key_styles or ("",) * len(table.rows)
    for index, (row, style) in enumerate(zip(table.rows, styles, strict=True)):
        others = [Text(cell, table.cell_styles.get((index, column), "")) for column, cell in enumerate(row[1:], 1)]
        grid.add_row(Text(row[0], style), *others)
    return grid


def _shrink(table: Table, width: int) -> list[int | None]:
    """Column widths that fit; the widest column of text is wrapped. All None, which leaves it to rich, if none do."""
    widths = _widths(table)
    if (excess := _total(widths) - width) > 0:
        flexible = max((index for index, column in enumerate(table.columns) if not column.right), key=widths.__getitem__)
        widths[flexible] -= excess
        if widths[flexible] < MIN_FLEXIBLE_WIDTH:
            return [None] * len(widths)
    return list(widths)

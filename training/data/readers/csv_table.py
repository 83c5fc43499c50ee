"""A table of images and labels -> a Listing: a .csv beside its images. What `graft.training.data.readers.parquet` needs of rows is here too."""

import csv
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from graft.training.data.errors import MAX_FILE_BYTES, DatasetError, Mishaps, plain
from graft.training.data.readers.class_folders import Listing, group, part_called
from graft.training.data.readers.filenames import is_unicode, within
from graft.training.data.readers.source import Source
from graft.training.runtime.progress import Progress

SUFFIXES = (".csv", ".tsv")
EXPECTED = (
    "Expected a header path,label (and, if you like, split and group; labels instead of label if an image may have none)."
)


class Rows:
    """Rows of a table on their way into a Listing.

    Args:
        none_allowed: whether an image may have no label at all.
    """

    def __init__(self, none_allowed: bool, mishaps: Mishaps) -> None:
        self.listing = Listing()
        self._none_allowed, self._mishaps = none_allowed, mishaps
        self._names: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._groups: dict[str, bytes] = {"": b""}

    def add(self, path: str, names: tuple[str, ...], split: str, group_name: str) -> None:
        """One row, or a note of why it cannot be used."""
        part = part_called(split)
        if not names and not self._none_allowed:
            self._mishaps.add("no-label", path)
        elif split and not part:
            self._mishaps.add("bad-split", f"{path} ({split})")
        else:
            self.listing.paths.append(path)
            self.listing.names.append(self._names.setdefault(names, names))
            self.listing.parts.append(part)
            if group_name not in self._groups:
                self._groups[group_name] = group(group_name)
            self.listing.groups.append(self._groups[group_name])

    def finish(self) -> Listing:
        """The listing, every path in it once."""
        listing = self.listing
        first: dict[str, int] = {}
        again = [row for row, path in enumerate(listing.paths) if first.setdefault(path, row) != row]
        torn = {listing.paths[row] for row in again if not _same(listing, row, first[listing.paths[row]])}
        for path in sorted({listing.paths[row] for row in again}):
            self._mishaps.add("conflicting-rows" if path in torn else "duplicate-row", path)
        if again:
            _leave_out(listing, {*again, *(first[path] for path in torn)})
        if any(listing.parts) and (partless := {row for row, part in enumerate(listing.parts) if not part}):
            for row in sorted(partless):
                self._mishaps.add("no-split", listing.paths[row])
            _leave_out(listing, partless)
        listing.parts = _usual(listing.parts)
        return listing


def _leave_out(listing: Listing, rows: set[int]) -> None:
    columns: tuple[list[Any], ...] = listing.paths, listing.names, listing.parts, listing.groups
    for column in columns:
        column[:] = [value for row, value in enumerate(column) if row not in rows]


def _usual(parts: list[str]) -> list[str]:
    """Data in one part came in none; in two parts, the second is held out, whatever it is called."""
    found = set(parts)
    if len(found) == 1:
        return [""] * len(parts)
    return ["test" if part == "validation" else part for part in parts] if "test" not in found else parts


def _same(listing: Listing, row: int, other: int) -> bool:
    return (listing.names[row], listing.parts[row]) == (listing.names[other], listing.parts[other])


def grouping(group_by: str | None, columns: list[str], table: Path) -> str | None:
    """The column that says what must not be torn apart, if there is one.

    Raises:
        DatasetError: if a plain word was asked for that is no column. Anything else is a regular expression.
    """
    if group_by is None:
        return "group" if "group" in columns else None
    if group_by in columns:
        return group_by
    if group_by.isidentifier():
        raise DatasetError(f"--group-by {group_by}: {table} has no such column; it has {', '.join(map(plain, columns))}.")
    return None


def listed(table: Path, group_by: str | None, follow_links: bool, mishaps: Mishaps) -> tuple[Source, Listing, bool]:
    """The images that a .csv names, in its own folder or below.

    Raises:
        DatasetError: if it is no readable table with the columns that are needed.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file, Progress("listing", 0, "rows") as progress:
            columns, separator = _header(table, file)
            column = grouping(group_by, columns, table)
            labels = "labels" if "labels" in columns else "label"
            rows = Rows(labels == "labels", mishaps)
            files, several = _Files(table.parent, follow_links, mishaps), labels == "labels"
            for row in progress.each(_cells(file, columns, separator, mishaps)):
                several = several or "|" in row[labels]
                if path := files.checked(row["path"]):
                    names = tuple(sorted({name.strip() for name in row[labels].split("|")} - {""}))
                    rows.add(path, names, row.get("split", ""), row[column] if column else "")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{table} is not UTF-8 at byte {error.start:,}: save it as UTF-8.") from None
    except (OSError, csv.Error) as error:
        raise DatasetError(f"{table} cannot be read: {error}.") from None
    listing = rows.finish()
    listing.multilabel = several
    return Source(table.parent), listing, column is not None


def _header(table: Path, file: TextIO) -> tuple[list[str], str]:
    """The columns' names and the separator."""
    with table.open("rb") as raw:
        head = raw.read(4096)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head:
        raise DatasetError(f"{table} is UTF-16, or no text: save it as UTF-8 (in Excel: CSV UTF-8).")
    line = file.readline(65536)
    separator = max(",;\t", key=line.count)
    columns = [cell.strip().casefold() for cell in next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])]
    if "path" not in columns or not {"label", "labels"} & set(columns) or len(set(columns)) < len(columns):
        raise DatasetError(f"{table} has the header {line.strip()[:200]!r}. {EXPECTED}")
    return columns, separator


def _cells(file: TextIO, columns: list[str], separator: str, mishaps: Mishaps) -> Iterator[dict[str, str]]:
    """The rows by column; empty lines are skipped."""
    reader = csv.reader(file, delimiter=separator, skipinitialspace=True)
    for cells in reader:
        if len(cells) == len(columns):
            yield {column: cell.strip() if column != "path" else cell for column, cell in zip(columns, cells, strict=True)}
        elif any(cells):
            mishaps.add("bad-row", f"line {reader.line_num + 1}")


class _Files:
    """Which paths of a table are files below its folder."""

    def __init__(self, folder: Path, follow_links: bool, mishaps: Mishaps) -> None:
        self._folder, self._home = str(folder), os.path.realpath(folder)
        self._follow_links, self._mishaps = follow_links, mishaps
        self._inside: dict[str, bool] = {}  # the folders that were met

    def checked(self, cell: str) -> str:
        """The path as samples have it; "" if it cannot be used, which is noted."""
        path = cell if os.path.lexists(os.path.join(self._folder, cell)) else cell.strip()
        kind = self._amiss(path)
        if kind:
            self._mishaps.add(kind, path or "(no path)")
            return ""
        return os.path.normpath(path)

    def _amiss(self, path: str) -> str:
        if not path or "\0" in path:
            return "missing"
        if not is_unicode(path):
            return "bad-name"
        if os.path.isabs(path) or ".." in path.split("/"):
            return "outside"
        full = os.path.join(self._folder, path)
        try:
            link, status = os.path.islink(full), os.stat(full)
        except OSError as error:
            return "unreadable" if isinstance(error, PermissionError) else "missing"
        if not self._follow_links and not self._is_inside(os.path.realpath(full) if link else full):
            return "outside"
        if not stat.S_ISREG(status.st_mode):
            return "missing"
        if status.st_size > MAX_FILE_BYTES:
            return "too-large"
        readable = status.st_mode & 0o444 == 0o444 or os.access(full, os.R_OK, effective_ids=True)
        return "" if readable else "unreadable"

    def _is_inside(self, full: str) -> bool:
        folder = os.path.dirname(full)
        if folder not in self._inside:
            self._inside[folder] = within(os.path.realpath(folder), self._home)
        return self._inside[folder]

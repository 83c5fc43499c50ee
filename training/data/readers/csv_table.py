"""Reads a CSV table of image paths and labels into a `Listing`. `ListingBuilder` is shared with the Parquet reader."""

import csv
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from graft.training.data.errors import MAX_FILE_BYTES, DatasetError, ScanIssues, printable
from graft.training.data.readers.class_folders import Listing, group_id, split_from_name
from graft.training.data.readers.filenames import is_unicode, is_within
from graft.training.data.readers.source import Source
from graft.training.runtime.progress import Progress

SUFFIXES = (".csv", ".tsv")
EXPECTED_HEADER = (
    "Expected a header path,label with optional columns split and group; use labels instead of label if an image can have none."
)


class ListingBuilder:
    """Builds a `Listing` from the rows of a table.

    Args:
        allow_unlabeled: whether an image can have no label.
    """

    def __init__(self, allow_unlabeled: bool, issues: ScanIssues) -> None:
        self.listing = Listing()
        self._allow_unlabeled, self._issues = allow_unlabeled, issues
        self._label_tuples: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._group_ids: dict[str, bytes] = {"": b""}

    def add(self, path: str, label_names: tuple[str, ...], split: str, group_name: str) -> None:
        """Add one row, or record an issue if it cannot be used."""
        canonical_split = split_from_name(split)
        if not label_names and not self._allow_unlabeled:
            self._issues.add("no-label", path)
        elif split and not canonical_split:
            self._issues.add("bad-split", f"{path} ({split})")
        else:
            self.listing.paths.append(path)
            self.listing.label_names.append(self._label_tuples.setdefault(label_names, label_names))
            self.listing.splits.append(canonical_split)
            if group_name not in self._group_ids:
                self._group_ids[group_name] = group_id(group_name)
            self.listing.groups.append(self._group_ids[group_name])

    def build(self) -> Listing:
        """Return the listing without duplicate paths."""
        listing = self.listing
        first: dict[str, int] = {}
        duplicates = [row for row, path in enumerate(listing.paths) if first.setdefault(path, row) != row]
        conflicting = {
            listing.paths[row] for row in duplicates if not _same_labels_and_split(listing, row, first[listing.paths[row]])
        }
        for path in sorted({listing.paths[row] for row in duplicates}):
            self._issues.add("conflicting-rows" if path in conflicting else "duplicate-row", path)
        if duplicates:
            _remove_rows(listing, {*duplicates, *(first[path] for path in conflicting)})
        if any(listing.splits) and (without_split := {row for row, split in enumerate(listing.splits) if not split}):
            for row in sorted(without_split):
                self._issues.add("no-split", listing.paths[row])
            _remove_rows(listing, without_split)
        listing.splits = _normalize_splits(listing.splits)
        return listing


def _remove_rows(listing: Listing, rows: set[int]) -> None:
    columns: tuple[list[Any], ...] = listing.paths, listing.label_names, listing.splits, listing.groups
    for column in columns:
        column[:] = [value for row, value in enumerate(column) if row not in rows]


def _normalize_splits(splits: list[str]) -> list[str]:
    """Ignore a single split; of two splits, the second one is the test set, whatever its name."""
    distinct = set(splits)
    if len(distinct) == 1:
        return [""] * len(splits)
    return ["test" if split == "validation" else split for split in splits] if "test" not in distinct else splits


def _same_labels_and_split(listing: Listing, row: int, other: int) -> bool:
    return (listing.label_names[row], listing.splits[row]) == (listing.label_names[other], listing.splits[other])


def group_column(group_by: str | None, columns: list[str], table: Path) -> str | None:
    """Return the column with the groups, if there is one.

    Raises:
        DatasetError: if `group_by` is an identifier but not a column. Anything else is a regular expression on the path.
    """
    if group_by is None:
        return "group" if "group" in columns else None
    if group_by in columns:
        return group_by
    if group_by.isidentifier():
        raise DatasetError(f"--group-by {group_by}: {table} has no such column, only {', '.join(map(printable, columns))}.")
    return None


def read_listing(table: Path, group_by: str | None, follow_links: bool, issues: ScanIssues) -> tuple[Source, Listing, bool]:
    """List the images of a CSV table. Paths are relative to its folder.

    Returns:
        The source, the listing, and whether `group_by` is a column of the table.

    Raises:
        DatasetError: if the table cannot be read or lacks a required column.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file, Progress("listing", 0, "rows") as progress:
            columns, separator = _header(table, file)
            column = group_column(group_by, columns, table)
            label_column = "labels" if "labels" in columns else "label"
            multilabel = label_column == "labels"
            builder, checker = ListingBuilder(multilabel, issues), _PathChecker(table.parent, follow_links, issues)
            for row in progress.track(_read_rows(file, columns, separator, issues)):
                multilabel = multilabel or "|" in row[label_column]
                if path := checker.check(row["path"]):
                    names = tuple(sorted({name.strip() for name in row[label_column].split("|")} - {""}))
                    builder.add(path, names, row.get("split", ""), row[column] if column else "")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{table} is not UTF-8 at byte {error.start:,}: save it as UTF-8.") from None
    except (OSError, csv.Error) as error:
        raise DatasetError(f"{table} cannot be read: {error}.") from None
    listing = builder.build()
    listing.multilabel = multilabel
    return Source(table.parent), listing, column is not None


def _header(table: Path, file: TextIO) -> tuple[list[str], str]:
    """Return the column names and the separator."""
    with table.open("rb") as raw:
        head = raw.read(4096)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head:
        raise DatasetError(f"{table} is UTF-16 or not a text file: save it as UTF-8 (in Excel: CSV UTF-8).")
    line = file.readline(65536)
    separator = max(",;\t", key=line.count)
    columns = [cell.strip().casefold() for cell in next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])]
    if "path" not in columns or not {"label", "labels"} & set(columns) or len(set(columns)) < len(columns):
        raise DatasetError(f"{table} has the header {line.strip()[:200]!r}. {EXPECTED_HEADER}")
    return columns, separator


def _read_rows(file: TextIO, columns: list[str], separator: str, issues: ScanIssues) -> Iterator[dict[str, str]]:
    """Yield each row as a dict by column; skip empty lines."""
    reader = csv.reader(file, delimiter=separator, skipinitialspace=True)
    for cells in reader:
        if len(cells) == len(columns):
            yield {column: cell.strip() if column != "path" else cell for column, cell in zip(columns, cells, strict=True)}
        elif any(cells):
            issues.add("bad-row", f"line {reader.line_num + 1}")


class _PathChecker:
    """Validates that the paths of a table are usable files inside its folder."""

    def __init__(self, folder: Path, follow_links: bool, issues: ScanIssues) -> None:
        self._folder, self._real_folder = str(folder), os.path.realpath(folder)
        self._follow_links, self._issues = follow_links, issues
        self._inside_by_folder: dict[str, bool] = {}  # by folder

    def check(self, cell: str) -> str:
        """Return the normalized path; record an issue and return "" if it cannot be used."""
        path = cell if os.path.lexists(os.path.join(self._folder, cell)) else cell.strip()
        kind = self._file_issue(path)
        if kind:
            self._issues.add(kind, path or "(no path)")
            return ""
        return os.path.normpath(path)

    def _file_issue(self, path: str) -> str:
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
        if folder not in self._inside_by_folder:
            self._inside_by_folder[folder] = is_within(os.path.realpath(folder), self._real_folder)
        return self._inside_by_folder[folder]

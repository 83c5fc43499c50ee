"""Finds the image files that a table means: exactly as written, or by their name in an index of the folder."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from graft.training.data.errors import MAX_FILE_BYTES, DatasetError, ScanIssues
from graft.training.data.readers.filenames import IMAGE_SUFFIXES, is_unicode, is_within, suffix
from graft.training.data.readers.source import Source
from graft.training.data.split_names import split_from_name

Problem = Literal["", "missing", "ambiguous-file", "bad-name", "outside", "too-large", "unreadable"]


class FileFinder:
    """Finds the file of each row.

    A path counts as written, relative to the table. If no such file exists, the files of the data set are searched: for
    files in deeper folders, files whose suffix the table leaves out, and for paths that begin elsewhere, such as
    `C:\\photos\\cat\\1.jpg` or `photos/cat/1.jpg` for `cat/1.jpg`.

    Args:
        source: the data set.
        files: its images, if they have been listed; None to look on disk, and to list them only if a path does not exist.
        added_suffix: added to each path, such as ".jpg".
    """

    def __init__(self, source: Source, files: Iterable[str] | None, added_suffix: str, follow_links: bool) -> None:
        self._source, self._follow_links = source, follow_links
        self._suffix = f".{added_suffix.lstrip('.')}" if added_suffix else ""
        self._listed = None if files is None else frozenset(files)
        self._disk = DiskCheck(source.root, follow_links)
        self._index: dict[str, list[str]] | None = None
        self._prefix: str | None = None  # what precedes the paths below the data set, the same for all rows

    def find(self, cell: str, folder: str = "", split: str = "", search: bool = True) -> tuple[str, Problem]:
        """Return the path relative to the data set, or what is wrong with it.

        Args:
            cell: the path as in the table.
            folder: the folder of the table, relative to the data set.
            split: of the row; of several files with the same name, the one in a folder of this split is meant.
            search: whether to search for files that do not exist as written.
        """
        path = ""
        problem: Problem = "missing"
        for spelling in dict.fromkeys((cell, cell.strip(), cell.strip().replace("\\", "/"))):
            path, problem = self._exact(spelling + self._suffix, folder)
            if problem not in ("missing", "outside"):
                return path, problem
        if not search or not cell.strip() or "\0" in cell:
            return "", problem
        return self._search((cell.strip() + self._suffix).replace("\\", "/"), folder, split, problem)

    def forget_prefix(self) -> None:
        """Forget where the paths of the rows begin, which the cells of another column may have set."""
        self._prefix = None

    def _exact(self, written: str, folder: str) -> tuple[str, Problem]:
        if not written or "\0" in written:
            return "", "missing"
        if not is_unicode(written):
            return written, "bad-name"
        path = os.path.normpath(os.path.join(folder, written))
        if os.path.isabs(path) or path.split("/")[0] == "..":
            return written, "outside"
        if self._listed is not None:
            return path, "" if path in self._listed else "missing"
        return path, self._disk.problem(path)

    def _search(self, written: str, folder: str, split: str, problem: Problem) -> tuple[str, Problem]:
        parts = [part for part in written.casefold().split("/") if part not in ("", ".")]
        matches = [path for path in self._candidates(parts) if self._matches(path, written, parts, folder)]
        if len(matches) > 1:
            matches = [path for path in matches if folder and path.startswith(f"{folder}/")] or matches
        if len(matches) > 1 and split:
            matches = [path for path in matches if split in map(split_from_name, path.split("/")[:-1])] or matches
        if len(matches) > 1 and not self._are_copies(matches):
            return written, "ambiguous-file"
        if not matches:
            return written, problem
        return matches[0], "" if self._listed is not None else self._disk.problem(matches[0])

    def _matches(self, path: str, written: str, parts: list[str], folder: str) -> bool:
        """Return whether a file is in a deeper folder than written, or the written path begins above the data set."""
        found = path.casefold().split("/")
        found[-1] = parts[-1]  # the same but for a suffix, as the index says
        if found[-len(parts) :] == parts:
            return True
        below = found[folder.count("/") + 1 :] if folder and path.startswith(f"{folder}/") else found
        if parts[-len(below) :] != below:
            return False
        prefix = "/".join(parts[: -len(below)])
        if self._prefix is None:
            self._prefix = prefix
        return prefix == self._prefix

    def _are_copies(self, paths: list[str]) -> bool:
        """Return whether files have the same bytes: some archives hold a folder twice."""
        try:
            return len({self._source.read(path) for path in paths}) == 1
        except DatasetError:
            return False

    def _candidates(self, parts: list[str]) -> list[str]:
        """Return the files with the same name, and the same folder if there are any."""
        if self._index is None:
            self._index = _index_by_name(self._list_files() if self._listed is None else sorted(self._listed))
        name = parts[-1]
        for key in (f"{'/'.join(parts[-2:-1])}/{_stem(name)}", _stem(name)):
            if paths := self._index.get(key):
                return [path for path in paths if suffix(name) not in IMAGE_SUFFIXES or suffix(path) == suffix(name)]
        return []

    def _list_files(self) -> Iterable[str]:
        return (path for path, _ in self._source.list_files(ScanIssues(), self._follow_links))


def _index_by_name(paths: Iterable[str]) -> dict[str, list[str]]:
    """Index files by their name without its suffix, and by their folder and name."""
    index: dict[str, list[str]] = {}
    for path in paths:
        if suffix(path) in IMAGE_SUFFIXES or not suffix(path):
            *folders, name = path.casefold().split("/")
            stem = _stem(name)
            index.setdefault(stem, []).append(path)
            index.setdefault(f"{folders[-1] if folders else ''}/{stem}", []).append(path)
    return index


def _stem(name: str) -> str:
    """Return a file name without the suffix of an image format."""
    ending = suffix(name)
    return name[: -len(ending)] if ending in IMAGE_SUFFIXES else name


class DiskCheck:
    """Checks that paths are usable files inside a folder."""

    def __init__(self, folder: Path, follow_links: bool) -> None:
        self._folder, self._real_folder = str(folder), os.path.realpath(folder)
        self._follow_links = follow_links
        self._inside_by_folder: dict[str, bool] = {}  # by folder

    def problem(self, path: str) -> Problem:
        """Return what is wrong with a file; "" if nothing is."""
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

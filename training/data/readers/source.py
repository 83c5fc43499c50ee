"""Reads files from a folder, an archive or binary files with many images. Decodes nothing and never writes to the source."""

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from graft.service.imaging.formats import detect_format
from graft.service.imaging.unsupported import is_photo
from graft.training.data.errors import MAX_FILE_BYTES, DatasetError, ScanIssues
from graft.training.data.readers.archive import ArchiveReader
from graft.training.data.readers.containers import HEAD_BYTES, is_archive
from graft.training.data.readers.decompress import decompressed_copy, is_compressed
from graft.training.data.readers.filenames import IMAGE_SUFFIXES, is_hidden, is_unicode, is_within, suffix


class Reader(Protocol):
    """Lists and reads files."""

    def list_files(self, issues: ScanIssues, follow_links: bool) -> Iterator[tuple[str, int]]:
        """Yield each file's path and size in bytes; size 0 if it is not known without extra work."""

    def read(self, path: str, n_bytes: int) -> bytes:
        """Return the first `n_bytes` of a file, or all of it if negative. Raises OSError, ValueError, KeyError and others."""


@dataclass(frozen=True)
class Source:
    """The files of a data set.

    Attributes:
        root: the path given by the user: a folder, or a file with many images.
        reader: reads the files; None selects a folder or archive reader.
    """

    root: Path
    reader: Reader | None = None

    @cached_property
    def _active_reader(self) -> Reader:
        if self.reader:
            return self.reader
        return ArchiveReader(self.root) if self.root.is_file() else FolderReader(self.root)

    def read(self, path: str) -> bytes:
        """Return the bytes of one file. Thread-safe and fork-safe.

        Raises:
            DatasetError: if it no longer exists, cannot be read, or exceeds the size limit; the message has its path.
        """
        return self._read(path, -1)

    def head(self, path: str) -> bytes:
        """Return the first 512 bytes of one file without reading the rest. Raises DatasetError like `read`."""
        return self._read(path, HEAD_BYTES)

    def _read(self, path: str, n_bytes: int) -> bytes:
        try:
            return self._active_reader.read(path, n_bytes)
        except DatasetError:
            raise
        except (OSError, ValueError, KeyError, EOFError, zlib.error, struct.error) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise DatasetError(f"{self.root / path} cannot be read: {reason}") from None

    def is_image(self, path: str) -> bool:
        """Return whether a file is an image, by name or magic bytes, and not hidden."""
        if any(map(is_hidden, path.split("/"))):
            return False
        return suffix(path) in IMAGE_SUFFIXES or is_photo(head := self.head(path)) or detect_format(head) is not None

    def is_archive(self, path: str) -> bool:
        """Return whether a file is an archive or compressed, by its magic bytes, and not hidden."""
        return not any(map(is_hidden, path.split("/"))) and is_archive(self.head(path), suffix(path))

    def list_files(self, issues: ScanIssues | None = None, follow_links: bool = False) -> Iterator[tuple[str, int]]:
        """Yield each file's path, relative to the root, and size in bytes; size 0 if it is not known without extra work."""
        return self._active_reader.list_files(issues or ScanIssues(), follow_links)

    def byte_range(self, path: str) -> tuple[Path, int, int]:
        """Return (file, offset, length) of the uncompressed bytes of one file, for random access.

        Raises:
            DatasetError: if there is no such range, for example in a zip.
        """
        if isinstance(self._active_reader, FolderReader | ArchiveReader):
            return self._active_reader.byte_range(path)
        raise DatasetError(f"{path} in {self.root} is not a separate file.")


@dataclass(frozen=True)
class FolderReader:
    """Reads the files in a folder."""

    root: Path

    def read(self, path: str, n_bytes: int) -> bytes:
        """Return the first `n_bytes` of a file, or all of it if negative."""
        with (self.root / path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES and n_bytes < 0:
                raise ValueError(f"it has {size:,} bytes; an image has at most {MAX_FILE_BYTES:,}.")
            return file.read(n_bytes)

    def byte_range(self, path: str) -> tuple[Path, int, int]:
        """Return the range of the whole file, or of a decompressed copy in the cache."""
        file = self.root / path
        file = decompressed_copy(file) if is_compressed(file) else file
        return file, 0, file.stat().st_size

    def list_files(self, issues: ScanIssues, follow_links: bool) -> Iterator[tuple[str, int]]:
        """Yield the files sorted by name, the files of a folder before its subfolders."""
        walker = _DirectoryWalker(self.root, issues, follow_links)
        stack = [""]
        while stack:
            files, folders = walker.list_folder(stack.pop())
            stack.extend(reversed(folders))
            # No extra objects per file besides the path: a folder may have a million.
            yield from ((path, 0) for path in files)


class _DirectoryWalker:
    """Walks a directory tree and visits every folder once."""

    def __init__(self, root: Path, issues: ScanIssues, follow_links: bool) -> None:
        self._root, self._real_root = str(root), os.path.realpath(root)
        self._issues, self._follow_links = issues, follow_links
        self._visited: set[tuple[int, int]] = set()

    def list_folder(self, folder: str) -> tuple[list[str], list[str]]:
        """Return the paths of the files and of the subfolders in a folder, both sorted."""
        files: list[str] = []
        folders: list[str] = []
        try:
            if not self._is_first_visit(os.stat(os.path.join(self._root, folder))):
                self._issues.add("link-loop", folder)
                return files, folders
            with os.scandir(os.path.join(self._root, folder)) as entries:
                for entry in entries:
                    self._add_entry(entry, f"{folder}/{entry.name}" if folder else entry.name, files, folders)
        except OSError:
            self._issues.add("unreadable-folder", folder or ".")
        if not folders and not any(suffix(path) in IMAGE_SUFFIXES for path in files):
            self._issues.empty_folders.append(folder)
        return sorted(files), sorted(folders)

    def _is_first_visit(self, status: os.stat_result) -> bool:
        inode = status.st_dev, status.st_ino
        is_first = inode not in self._visited
        self._visited.add(inode)
        return is_first

    def _add_entry(self, entry: os.DirEntry[str], path: str, files: list[str], folders: list[str]) -> None:
        if not is_unicode(entry.name):
            self._issues.add("bad-name", path)
        elif entry.is_symlink():
            self._add_link(entry, path, files, folders)
        elif entry.is_dir(follow_symlinks=False):
            if not is_hidden(entry.name):
                folders.append(path)
        elif kind := self._file_issue(entry):
            self._issues.add(kind, path)
        else:
            files.append(path)

    def _add_link(self, entry: os.DirEntry[str], path: str, files: list[str], folders: list[str]) -> None:
        """Classify a symbolic link. Links to files in the data set are kept; links to its folders would count images twice."""
        target = os.path.realpath(entry.path)
        is_inside = is_within(target, self._real_root)
        try:
            is_folder = stat.S_ISDIR(entry.stat().st_mode)
        except OSError:
            # Lock files and sockets are often dangling links; only a link with an image-like name is an error.
            self._issues.add("broken-link" if suffix(path) in IMAGE_SUFFIXES | {""} else "ignored", path)
            return
        if is_folder and (is_inside or is_within(self._real_root, target)):
            self._issues.add("link-loop", path)
        elif not is_inside and not self._follow_links:
            self._issues.add("link-out", path)
        elif is_folder:
            folders.append(path)
        elif kind := self._file_issue(entry):
            self._issues.add(kind, path)
        else:
            files.append(path)

    def _file_issue(self, entry: os.DirEntry[str]) -> str:
        """Return the kind of issue that makes a file unusable; "" if there is none."""
        try:
            status = entry.stat()
        except OSError:
            return "unreadable"
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would block forever
            return "ignored"
        if status.st_size > MAX_FILE_BYTES and suffix(entry.name) in IMAGE_SUFFIXES:
            return "too-large"
        # os.access() is slow and not needed for world-readable files.
        readable = status.st_mode & 0o444 == 0o444 or os.access(entry.path, os.R_OK, effective_ids=True)
        return "" if readable else "unreadable"

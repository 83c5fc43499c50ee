"""Where the bytes are: a folder, an archive, or files of many images. Nothing is decoded, and nothing is written there."""

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from graft.service.imaging.headers import kind
from graft.training.data.errors import MAX_FILE_BYTES, DatasetError, Mishaps
from graft.training.data.readers.archive import Archive
from graft.training.data.readers.decompress import packed, spooled
from graft.training.data.readers.filenames import SUFFIXES, hidden, is_unicode, suffix, within

_FOREIGN = (b"II*\0", b"MM\0*", b"\0\0\0\x0cJXL ", b"\0\0\0\x0cjP  ")  # TIFF, JPEG XL, JPEG 2000
_FOREIGN_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis")
_HEAD = 16  # bytes that tell what a file is


class Reader(Protocol):
    """What can list and read files."""

    def names(self, mishaps: Mishaps, follow_links: bool) -> Iterator[tuple[str, int]]:
        """Every file's path and, where that is free to know, its size in bytes, else 0."""

    def read(self, path: str, n_bytes: int) -> bytes:
        """The first `n_bytes` of a file, all of it if negative. Raises OSError, ValueError, KeyError and the like."""


@dataclass(frozen=True)
class Source:
    """Where the bytes are.

    Attributes:
        root: what a person named: a folder, or a file that holds many.
        reader: how to read below it; None for a plain folder or archive.
    """

    root: Path
    reader: Reader | None = None

    @cached_property
    def _files(self) -> Reader:
        if self.reader:
            return self.reader
        return Archive(self.root) if self.root.is_file() else Folder(self.root)

    def read(self, path: str) -> bytes:
        """The bytes of one file below the root. Safe in several threads and processes.

        Raises:
            DatasetError: if it vanished, cannot be read, or is too large to be an image; the text names it.
        """
        return self._read(path, -1)

    def head(self, path: str) -> bytes:
        """The first 16 bytes of one file, without reading the rest. Raises DatasetError, as `read` does."""
        return self._read(path, _HEAD)

    def _read(self, path: str, n_bytes: int) -> bytes:
        try:
            return self._files.read(path, n_bytes)
        except DatasetError:
            raise
        except (OSError, ValueError, KeyError, EOFError, zlib.error, struct.error) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise DatasetError(f"{self.root / path} cannot be read: {reason}") from None

    def holds_image(self, path: str) -> bool:
        """Whether a file is an image by its name or by its first bytes, and not hidden."""
        if any(map(hidden, path.split("/"))):
            return False
        return suffix(path) in SUFFIXES or _looks_foreign(head := self.head(path)) or kind(head) is not None

    def names(self, mishaps: Mishaps | None = None, follow_links: bool = False) -> Iterator[tuple[str, int]]:
        """Every file's path below the root, and its size in bytes where that is free to know, else 0."""
        return self._files.names(mishaps or Mishaps(), follow_links)

    def region(self, path: str) -> tuple[Path, int, int]:
        """The file, offset and length where the uncompressed bytes of one file lie, to be read at random.

        Raises:
            DatasetError: if they lie nowhere, as in a zip.
        """
        if isinstance(self._files, Folder | Archive):
            return self._files.region(path)
        raise DatasetError(f"{path} in {self.root} is no file of its own.")


@dataclass(frozen=True)
class Folder:
    """Files below a folder, or those that a table beside them names."""

    root: Path

    def read(self, path: str, n_bytes: int) -> bytes:
        """The first `n_bytes` of a file, all of it if negative."""
        with (self.root / path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES and n_bytes < 0:
                raise ValueError(f"it has {size:,} bytes; an image has at most {MAX_FILE_BYTES:,}.")
            return file.read(n_bytes)

    def region(self, path: str) -> tuple[Path, int, int]:
        """The file itself, or an uncompressed copy in the cache."""
        file = self.root / path
        file = spooled(file) if packed(file) else file
        return file, 0, file.stat().st_size

    def names(self, mishaps: Mishaps, follow_links: bool) -> Iterator[tuple[str, int]]:
        """Files in the order of their names, those of a folder before those of the folders in it."""
        walk = _Walk(self.root, mishaps, follow_links)
        waiting = [""]
        while waiting:
            files, folders = walk.look_into(waiting.pop())
            waiting.extend(reversed(folders))
            # Only strings that will be kept anyway: a folder may hold a million.
            yield from ((path, 0) for path in files)


class _Walk:
    """One walk through a folder, which meets every folder once."""

    def __init__(self, root: Path, mishaps: Mishaps, follow_links: bool) -> None:
        self._root, self._home = str(root), os.path.realpath(root)
        self._mishaps, self._follow_links = mishaps, follow_links
        self._seen: set[tuple[int, int]] = set()

    def look_into(self, below: str) -> tuple[list[str], list[str]]:
        """The paths of a folder's files and of its folders, each sorted."""
        files: list[str] = []
        folders: list[str] = []
        try:
            if not self._is_new(os.stat(os.path.join(self._root, below))):
                self._mishaps.add("link-loop", below)
                return files, folders
            with os.scandir(os.path.join(self._root, below)) as entries:
                for entry in entries:
                    self._sort(entry, f"{below}/{entry.name}" if below else entry.name, files, folders)
        except OSError:
            self._mishaps.add("unreadable-folder", below or ".")
        if not folders and not any(suffix(path) in SUFFIXES for path in files):
            self._mishaps.barren.append(below)
        return sorted(files), sorted(folders)

    def _is_new(self, status: os.stat_result) -> bool:
        known = (status.st_dev, status.st_ino) in self._seen
        self._seen.add((status.st_dev, status.st_ino))
        return not known

    def _sort(self, entry: os.DirEntry[str], path: str, files: list[str], folders: list[str]) -> None:
        if not is_unicode(entry.name):
            self._mishaps.add("bad-name", path)
        elif entry.is_symlink():
            self._follow(entry, path, files, folders)
        elif entry.is_dir(follow_symlinks=False):
            if not hidden(entry.name):
                folders.append(path)
        elif kind := self._amiss(entry):
            self._mishaps.add(kind, path)
        else:
            files.append(path)

    def _follow(self, entry: os.DirEntry[str], path: str, files: list[str], folders: list[str]) -> None:
        """A link to a file of the data counts as that file; a link to a folder of the data would count it twice."""
        target = os.path.realpath(entry.path)
        inside = within(target, self._home)
        try:
            folder = stat.S_ISDIR(entry.stat().st_mode)
        except OSError:
            # A tool's lock or socket may be a link to nothing; what looks like an image is missed.
            self._mishaps.add("broken-link" if suffix(path) in SUFFIXES | {""} else "ignored", path)
            return
        if folder and (inside or within(self._home, target)):
            self._mishaps.add("link-loop", path)
        elif not inside and not self._follow_links:
            self._mishaps.add("link-out", path)
        elif folder:
            folders.append(path)
        elif kind := self._amiss(entry):
            self._mishaps.add(kind, path)
        else:
            files.append(path)

    def _amiss(self, entry: os.DirEntry[str]) -> str:
        """What forbids to use a file, as a kind of mishap; "" if nothing does."""
        try:
            status = entry.stat()
        except OSError:
            return "unreadable"
        if not stat.S_ISREG(status.st_mode):  # a pipe would keep its reader waiting for ever
            return "ignored"
        if status.st_size > MAX_FILE_BYTES and suffix(entry.name) in SUFFIXES:
            return "too-large"
        # Asking the system is dear, and needless for what anyone may read.
        readable = status.st_mode & 0o444 == 0o444 or os.access(entry.path, os.R_OK, effective_ids=True)
        return "" if readable else "unreadable"


def _looks_foreign(head: bytes) -> bool:
    """Whether the first 16 bytes are those of an image format that is not accepted."""
    return head.startswith(_FOREIGN) or (head[4:8] == b"ftyp" and head[8:12] in _FOREIGN_BRANDS)

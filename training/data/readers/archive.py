"""Reads .zip and .tar members in place with an index of their offsets. Extracts nothing, so path traversal is impossible.

The readers of the standard library need about 1 KB per member and share one file position across threads; this index needs
40 bytes per member and keeps no file open.
"""

import bz2
import os
import struct
import tarfile
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from graft.training.data.errors import MAX_FILE_BYTES, DatasetError, ScanIssues, printable
from graft.training.data.readers.archive_index import (
    BZIP2,
    DEFLATED,
    LOCAL_HEADER,
    TAR_MEMBER,
    MemberLocation,
    tar_members,
    zip_members,
)
from graft.training.data.readers.decompress import (
    BOMB_CHECK_MIN_BYTES,
    MAX_COMPRESSION_RATIO,
    decompressed_copy,
    is_compressed,
    is_tar,
)
from graft.training.runtime.progress import Progress


class ArchiveReader:
    """Reads the members of a zip or tar. Thread-safe and fork-safe: every read opens the archive again."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._index: _MemberIndex | None = None

    def list_files(self, issues: ScanIssues, _: bool) -> Iterator[tuple[str, int]]:
        """Yield each member's path and size in bytes, sorted by path; symbolic links are never followed."""
        self._index = _build_index(self._root, issues)
        yield from zip(self._index.names, self._index.sizes, strict=True)

    def read(self, path: str, n_bytes: int) -> bytes:
        """Return the first `n_bytes` of a member, or all of it if negative."""
        index = self._get_index()
        location = index.locate(path)
        if location[2] > MAX_FILE_BYTES and n_bytes < 0:
            raise ValueError(f"it has {location[2]:,} bytes; an image has at most {MAX_FILE_BYTES:,}.")
        with index.file.open("rb", buffering=0) as file:
            if _fingerprint(file.fileno()) != index.fingerprint:
                raise OSError(f"{self._root.name} has changed since it was listed")
            return _read_member(file.fileno(), location, n_bytes)

    def byte_range(self, path: str) -> tuple[Path, int, int]:
        """Return (file, offset, length) of an uncompressed tar member. Raises DatasetError for members of a zip."""
        index = self._get_index()
        offset, _, n_bytes, method, _ = index.locate(path)
        if method != TAR_MEMBER:
            raise DatasetError(f"{path} cannot be read inside {self._root}: extract the archive first.")
        return index.file, offset, n_bytes

    def _get_index(self) -> "_MemberIndex":
        if self._index is None:  # if two threads both build it, the results are equal
            self._index = _build_index(self._root, ScanIssues())
        return self._index


@dataclass
class _MemberIndex:
    """Locations of the members of `file`, stored by column and sorted by name."""

    file: Path
    fingerprint: tuple[int, int]
    names: list[str] = field(default_factory=list)
    offsets: "array[int]" = field(default_factory=lambda: array("Q"))
    compressed_sizes: "array[int]" = field(default_factory=lambda: array("Q"))
    sizes: "array[int]" = field(default_factory=lambda: array("Q"))
    methods: "array[int]" = field(default_factory=lambda: array("B"))
    checksums: "array[int]" = field(default_factory=lambda: array("I"))

    def add(self, name: str, location: MemberLocation) -> None:
        self.names.append(name)
        for column, value in zip(self._columns(), location, strict=True):
            column.append(value)

    def locate(self, name: str) -> MemberLocation:
        row = bisect_left(self.names, name)
        if row == len(self.names) or self.names[row] != name:
            raise KeyError("the archive has no such member")
        return self.offsets[row], self.compressed_sizes[row], self.sizes[row], self.methods[row], self.checksums[row]

    def sort_and_deduplicate(self, issues: ScanIssues) -> None:
        """Sort by name. Of members with the same name keep the last, as extraction tools do."""
        rows = sorted(range(len(self.names)), key=self.names.__getitem__)
        kept_rows = array("Q")
        for row, next_row in zip(rows, [*rows[1:], -1], strict=True):
            if next_row >= 0 and self.names[row] == self.names[next_row]:
                issues.add("twice-packed", self.names[row])
            else:
                kept_rows.append(row)
        for column in self._columns():
            column[:] = array(column.typecode, (column[row] for row in kept_rows))
        self.names = [self.names[row] for row in kept_rows]

    def _columns(self) -> "tuple[array[int], ...]":
        return self.offsets, self.compressed_sizes, self.sizes, self.methods, self.checksums


def _build_index(root: Path, issues: ScanIssues) -> _MemberIndex:
    """Build the index of an archive. A compressed tar is first decompressed into the cache.

    Raises:
        DatasetError: if the file is damaged or not an archive.
    """
    is_tar_file = is_tar(root)
    file = decompressed_copy(root) if is_tar_file and is_compressed(root) else root
    hard_links: dict[str, str] = {}
    try:
        with file.open("rb") as archive, Progress("listing", 0, "files") as progress:
            index = _MemberIndex(file, _fingerprint(archive.fileno()))
            members = tar_members(archive, hard_links, issues) if is_tar_file else zip_members(archive, issues)
            for name, location in progress.track(members):
                index.add(name, location)
    except (OSError, struct.error, tarfile.TarError) as error:
        raise DatasetError(f"{root} is damaged or truncated: {error}") from None
    if not is_tar_file:
        _check_overlaps(root, index)
    index.sort_and_deduplicate(issues)
    _add_hard_links(index, hard_links, issues)
    _check_total_size(root, index)
    return index


def _check_overlaps(root: Path, index: _MemberIndex) -> None:
    """Raises DatasetError if two members of a zip share bytes: then a small archive can hold any number of large members."""
    offsets, sizes = np.array(index.offsets, np.float64), np.array(index.compressed_sizes, np.float64)
    order = np.argsort(offsets)
    ends = offsets[order] + LOCAL_HEADER.size + sizes[order]
    overlaps = np.flatnonzero(ends[:-1] > offsets[order][1:])
    if len(overlaps):
        first, second = (printable(index.names[row]) for row in order[overlaps[0] : overlaps[0] + 2])
        raise DatasetError(f"{root} is not a valid archive: its members {first} and {second} share the same bytes.")


def _check_total_size(root: Path, index: _MemberIndex) -> None:
    """Raises DatasetError if the members are far larger than the archive, as in a decompression bomb."""
    sizes = np.array(index.sizes, np.float64)
    size, total = root.stat().st_size, int(sizes[sizes <= MAX_FILE_BYTES].sum())  # larger ones are never read
    if total > max(BOMB_CHECK_MIN_BYTES, MAX_COMPRESSION_RATIO * size):
        raise DatasetError(
            f"{root} has {size:,} bytes, and its members {total:,}: more than {MAX_COMPRESSION_RATIO} times its size; no set of"
            " images does."
        )


def _add_hard_links(index: _MemberIndex, hard_links: dict[str, str], issues: ScanIssues) -> None:
    """Add the hard links of a tar to the index, at the location of their targets."""
    locations = {}
    for name, target in hard_links.items():
        try:
            locations[name] = index.locate(target)
        except KeyError:
            issues.add("broken-link", name)
    for name, location in locations.items():
        index.add(name, location)
    if locations:
        index.sort_and_deduplicate(issues)


def _fingerprint(descriptor: int) -> tuple[int, int]:
    """Return (size, modification time in ns), which change when the file does."""
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


def _read_member(descriptor: int, location: MemberLocation, n_bytes: int) -> bytes:
    """Return the first bytes of a member, at most its declared size, so that a zip bomb cannot expand further."""
    offset, compressed_size, size, method, checksum = location
    n_requested = size if n_bytes < 0 else min(n_bytes, size)
    if method == TAR_MEMBER:
        return _read_exactly(descriptor, n_requested, offset)
    signature, *_, n_name, n_extra = LOCAL_HEADER.unpack(_read_exactly(descriptor, LOCAL_HEADER.size, offset))
    if signature != b"PK\x03\x04":
        raise ValueError("the central directory of the archive does not match its contents")
    start = offset + LOCAL_HEADER.size + n_name + n_extra
    if method == DEFLATED:
        content = zlib.decompressobj(-15).decompress(
            _read_compressed(descriptor, compressed_size, start, n_bytes), n_requested + 1
        )
    elif method == BZIP2:
        content = bz2.BZ2Decompressor().decompress(_read_compressed(descriptor, compressed_size, start, -1), n_requested + 1)
    else:
        content = _read_exactly(descriptor, n_requested, start)
    if n_bytes < 0 and (len(content) != size or zlib.crc32(content) != checksum):
        raise ValueError("it is damaged inside the archive")
    return content[:n_requested]


def _read_compressed(descriptor: int, compressed_size: int, start: int, n_bytes: int) -> bytes:
    """Read the compressed bytes of a member: all of them, or enough for its first `n_bytes`."""
    if compressed_size > MAX_FILE_BYTES:
        raise ValueError("it exceeds the size limit for one image")
    return os.pread(descriptor, compressed_size if n_bytes < 0 else min(compressed_size, 4096 + n_bytes), start)


def _read_exactly(descriptor: int, n_bytes: int, offset: int) -> bytes:
    content = os.pread(descriptor, n_bytes, offset)
    if len(content) != n_bytes:
        raise EOFError("the archive is truncated")
    return content

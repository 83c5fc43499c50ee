"""A .zip or .tar, read in place: an index of where each member's bytes lie. Nothing is unpacked, so nothing can escape.

The standard library's readers keep about a kilobyte for each member and one file position for all threads; this keeps
40 bytes and no open file.
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

from graft.training.data.errors import MAX_FILE_BYTES, DatasetError, Mishaps
from graft.training.data.readers.archive_index import BZIP2, DEFLATED, IN_TAR, LOCAL, Place, tar_members, zip_members
from graft.training.data.readers.decompress import is_tar, packed, spooled
from graft.training.runtime.progress import Progress


class Archive:
    """The files in a zip or tar. Safe in several threads and processes: every read opens the archive anew."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._index: _Index | None = None

    def names(self, mishaps: Mishaps, _: bool) -> Iterator[tuple[str, int]]:
        """Every member's path and size, sorted; links are never followed."""
        self._index = _listed(self._root, mishaps)
        yield from zip(self._index.names, self._index.sizes, strict=True)

    def read(self, path: str, n_bytes: int) -> bytes:
        """The first `n_bytes` of a member, all of it if negative."""
        index = self._known()
        place = index.place(path)
        if place[2] > MAX_FILE_BYTES and n_bytes < 0:
            raise ValueError(f"it has {place[2]:,} bytes; an image has at most {MAX_FILE_BYTES:,}.")
        with index.file.open("rb", buffering=0) as file:
            if _stamp(file.fileno()) != index.stamp:
                raise OSError(f"{self._root.name} has changed since it was listed")
            return _content(file.fileno(), place, n_bytes)

    def region(self, path: str) -> tuple[Path, int, int]:
        """The file, offset and length where a member lies as it is. Raises DatasetError if it is packed."""
        index = self._known()
        offset, _, n_bytes, method, _ = index.place(path)
        if method != IN_TAR:
            raise DatasetError(f"{path} cannot be read inside {self._root}: unpack it first.")
        return index.file, offset, n_bytes

    def _known(self) -> "_Index":
        if self._index is None:  # two threads may both list it, to the same end
            self._index = _listed(self._root, Mishaps())
        return self._index


@dataclass
class _Index:
    """Where the members of `file` lie, a column each, sorted by name."""

    file: Path
    stamp: tuple[int, int]
    names: list[str] = field(default_factory=list)
    offsets: "array[int]" = field(default_factory=lambda: array("Q"))
    packed: "array[int]" = field(default_factory=lambda: array("Q"))
    sizes: "array[int]" = field(default_factory=lambda: array("Q"))
    methods: "array[int]" = field(default_factory=lambda: array("B"))
    checksums: "array[int]" = field(default_factory=lambda: array("I"))

    def add(self, name: str, place: Place) -> None:
        self.names.append(name)
        for column, value in zip(self._columns(), place, strict=True):
            column.append(value)

    def place(self, name: str) -> Place:
        row = bisect_left(self.names, name)
        if row == len(self.names) or self.names[row] != name:
            raise KeyError("the archive holds no such file")
        return self.offsets[row], self.packed[row], self.sizes[row], self.methods[row], self.checksums[row]

    def sort(self, mishaps: Mishaps) -> None:
        """Of members with one name the last stays, as every tool that unpacks would have it."""
        rows = sorted(range(len(self.names)), key=self.names.__getitem__)
        kept = array("Q")
        for row, following in zip(rows, [*rows[1:], -1], strict=True):
            if following >= 0 and self.names[row] == self.names[following]:
                mishaps.add("twice-packed", self.names[row])
            else:
                kept.append(row)
        for column in self._columns():
            column[:] = array(column.typecode, (column[row] for row in kept))
        self.names = [self.names[row] for row in kept]

    def _columns(self) -> "tuple[array[int], ...]":
        return self.offsets, self.packed, self.sizes, self.methods, self.checksums


def _listed(root: Path, mishaps: Mishaps) -> _Index:
    """The index of an archive; a compressed tar is spooled into the cache first, once.

    Raises:
        DatasetError: if it is damaged, or no archive.
    """
    tar = is_tar(root)
    file = spooled(root) if tar and packed(root) else root
    hard_links: dict[str, str] = {}
    try:
        with file.open("rb") as opened, Progress("listing", 0, "files") as progress:
            index = _Index(file, _stamp(opened.fileno()))
            members = tar_members(opened, hard_links, mishaps) if tar else zip_members(opened, mishaps)
            for name, place in progress.each(members):
                index.add(name, place)
    except (OSError, struct.error, tarfile.TarError) as error:
        raise DatasetError(f"{root} is damaged or cut off: {error}") from None
    index.sort(mishaps)
    _link(index, hard_links, mishaps)
    return index


def _link(index: _Index, hard_links: dict[str, str], mishaps: Mishaps) -> None:
    """Gives a tar's hard links the place of what they link to."""
    places = {}
    for name, target in hard_links.items():
        try:
            places[name] = index.place(target)
        except KeyError:
            mishaps.add("broken-link", name)
    for name, place in places.items():
        index.add(name, place)
    if places:
        index.sort(mishaps)


def _stamp(descriptor: int) -> tuple[int, int]:
    """What changes when a file does."""
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


def _content(descriptor: int, place: Place, n_bytes: int) -> bytes:
    """The first bytes of a member, never more than its entry claims: a bomb stops at what it said it was."""
    offset, n_packed, size, method, checksum = place
    wanted = size if n_bytes < 0 else min(n_bytes, size)
    if method == IN_TAR:
        return _exactly(descriptor, wanted, offset)
    signature, *_, n_name, n_extra = LOCAL.unpack(_exactly(descriptor, LOCAL.size, offset))
    if signature != b"PK\x03\x04":
        raise ValueError("the archive's directory does not match its contents")
    start = offset + LOCAL.size + n_name + n_extra
    if method == DEFLATED:
        content = zlib.decompressobj(-15).decompress(_packed(descriptor, n_packed, start, n_bytes), wanted + 1)
    elif method == BZIP2:
        content = bz2.BZ2Decompressor().decompress(_packed(descriptor, n_packed, start, -1), wanted + 1)
    else:
        content = _exactly(descriptor, wanted, start)
    if n_bytes < 0 and (len(content) != size or zlib.crc32(content) != checksum):
        raise ValueError("it is damaged inside the archive")
    return content[:wanted]


def _packed(descriptor: int, n_packed: int, start: int, n_bytes: int) -> bytes:
    """A member's packed bytes; enough of them where only its first bytes are asked for."""
    if n_packed > MAX_FILE_BYTES:
        raise ValueError("it is larger than any image")
    return os.pread(descriptor, n_packed if n_bytes < 0 else min(n_packed, 4096 + n_bytes), start)


def _exactly(descriptor: int, n_bytes: int, offset: int) -> bytes:
    content = os.pread(descriptor, n_bytes, offset)
    if len(content) != n_bytes:
        raise EOFError("the archive is cut off")
    return content

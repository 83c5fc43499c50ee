"""Parses the central directory of a zip and the headers of a tar: yields member names and locations, reads no content."""

import os
import posixpath
import re
import shlex
import stat
import struct
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from graft.training.data.errors import SKIP_BAD, DatasetError, ScanIssues, examples, printable
from graft.training.data.findings import Finding
from graft.training.data.readers import containers
from graft.training.data.readers.code_pages import MAX_NAMES, guess_code_page
from graft.training.data.readers.filenames import is_unicode

STORED, DEFLATED, BZIP2 = 0, 8, 12
TAR_MEMBER = 255  # stored without compression and without a local header
MemberLocation = tuple[int, int, int, int, int]  # offset, compressed size, size (bytes), method, CRC-32
# Precedes a member's bytes; the last two fields: lengths of the name and the extra field.
LOCAL_HEADER = struct.Struct("<4s5H3L2H")

_CENTRAL_HEADER = struct.Struct("<4s4B4H3L5H2L")
_END_RECORD = struct.Struct("<4s4H2LH")
_LOCATOR_BYTES = 20
_END_RECORD64 = struct.Struct("<4sQ2H2L4Q")
_ENCRYPTED, _UTF8 = 0x1, 0x800
_DOS, _UNIX, _NTFS = 0, 3, 10
_MAX32 = 0xFFFFFFFF
_ZIP64_FIELD, _UNICODE_PATH_FIELD = 0x0001, 0x7075
_METHOD_NAMES = {1: "Shrink", 6: "Implode", 9: "Deflate64", 14: "LZMA", 93: "Zstandard", 95: "xz", 96: "JPEG", 98: "PPMd"}


class _Entry(NamedTuple):
    """One member in the central directory of a zip.

    Attributes:
        name: as stored.
        unicode_name: the name in UTF-8, if the archive says so.
        mode: of a Unix file.
    """

    name: bytes
    unicode_name: str | None
    system: int
    flags: int
    mode: int
    location: MemberLocation


def zip_members(file: IO[bytes], issues: ScanIssues) -> Iterator[tuple[str, MemberLocation]]:
    """Yield the files of a zip from its central directory. Raises DatasetError, OSError, struct.error."""
    code_page = _code_page(file, issues)
    unreadable = defaultdict[str, list[str]](list)
    for entry in _entries(file):
        method = entry.location[3]
        name = _decode_name(entry, code_page)
        if name.endswith("/"):
            _record_folder(name, issues)
        elif entry.system == _UNIX and stat.S_ISLNK(entry.mode):
            issues.add("archive-link", name)
        elif entry.flags & _ENCRYPTED:
            issues.add("locked", name)
        elif method not in (STORED, DEFLATED, BZIP2):
            unreadable[_METHOD_NAMES.get(method, f"method {method}")].append(name)
        elif (path := _safe_path(name, issues)) is not None:
            yield path, entry.location
    for method_name, paths in unreadable.items():
        remedy = "extract the archive, or compress it again with deflate"
        text = f"archive members compressed with {method_name}: {remedy} ({len(paths):,}): {examples(paths)}"
        issues.report(Finding("packing", "error", text, tuple(paths), tuple(paths), SKIP_BAD))


def _entries(file: IO[bytes]) -> Iterator[_Entry]:
    start, end, shift = _central_directory(file)
    file.seek(start)
    while file.tell() < end:
        fields = _CENTRAL_HEADER.unpack(file.read(_CENTRAL_HEADER.size))
        if fields[0] != b"PK\x01\x02":
            raise DatasetError(f"{file.name} is damaged: its central directory is truncated.")
        system, (flags, method), checksum = fields[2], fields[5:7], fields[9]
        compressed_size, size, n_name, n_extra, n_comment = fields[10:15]
        attributes, offset = fields[17:]
        name, extra = file.read(n_name), _extra_fields(file.read(n_extra))
        size, compressed_size, offset = _apply_zip64(extra.get(_ZIP64_FIELD, b""), size, compressed_size, offset)
        file.seek(n_comment, os.SEEK_CUR)
        unicode_name = name.decode("utf-8", "surrogateescape") if flags & _UTF8 else _unicode_path(extra, name)
        location = offset + shift, compressed_size, size, method, checksum
        yield _Entry(name, unicode_name, system, flags, attributes >> 16, location)


def _code_page(file: IO[bytes], issues: ScanIssues) -> str:
    """The encoding of all names that do not say theirs. A guess is reported with an example.

    One encoding for the whole archive: some names in old code pages are valid UTF-8 by chance.
    """
    names: set[bytes] = set()
    example, n_names, n_from_dos = b"", 0, 0
    for entry in _entries(file):
        if entry.unicode_name is None and not entry.name.isascii():
            example, n_names, n_from_dos = example or entry.name, n_names + 1, n_from_dos + (entry.system in (_DOS, _NTFS))
            if len(names) < MAX_NAMES:
                names.update(entry.name.split(b"/"))
    guess = guess_code_page(names, n_from_dos > n_names / 2)
    if guess.code_page != "utf-8":
        shown = printable(example.decode(guess.code_page, "replace"))
        text = f"{n_names:,} names in the archive decoded as {guess.code_page}, such as {shown};"
        text += " if that is wrong, zip again with UTF-8 names"
        issues.report(Finding("code-page", "warning" if guess.uncertain else "note", text))
    return guess.code_page


def tar_members(file: IO[bytes], hard_links: dict[str, str], issues: ScanIssues) -> Iterator[tuple[str, MemberLocation]]:
    """Yield the files of a tar from its headers; fill `hard_links`, name to target. Raises OSError, tarfile.TarError."""
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it grows by 1 KB per member
            if member.isdir():
                _record_folder(member.name, issues)
            elif member.issym():
                issues.add("archive-link", member.name)
            elif member.issparse():
                issues.add("packing", member.name)
            elif not (member.isreg() or member.islnk()):
                issues.add("ignored", member.name)
            elif (path := _safe_path(member.name, issues)) is None:
                continue
            elif member.islnk():
                hard_links[path] = posixpath.normpath(member.linkname)
            else:
                yield path, (member.offset_data, member.size, member.size, TAR_MEMBER, 0)


def _central_directory(file: IO[bytes]) -> tuple[int, int, int]:
    """Return the start and end of the central directory and the shift of its offsets.

    The shift is not 0 if other data precede the zip, as in a self-extracting archive.
    """
    size = file.seek(0, os.SEEK_END)
    tail_start = max(0, size - _END_RECORD.size - 2**16)
    file.seek(tail_start)
    tail = file.read()
    position = tail.rfind(b"PK\x05\x06")
    if position < 0:
        if found := containers.describe(Path(file.name)):
            raise DatasetError(f"{file.name} is {found}.")
        raise DatasetError(f"{file.name} is neither a folder nor a readable .zip, .tar, .csv or .parquet file.")
    if containers.is_split_zip(tail[position:]):
        raise DatasetError(
            f"{file.name} is the last part of a split zip archive: join the parts first, with:"
            f" zip -s 0 {shlex.quote(Path(file.name).name)} --out whole.zip"
        )
    *_, n_bytes, offset, _ = _END_RECORD.unpack_from(tail, position)
    end = tail_start + position
    if position >= _LOCATOR_BYTES and tail[position - _LOCATOR_BYTES :].startswith(b"PK\x06\x07"):
        end -= _LOCATOR_BYTES + _END_RECORD64.size
        file.seek(end)
        *_, n_bytes, offset = _END_RECORD64.unpack(file.read(_END_RECORD64.size))
    shift = end - n_bytes - offset
    if shift < 0:
        raise DatasetError(f"{file.name} is damaged or truncated: its central directory does not fit in the file.")
    return end - n_bytes, end, shift


def _decode_name(entry: _Entry, code_page: str) -> str:
    name = entry.unicode_name
    if name is None:
        try:
            name = entry.name.decode(code_page)
        except UnicodeDecodeError:
            name = entry.name.decode("utf-8", "surrogateescape")  # reported as a bad name
    return name.replace("\\", "/") if entry.system == _DOS else name


def _extra_fields(extra: bytes) -> dict[int, bytes]:
    """The extra fields of a member by number."""
    fields, position = {}, 0
    while position + 4 <= len(extra):
        number, n_bytes = struct.unpack_from("<HH", extra, position)
        fields[number] = extra[position + 4 : position + 4 + n_bytes]
        position += 4 + n_bytes
    return fields


def _unicode_path(extra: dict[int, bytes], name: bytes) -> str | None:
    """The name in Info-ZIP's Unicode field, if it belongs to this name: some tools rename a member and forget the field."""
    field = extra.get(_UNICODE_PATH_FIELD, b"")
    if len(field) < 6 or field[0] != 1 or int.from_bytes(field[1:5], "little") != zlib.crc32(name):
        return None
    try:
        return field[5:].decode("utf-8")
    except UnicodeDecodeError:
        return None


def _apply_zip64(field: bytes, size: int, compressed_size: int, offset: int) -> tuple[int, int, int]:
    """Return size, compressed size and offset, from the zip64 field for values that exceed 32 bits."""
    values = iter(struct.unpack_from(f"<{len(field) // 8}Q", field))
    size, compressed_size, offset = (
        next(values, value) if value == _MAX32 else value for value in (size, compressed_size, offset)
    )
    return size, compressed_size, offset


def _record_folder(name: str, issues: ScanIssues) -> None:
    """Record a folder as a possibly empty folder."""
    path = posixpath.normpath(name)
    if path != "." and is_unicode(path):
        issues.empty_folders.append(path)


def _safe_path(name: str, issues: ScanIssues) -> str | None:
    """Return the normalized path of a member, or None, with an issue, if it is unsafe."""
    if not is_unicode(name):
        issues.add("bad-name", name)
    elif name.startswith("/") or "\0" in name or ".." in name.split("/") or re.match(r"[A-Za-z]:[/\\]", name):
        issues.add("outside", name)
    else:
        return posixpath.normpath(name)
    return None

"""Parses the central directory of a zip and the headers of a tar: yields member names and locations, reads no content."""

import os
import posixpath
import re
import stat
import struct
import tarfile
from collections.abc import Iterator
from typing import IO

from graft.training.data.errors import DatasetError, ScanIssues
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
_DOS, _UNIX = 0, 3
_MAX32 = 0xFFFFFFFF


def zip_members(file: IO[bytes], issues: ScanIssues) -> Iterator[tuple[str, MemberLocation]]:
    """Yield the files of a zip from its central directory. Raises DatasetError, OSError, struct.error."""
    start, end, shift = _central_directory(file)
    file.seek(start)
    while file.tell() < end:
        fields = _CENTRAL_HEADER.unpack(file.read(_CENTRAL_HEADER.size))
        if fields[0] != b"PK\x01\x02":
            raise DatasetError(f"{file.name} is damaged: its central directory is truncated.")
        system, (flags, method), checksum = fields[2], fields[5:7], fields[9]
        compressed_size, size, n_name, n_extra, n_comment = fields[10:15]
        mode, offset = fields[17:]
        name = _decode_name(file.read(n_name), flags, system)
        size, compressed_size, offset = _apply_zip64(file.read(n_extra), size, compressed_size, offset)
        file.seek(n_comment, os.SEEK_CUR)
        if name.endswith("/"):
            _record_folder(name, issues)
        elif system == _UNIX and stat.S_ISLNK(mode >> 16):
            issues.add("archive-link", name)
        elif flags & _ENCRYPTED:
            issues.add("locked", name)
        elif method not in (STORED, DEFLATED, BZIP2):
            issues.add("packing", name)
        elif (path := _safe_path(name, issues)) is not None:
            yield path, (offset + shift, compressed_size, size, method, checksum)


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
        raise DatasetError(f"{file.name} is neither a folder nor a readable .zip, .tar, .csv or .parquet file.")
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


def _decode_name(name: bytes, flags: int, system: int) -> str:
    """Decode a member name. Many programs write UTF-8 without the flag; other names are CP437, the default of the format."""
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        text = name.decode("utf-8", "surrogateescape") if flags & _UTF8 else name.decode("cp437")
    return text.replace("\\", "/") if system == _DOS else text


def _apply_zip64(extra: bytes, size: int, compressed_size: int, offset: int) -> tuple[int, int, int]:
    """Return size, compressed size and offset, from the zip64 field for values that exceed 32 bits."""
    values = [size, compressed_size, offset]
    position = 0
    while position + 4 <= len(extra):
        field_id, n_bytes = struct.unpack_from("<HH", extra, position)
        if field_id == 1:
            values64 = iter(struct.unpack_from(f"<{n_bytes // 8}Q", extra, position + 4))
            values = [next(values64, value) if value == _MAX32 else value for value in values]
        position += 4 + n_bytes
    return values[0], values[1], values[2]


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

"""What a zip's directory and a tar's headers say: names and places, one member after the other."""

import os
import posixpath
import re
import stat
import struct
import tarfile
from collections.abc import Iterator
from typing import IO

from graft.training.data.errors import DatasetError, Mishaps
from graft.training.data.readers.filenames import is_unicode

STORED, DEFLATED, BZIP2 = 0, 8, 12
IN_TAR = 255  # stored too, but without a header of its own in front
Place = tuple[int, int, int, int, int]  # offset, packed bytes, bytes, method, checksum
LOCAL = struct.Struct("<4s5H3L2H")  # in front of a member's bytes; its last two: lengths of name and extra

_CENTRAL = struct.Struct("<4s4B4H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_LOCATOR_BYTES = 20
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENCRYPTED, _UTF8 = 0x1, 0x800
_DOS, _UNIX = 0, 3
_MAX32 = 0xFFFFFFFF


def zip_members(file: IO[bytes], mishaps: Mishaps) -> Iterator[tuple[str, Place]]:
    """A zip's files, from its directory: no member is touched. Raises DatasetError, OSError, struct.error."""
    start, end, shift = _directory(file)
    file.seek(start)
    while file.tell() < end:
        fields = _CENTRAL.unpack(file.read(_CENTRAL.size))
        if fields[0] != b"PK\x01\x02":
            raise DatasetError(f"{file.name} is damaged: its directory breaks off.")
        system, (flags, method), checksum = fields[2], fields[5:7], fields[9]
        n_packed, size, n_name, n_extra, n_comment = fields[10:15]
        mode, offset = fields[17:]
        name = _decoded(file.read(n_name), flags, system)
        size, n_packed, offset = _large(file.read(n_extra), size, n_packed, offset)
        file.seek(n_comment, os.SEEK_CUR)
        if name.endswith("/"):
            _note_folder(name, mishaps)
        elif system == _UNIX and stat.S_ISLNK(mode >> 16):
            mishaps.add("archive-link", name)
        elif flags & _ENCRYPTED:
            mishaps.add("locked", name)
        elif method not in (STORED, DEFLATED, BZIP2):
            mishaps.add("packing", name)
        elif (path := _inside(name, mishaps)) is not None:
            yield path, (offset + shift, n_packed, size, method, checksum)


def tar_members(file: IO[bytes], hard_links: dict[str, str], mishaps: Mishaps) -> Iterator[tuple[str, Place]]:
    """A tar's files, from its headers; fills `hard_links`, name to name. Raises OSError, tarfile.TarError."""
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep a kilobyte for each
            if member.isdir():
                _note_folder(member.name, mishaps)
            elif member.issym():
                mishaps.add("archive-link", member.name)
            elif member.issparse():
                mishaps.add("packing", member.name)
            elif not (member.isreg() or member.islnk()):
                mishaps.add("ignored", member.name)
            elif (path := _inside(member.name, mishaps)) is None:
                continue
            elif member.islnk():
                hard_links[path] = posixpath.normpath(member.linkname)
            else:
                yield path, (member.offset_data, member.size, member.size, IN_TAR, 0)


def _directory(file: IO[bytes]) -> tuple[int, int, int]:
    """Where a zip's directory starts and ends, and by how much its offsets are shifted.

    They are if something stands before the zip, as in one that unpacks itself.
    """
    size = file.seek(0, os.SEEK_END)
    tail_start = max(0, size - _END.size - 2**16)
    file.seek(tail_start)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        raise DatasetError(f"{file.name} is neither a folder nor a .zip, .tar, .csv or .parquet that can be read.")
    *_, n_bytes, offset, _ = _END.unpack_from(tail, at)
    end = tail_start + at
    if at >= _LOCATOR_BYTES and tail[at - _LOCATOR_BYTES :].startswith(b"PK\x06\x07"):
        end -= _LOCATOR_BYTES + _END64.size
        file.seek(end)
        *_, n_bytes, offset = _END64.unpack(file.read(_END64.size))
    shift = end - n_bytes - offset
    if shift < 0:
        raise DatasetError(f"{file.name} is damaged or cut off: its directory does not fit into it.")
    return end - n_bytes, end, shift


def _decoded(name: bytes, flags: int, system: int) -> str:
    """A member's name. Many programs write UTF-8 without saying so; what is none is what zips were born with."""
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        text = name.decode("utf-8", "surrogateescape") if flags & _UTF8 else name.decode("cp437")
    return text.replace("\\", "/") if system == _DOS else text


def _large(extra: bytes, size: int, n_packed: int, offset: int) -> tuple[int, int, int]:
    """Sizes and offset, from the zip64 field where they are too large for their own."""
    values = [size, n_packed, offset]
    at = 0
    while at + 4 <= len(extra):
        kind, n_bytes = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{n_bytes // 8}Q", extra, at + 4))
            values = [next(wide, value) if value == _MAX32 else value for value in values]
        at += 4 + n_bytes
    return values[0], values[1], values[2]


def _note_folder(name: str, mishaps: Mishaps) -> None:
    """A member that is a folder: barren, unless files in it turn up."""
    path = posixpath.normpath(name)
    if path != "." and is_unicode(path):
        mishaps.barren.append(path)


def _inside(name: str, mishaps: Mishaps) -> str | None:
    """A member's path below the archive's root, or None if it is no path of ours."""
    if not is_unicode(name):
        mishaps.add("bad-name", name)
    elif name.startswith("/") or "\0" in name or ".." in name.split("/") or re.match(r"[A-Za-z]:[/\\]", name):
        mishaps.add("outside", name)
    else:
        return posixpath.normpath(name)
    return None

"""Names what a file is by its first bytes, if it holds other files: archives, compressed files, disk images. Opens none."""

import struct
from pathlib import Path

from graft.service.imaging.formats import detect_format

HEAD_BYTES = 512  # of which a tar needs all
_UNZIP = "extract it first"
_EXPORT = "export its images as files first"

# Offset, magic number, name, and what to do.
_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"PK\x03\x04", "a zip archive", _UNZIP),
    (0, b"PK\x05\x06", "an empty zip archive", _UNZIP),
    (0, b"PK\x07\x08", "a part of a split zip archive", "join the parts first, with: zip -s 0 NAME.zip --out whole.zip"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNZIP),
    (0, b"Rar!\x1a\x07", "a RAR archive", _UNZIP),
    (0, b"MSCF", "a cabinet archive", _UNZIP),
    (0, b"MSWIM\0\0\0", "a Windows image", _UNZIP),
    (0, b"!<arch>\n", "an ar archive", _UNZIP),
    (0, b"070701", "a cpio archive", _UNZIP),
    (0, b"070707", "a cpio archive", _UNZIP),
    (0, b"hsqs", "a SquashFS image", _UNZIP),
    (0, b"xar!", "a xar archive", _UNZIP),
    (2, b"-lh", "an LHA archive", _UNZIP),
    (7, b"**ACE**", "an ACE archive", _UNZIP),
    (257, b"ustar", "a tar archive", _UNZIP),
    (0, b"\x1f\x8b", "compressed with gzip", _UNZIP),
    (0, b"BZh", "compressed with bzip2", _UNZIP),
    (0, b"\xfd7zXZ\0", "compressed with xz", _UNZIP),
    (0, b"\x28\xb5\x2f\xfd", "compressed with Zstandard", _UNZIP),
    (0, b"\x04\x22\x4d\x18", "compressed with LZ4", _UNZIP),
    (0, b"\x1f\x9d", "compressed with compress", _UNZIP),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", _EXPORT),
    (0, b"\x93NUMPY", "a NumPy array", _EXPORT),
    (0, b"SQLite format 3\0", "an SQLite database", _EXPORT),
    (0, b"\x80\x02", "a pickle, which can run arbitrary code when it is read", _EXPORT),
    (0, b"\x80\x04", "a pickle, which can run arbitrary code when it is read", _EXPORT),
    (0, b"%PDF", "a PDF", _EXPORT),
)
_ZIP_SUFFIXES = {".zip", ".zipx", ""}  # documents and models are zips too, but hold no images to learn from
_END_RECORD = b"PK\x05\x06"
_DISK_TRAILER, _DISK_TRAILER_BYTES = b"koly", 512
_ISO_MAGIC, _ISO_OFFSET = b"CD001", 32_769


def is_archive(head: bytes, suffix: str) -> bool:
    """Whether a file is an archive or compressed, by its first 512 bytes. Not a document or model that happens to be a zip."""
    match = _identify(head)
    if match is None or match[1] == _EXPORT:
        return False
    return not head.startswith(b"PK") or suffix in _ZIP_SUFFIXES or suffix.startswith(".z")


def describe(file: Path) -> str:
    """Say what a file is that cannot be read as a data set, and what to do; "" if it is unknown."""
    with file.open("rb") as opened:
        head = opened.read(HEAD_BYTES)
        opened.seek(_ISO_OFFSET)
        is_disk_image = opened.read(len(_ISO_MAGIC)) == _ISO_MAGIC
        if file.stat().st_size > _DISK_TRAILER_BYTES:
            opened.seek(-_DISK_TRAILER_BYTES, 2)
            is_disk_image = is_disk_image or opened.read(len(_DISK_TRAILER)) == _DISK_TRAILER
    if is_disk_image:
        return f"a disk image: {_UNZIP}"
    if head.startswith(b"PK\x03\x04"):
        if file.suffix[1:].isdecimal():
            return "a part of a split archive: join the parts first, with: cat NAME.0* > whole.zip"
        return "a zip archive that is truncated: the list of its members, at its end, is missing. Download or copy it again"
    if image_format := detect_format(head):
        return f"one {image_format.label} image: pass the folder of all images"
    match = _identify(head)
    return f"{match[0]}: {match[1]}" if match else ""


def is_split_zip(end_record: bytes) -> bool:
    """Whether the end record of a zip says that it is the last of several parts."""
    (disk,) = struct.unpack_from("<H", end_record, 4)
    return bool(0 < disk < 0xFFFF)


def _identify(head: bytes) -> tuple[str, str] | None:
    """The name of a file's type, and what to do."""
    return next(((name, remedy) for offset, magic, name, remedy in _MAGIC if head.startswith(magic, offset)), None)

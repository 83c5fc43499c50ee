"""Decompresses files once into the cache, because compressed files do not allow random access."""

import bz2
import gzip
import hashlib
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable
from io import BufferedIOBase
from pathlib import Path
from typing import BinaryIO

from graft.training.data.errors import DatasetError
from graft.training.runtime import atomic_files
from graft.training.runtime.cache_dir import cache_folder
from graft.training.runtime.progress import Progress

CHUNK_BYTES = 2**20
MIN_FREE_DISK = 2**30  # bytes of disk space that decompression always leaves free
# Decompression bombs: images, even raw pixels, never compress this well.
BOMB_CHECK_MIN_BYTES, MAX_COMPRESSION_RATIO = 2**30, 200
_OPENERS: dict[bytes, Callable[[Path], BufferedIOBase]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}


def is_compressed(path: Path) -> bool:
    """Return whether a file is compressed with gzip, bzip2 or xz, by its magic bytes."""
    return _opener(path) is not None


def first_bytes(path: Path, n_bytes: int) -> bytes:
    """Return the first bytes of a file after decompression, if any. Raises DatasetError if it is damaged."""
    try:
        with (_opener(path) or _open_plain)(path) as file:
            return file.read(n_bytes)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DatasetError(f"{path} is damaged or truncated: {error}") from None


def is_tar(path: Path) -> bool:
    """Return whether a file is a tar, compressed or not, by its first header."""
    try:
        tarfile.TarInfo.frombuf(first_bytes(path, tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def decompressed_copy(path: Path) -> Path:
    """Return a decompressed copy of a file in the cache. An earlier copy is reused if the file has not changed.

    Raises:
        DatasetError: if the file is damaged or a decompression bomb.
        OSError: if the disk of the cache is full.
    """
    status = path.stat()
    key = hashlib.sha256(f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}".encode("utf-8", "surrogateescape"))
    target = cache_folder() / "unpacked" / key.hexdigest()[:24]
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}-{os.getpid()}.tmp")
        try:
            _decompress(path, temporary)
            os.replace(temporary, target)
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise DatasetError(f"{path} is damaged or truncated: {error}") from None
        finally:
            temporary.unlink(missing_ok=True)
    return target


def _decompress(path: Path, target: Path) -> None:
    size, free = path.stat().st_size, shutil.disk_usage(target.parent).free - MIN_FREE_DISK
    n_written = 0
    with (
        (_opener(path) or _open_plain)(path) as source,
        target.open("wb") as file,
        Progress("decompressing", 0, "MiB") as progress,
    ):
        while chunk := source.read(CHUNK_BYTES):
            n_written += len(chunk)
            if n_written > BOMB_CHECK_MIN_BYTES and n_written > MAX_COMPRESSION_RATIO * size:
                raise DatasetError(
                    f"{path} decompresses to more than {MAX_COMPRESSION_RATIO} times its size; no set of images does."
                )
            if n_written > free:
                raise atomic_files.disk_full(target, n_written + MIN_FREE_DISK)
            _write(file, chunk, target, n_written)
            progress.advance(1)


def _write(file: BinaryIO, chunk: bytes, target: Path, n_written: int) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        raise atomic_files.disk_full(target, n_written) if error.errno in atomic_files.DISK_FULL_ERRNOS else error from None


def _opener(path: Path) -> Callable[[Path], BufferedIOBase] | None:
    with path.open("rb") as file:
        head = file.read(6)
    return next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), None)


def _open_plain(path: Path) -> BufferedIOBase:
    return path.open("rb")

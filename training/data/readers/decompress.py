"""Compressed files, unpacked once into the cache: what is inside cannot be reached at random otherwise."""

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

from graft.training.data.errors import DatasetError
from graft.training.runtime.progress import Progress

CHUNK = 2**20
LEFT_FREE = 2**30  # bytes of disk that a spool never takes
HARMLESS, MOST_RATIO = 2**30, 200  # a bomb is large and nearly empty; images and their raw pixels never pack so well
_OPENERS: dict[bytes, Callable[[Path], BufferedIOBase]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}


def packed(path: Path) -> bool:
    """Whether a file is compressed as gzip, bzip2 or xz, by its first bytes."""
    return _opener(path) is not None


def first_bytes(path: Path, n_bytes: int) -> bytes:
    """The first bytes of a file, uncompressed if it is compressed. Raises DatasetError if they are damaged."""
    try:
        with (_opener(path) or _plain)(path) as file:
            return file.read(n_bytes)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DatasetError(f"{path} is damaged or cut off: {error}") from None


def is_tar(path: Path) -> bool:
    """Whether a file is a tar, compressed or not, by its first header."""
    try:
        tarfile.TarInfo.frombuf(first_bytes(path, tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def spooled(path: Path) -> Path:
    """An uncompressed copy of a compressed file, in the cache: the one made before if the file has not changed since.

    Raises:
        DatasetError: if it is damaged, a bomb, or larger than the disk that is free.
    """
    from graft.training.runtime.cache_dir import cache_folder  # here, because that room knows of networks

    status = path.stat()
    key = hashlib.sha256(f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}".encode("utf-8", "surrogateescape"))
    target = cache_folder() / "unpacked" / key.hexdigest()[:24]
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}-{os.getpid()}.tmp")
        try:
            _unpack(path, beside)
            os.replace(beside, target)
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise DatasetError(f"{path} is damaged or cut off: {error}") from None
        finally:
            beside.unlink(missing_ok=True)
    return target


def _unpack(path: Path, target: Path) -> None:
    size, free = path.stat().st_size, shutil.disk_usage(target.parent).free - LEFT_FREE
    done = 0
    with (_opener(path) or _plain)(path) as source, target.open("wb") as file, Progress("unpacking", 0, "MiB") as progress:
        while chunk := source.read(CHUNK):
            done += len(chunk)
            if done > HARMLESS and done > MOST_RATIO * size:
                raise DatasetError(f"{path} unpacks to more than {MOST_RATIO} times its size; that is no set of images.")
            if done > free:
                raise DatasetError(f"{path} unpacks to more than the {free:,} bytes that {target.parent} has to spare.")
            file.write(chunk)
            progress.advance(1)


def _opener(path: Path) -> Callable[[Path], BufferedIOBase] | None:
    with path.open("rb") as file:
        head = file.read(6)
    return next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), None)


def _plain(path: Path) -> BufferedIOBase:
    return path.open("rb")

"""Atomic, durable file writes and checks of free disk space."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from graft.training.runtime.cache_dir import SET_CACHE, configured_cache

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TEMP_PATTERN = ".*.tmp"


@contextmanager
def atomic_write(path: Path, n_bytes: int = 0) -> Iterator[BinaryIO]:
    """Write a file atomically: it replaces `path` only when it is complete.

    The temporary file is in the same folder: a rename is atomic only within one file system, and TMPDIR may be on another.

    Args:
        n_bytes: expected size, for the error message if the disk is full.

    Raises:
        OSError: if the disk is full; the message has the required and free bytes.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise (disk_full(path, n_bytes) if error.errno in DISK_FULL_ERRNOS else error) from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8. Raises OSError like `atomic_write`."""
    content = text.encode()
    with atomic_write(path, len(content)) as file:
        file.write(content)


def fsync(path: Path) -> None:
    """Flush a file or folder to disk. For a folder, this makes renames in it durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_free_bytes(folder: Path, n_bytes: int) -> None:
    """Raise OSError if the disk of `folder` has less than `n_bytes` free."""
    if free_bytes(folder) < n_bytes:
        raise disk_full(folder, n_bytes)


@contextmanager
def check_disk_space(folder: Path, n_bytes: int) -> Iterator[None]:
    """Check for free disk space before writing in a folder, and explain a disk that fills up while writing.

    Raises:
        OSError: if the disk is full; the message has the required and free bytes.
    """
    require_free_bytes(folder, n_bytes)
    try:
        yield
    except OSError as error:
        raise (disk_full(folder, n_bytes) if error.errno in DISK_FULL_ERRNOS else error) from None


def disk_full(path: Path, n_bytes: int) -> OSError:
    """Return the error for a full disk, with the required and free bytes."""
    folder = path if path.is_dir() else path.parent
    text = f"The disk is full: {n_bytes:,} bytes are needed and {free_bytes(folder):,} are free; existing files are unchanged"
    cache = configured_cache()
    hint = f". {SET_CACHE}" if cache is not None and path.is_relative_to(cache) else ""
    return OSError(errno.ENOSPC, text + hint, str(path))


def free_bytes(folder: Path) -> int:
    """Return the free disk space in bytes."""
    return shutil.disk_usage(folder).free


def remove_temp_files(folder: Path, *patterns: str) -> None:
    """Remove temporary files that a killed process left in a folder."""
    for pattern in (TEMP_PATTERN, *patterns):
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)

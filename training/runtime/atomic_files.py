"""Files that appear under their name whole and on the disk, or not at all; and room for them."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNFINISHED = ".*.tmp"


@contextmanager
def whole(path: Path, n_bytes: int = 0) -> Iterator[BinaryIO]:
    """A file to write, which appears as `path` once it is complete; until then an older one stays as it is.

    It is written in the same folder, because a rename is atomic within one file system only, and TMPDIR may be another.

    Args:
        n_bytes: how large it will be, for the message if there is no room.

    Raises:
        OSError: with the bytes needed and free where the disk is full.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync(path.parent)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise (no_room(path, n_bytes) if error.errno in FULL else error) from None
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write(path: Path, text: str) -> None:
    """A whole text file. Raises OSError, as `whole` does."""
    content = text.encode()
    with whole(path, len(content)) as file:
        file.write(content)


def sync(folder: Path) -> None:
    """Puts the names in a folder on the disk: renames are kept only then."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_room(folder: Path, n_bytes: int) -> None:
    """Raises OSError if less than `n_bytes` are free where `folder` lies."""
    if free(folder) < n_bytes:
        raise no_room(folder, n_bytes)


@contextmanager
def room_for(folder: Path, n_bytes: int) -> Iterator[None]:
    """Room for what is written below a folder: asked for first, because that is cheap, and a full disk explained all the same.

    Raises:
        OSError: with the bytes needed and free where the disk is full.
    """
    require_room(folder, n_bytes)
    try:
        yield
    except OSError as error:
        raise (no_room(folder, n_bytes) if error.errno in FULL else error) from None


def no_room(path: Path, n_bytes: int) -> OSError:
    """The error for a full disk, in words that say what would be enough."""
    folder = path if path.is_dir() else path.parent
    text = f"The disk is full: {n_bytes:,} bytes are needed and {free(folder):,} are free; what was there is intact"
    return OSError(errno.ENOSPC, text, str(path))


def free(folder: Path) -> int:
    """Bytes that may still be written there."""
    return shutil.disk_usage(folder).free


def remove_unfinished(folder: Path, *patterns: str) -> None:
    """Removes what a killed process of ours left half written in a folder."""
    for pattern in (UNFINISHED, *patterns):
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)

"""Locks a folder for one process."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = ".lock"


class FolderInUse(ValueError):
    """Another process works in the folder."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Locks a folder for this process.

    The kernel releases the lock when the process ends. A PID file would outlive a killed process, and in a container the
    next process may get the same PID.

    Raises:
        FolderInUse: if another process has it.
        OSError: if the folder is not writable.
    """
    lock = path / LOCK
    while True:
        file = lock.open("a+")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            file.seek(0)
            raise FolderInUse(f"{path} is in use by process {file.read().strip() or 'unknown'}.") from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                break
        file.close()  # the previous owner has removed the file meanwhile
    with file:
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)

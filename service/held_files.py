"""Files that are held open, so that replacing, moving or deleting their folder changes nothing for their readers."""

import errno
import hashlib
import os
import stat
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path

CHUNK_BYTES = 2**20


class NotRegularFile(OSError):
    """The file is a link, a folder or a device; `filename` is its name."""


class HeldFiles:
    """Open files by name. They are closed when this object is freed.

    Args:
        descriptors: file descriptors by name, owned by this object from now on.
    """

    def __init__(self, descriptors: Mapping[str, int]) -> None:
        self._descriptors = dict(descriptors)
        weakref.finalize(self, _close, list(self._descriptors.values()))

    @classmethod
    def open(cls, folder: Path, names: Iterable[str]) -> "HeldFiles":
        """Opens files of a folder. Raises OSError with a file's name, and NotRegularFile for a link."""
        descriptors: dict[str, int] = {}
        try:
            for name in names:
                descriptors[name] = _open_regular(folder, name)
        except OSError:
            _close(descriptors.values())
            raise
        return cls(descriptors)

    @classmethod
    def inherited(cls, descriptors: Mapping[str, int]) -> "HeldFiles":
        """The files that the parent process shared with `share`. They are not passed on to other processes."""
        for descriptor in descriptors.values():
            os.set_inheritable(descriptor, False)
        return cls(descriptors)

    def share(self) -> dict[str, int]:
        """Lets child processes inherit the files. Returns the descriptors, valid there as they are here."""
        for descriptor in self._descriptors.values():
            os.set_inheritable(descriptor, True)
        return dict(self._descriptors)

    def path(self, name: str) -> Path:
        """A path that opens the held file in this process, as long as this object lives."""
        return Path(f"/dev/fd/{self._descriptors[name]}")

    def size(self, name: str) -> int:
        """The size in bytes of a file, as it is now. Raises OSError if it is not there."""
        return os.fstat(self._descriptors[name]).st_size

    def digest(self, name: str) -> tuple[str, int]:
        """The SHA-256 and the size in bytes of a file, as it is now. Raises OSError if it cannot be read."""
        digest, size = hashlib.sha256(), 0
        while chunk := os.pread(self._descriptors[name], CHUNK_BYTES, size):
            digest.update(chunk)
            size += len(chunk)
        return digest.hexdigest(), size


def _open_regular(folder: Path, name: str) -> int:
    try:
        # O_NONBLOCK: opening a named pipe would wait for a writer. For regular files it has no effect.
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        kind = NotRegularFile if error.errno == errno.ELOOP else OSError
        raise kind(error.errno, error.strerror, name) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotRegularFile(errno.EINVAL, "not a regular file", name)
    return descriptor


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)

"""The keys that open the service: one in the environment, or several in a file, which is read again when it changes."""

import hmac
import logging
import os
import time
from pathlib import Path

from ..key_file import read_keys

logger = logging.getLogger("graft")

CHECK_INTERVAL_S = 1.0  # at most this often, a request looks whether the file has changed

Stamp = tuple[int, int, int]  # modification time, inode, size


class ApiKeys:
    """A set of keys, each of which is as good as any other. Used only by the event loop, so it has no locks.

    Args:
        key: the only key; None: there is none, or the keys are in a file.
        path: the file of the keys.

    Raises:
        ValueError: if the file cannot be used.
    """

    def __init__(self, key: str | None, path: Path | None) -> None:
        self._path = path
        self._stamp, self._checked_at = _stamp(path) if path else None, time.monotonic()
        keys = read_keys(path) if path else (key,) if key else ()
        self._keys = tuple(key.encode() for key in keys)

    @property
    def required(self) -> bool:
        """Whether a caller must have a key."""
        return bool(self._keys)

    def accept(self, authorization: str) -> bool:
        """Whether an Authorization header has one of the keys. Compares with all of them, in constant time."""
        self._refresh()
        scheme, _, token = authorization.partition(" ")
        matches = [hmac.compare_digest(token.strip().encode(), key) for key in self._keys]
        return scheme.lower() == "bearer" and any(matches)

    def _refresh(self) -> None:
        """Reads the file again if it has changed. If it cannot be used now, the keys stay, and one warning is logged."""
        if self._path is None or time.monotonic() < self._checked_at + CHECK_INTERVAL_S:
            return
        self._checked_at = time.monotonic()
        if (stamp := _stamp(self._path)) == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = tuple(key.encode() for key in read_keys(self._path))
        except ValueError as error:
            logger.warning(f"the keys stay as they were: {error}")
        else:
            logger.info("keys changed", extra={"fields": {"file": str(self._path), "keys": len(self._keys)}})


def _stamp(path: Path) -> Stamp | None:
    """What changes with the file; None if there is none. Follows links, which a mounted secret is."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size

"""The folder of all caches."""

import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from graft.training.runtime.progress import log

MIN_FREE_BYTES = 64 * 2**20  # a backbone and the features of a small data set
STALE_S = 24 * 3600
LEFTOVERS = ("*/.making-*", "*/.*.tmp", "*/*/.*.tmp")  # of exports; of single files; of files in a folder for each network
SET_CACHE = "Set GRAFT_CACHE to a folder that can be written and has space"


def configured_cache() -> Path | None:
    """Return GRAFT_CACHE, or `graft` in the user's cache folder; None if the user has no home folder."""
    if folder := os.environ.get("GRAFT_CACHE"):
        return Path(folder)
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "graft"
    try:
        return Path.home() / ".cache" / "graft"
    except RuntimeError:  # no HOME, and a user id without a name, as containers have it
        return None


def cache_folder() -> Path:
    """Return the folder of all caches, which exists and can be written. All its contents can be recreated.

    If the configured folder cannot be written, it is a folder of this user in the temporary folder; a note says so once.

    Raises:
        OSError: if neither can be written; the message names GRAFT_CACHE.
    """
    folder = _writable(configured_cache())
    _remove_leftovers(folder)
    return folder


@cache
def _remove_leftovers(folder: Path) -> None:
    """Once per process: removes temporary files that nobody has written to for a day. The process that made them was killed.

    By age and not by process id, because processes in several containers may share a cache. What cannot be removed stays.
    """
    oldest = time.time() - STALE_S
    for path in (path for pattern in LEFTOVERS for path in folder.glob(pattern)):
        with suppress(OSError):
            if max(entry.lstat().st_mtime for entry in (path, *path.glob("*"))) < oldest:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@cache
def _writable(configured: Path | None) -> Path:
    problem = "there is no home folder for the cache" if configured is None else _write_error(configured)
    usable = configured if problem is None else None
    if usable is not None:
        if _has_space(usable):
            return usable
        problem = f"the disk of the cache {usable} is full"
    try:
        fallback = _private_temporary_folder()
    except OSError as error:
        if usable is not None:
            return usable
        raise OSError(error.errno, f"{problem}, and no temporary folder can be written. {SET_CACHE}") from None
    if usable is not None and not _has_space(fallback):
        return usable
    log(f"{problem}: {fallback} is used instead. {SET_CACHE}.")
    return fallback


def _write_error(folder: Path) -> str | None:
    """Why a folder cannot be used as a cache; None if it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # only a write shows a read-only file system
    except OSError as error:
        return f"the cache {folder} cannot be written ({error.strerror})"
    return None


def _has_space(folder: Path) -> bool:
    return shutil.disk_usage(folder).free >= MIN_FREE_BYTES


def _private_temporary_folder() -> Path:
    """A folder that this user finds again, and that no other user can write: the cached files are trusted."""
    folder = Path(tempfile.gettempdir(), f"graft-{os.geteuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077:
        return folder
    return Path(tempfile.mkdtemp(prefix="graft-"))

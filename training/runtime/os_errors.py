"""The reason of an operating system error in plain words, in place of `[Errno 13] Permission denied: ...`."""

import errno
import os

REASONS = {
    errno.ENOENT: "no such file or folder",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.EISDIR: "it is a folder, not a file",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "it exists already",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than this file system or user may have",
    errno.EMFILE: "too many files are open; raise the limit with ulimit -n",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "the links point at each other",
    errno.EIO: "the disk cannot be read or written there",
    errno.ENOMEM: "out of memory",
}


def describe(error: OSError) -> str:
    """The reason, without the path."""
    reason = REASONS.get(error.errno or 0) if error.strerror == _standard_text(error.errno) else None
    return reason or error.strerror or str(error) or type(error).__name__


def _standard_text(number: int | None) -> str | None:
    """The system's own text; another one was written by this project, and says more."""
    return os.strerror(number) if number else None

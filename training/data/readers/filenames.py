"""Checks on file and folder names. Never opens a file."""

import os

from graft.service.imaging import formats, unsupported

# Unsupported formats count as images here, so that the audit reports these files instead of ignoring them.
IMAGE_SUFFIXES = formats.SUFFIXES | unsupported.SUFFIXES


def is_hidden(name: str) -> bool:
    """Return whether a file or folder belongs to the operating system or a tool."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db")


def suffix(path: str) -> str:
    """Return the lower-case suffix of a path with its dot; "" if it has none."""
    stem, dot, end = path.rpartition(".")
    return dot + end.lower() if stem and "/" not in end and not stem.endswith("/") else ""


def is_unicode(name: str) -> bool:
    """Return whether a name is valid Unicode: Linux allows any bytes."""
    try:
        return name.isascii() or bool(name.encode())
    except UnicodeEncodeError:
        return False


def is_within(path: str, folder: str) -> bool:
    """Return whether an absolute path is `folder` or is inside it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)

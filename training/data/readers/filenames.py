"""What the name of a file or folder tells, without a look at the file."""

import os

# What is foreign is not accepted, but who has such pictures must be told so: they count as images until they are decoded.
_ACCEPTED = ".jpg .jpeg .jpe .jfif .png .apng .webp .gif .bmp .dib"
_FOREIGN = ".tif .tiff .heic .heif .avif .jxl .jp2 .j2k .ppm .pgm .pbm .pnm .tga .ico"
SUFFIXES = frozenset(f"{_ACCEPTED} {_FOREIGN}".split())


def hidden(name: str) -> bool:
    """Whether a file or folder is an operating system's or a tool's, never a person's."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db")


def suffix(path: str) -> str:
    """The lower-case suffix of a path, with its dot; "" if it has none."""
    stem, dot, end = path.rpartition(".")
    return dot + end.lower() if stem and "/" not in end and not stem.endswith("/") else ""


def is_unicode(name: str) -> bool:
    """Whether a name can be written in a report: Linux allows any bytes."""
    try:
        return name.isascii() or bool(name.encode())
    except UnicodeEncodeError:
        return False


def within(path: str, folder: str) -> bool:
    """Whether an absolute path is a folder or lies below it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)

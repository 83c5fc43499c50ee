"""Opens a table as text: finds out its encoding and its separator."""

import codecs
import io
from typing import IO, TextIO

from graft.training.data.errors import DatasetError
from graft.training.data.readers.source import Source

_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_HEAD_BYTES = 2**20


def open_table(source: Source, path: str, encoding: str = "") -> TextIO:
    """Open a table for `csv.reader`; its first line is read next.

    Args:
        encoding: "" to find it out.

    Raises:
        DatasetError: if it cannot be read or is no text.
    """
    file = source.root / path
    try:
        raw = file.open("rb") if source.root.is_dir() else io.BytesIO(source.read(path))
    except OSError as error:
        raise DatasetError(f"{file} cannot be read: {error.strerror}.") from None
    return io.TextIOWrapper(raw, encoding=encoding or _find_encoding(file, raw), newline="")


def sniff_separator(file: TextIO) -> tuple[str, int]:
    """Return the separator of the cells, and the number of lines before the header; leave the file at its first row.

    The separator is a comma, a semicolon or a tab: the one that is most often in the first line. Excel may name it in a line
    of its own, as in `sep=;`.
    """
    line = file.readline(65536)
    if line.lower().startswith("sep=") and len(line.strip()) == 5:
        return line.strip()[4], 1
    separator = max(",;\t", key=line.count)
    # A header such as `image;labels` may precede cells with commas; one such as `path` alone has none of the three.
    file.seek(0)
    return separator, 0


def _find_encoding(file: object, raw: IO[bytes]) -> str:
    """Return the encoding: that of the byte-order mark, or UTF-8 if all bytes are valid."""
    head = raw.read(_HEAD_BYTES)
    raw.seek(0)
    for mark, encoding in _BOMS.items():
        if head.startswith(mark):
            return encoding
    if b"\0" in head:
        raise DatasetError(f"{file} is not a text file: save it as UTF-8 (in Excel: CSV UTF-8).")
    return _check_utf8(file, raw)


def _check_utf8(file: object, raw: IO[bytes]) -> str:
    decoder = codecs.getincrementaldecoder("utf-8")()
    n_read = 0
    while True:
        block = raw.read(_HEAD_BYTES)
        try:
            decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise DatasetError(f"{file} is not UTF-8 at byte {n_read + error.start:,}: save it as UTF-8.") from None
        n_read += len(block)
        if not block:
            raw.seek(0)
            return "utf-8"

"""Opens a table as text: finds out its encoding and its separator."""

import codecs
import io
import re
from typing import IO, TextIO

from graft.training.data.errors import DatasetError
from graft.training.data.readers.code_pages import guess_code_page
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
    """Return the encoding: that of the byte-order mark, UTF-8 if all bytes are valid, or a guess, as for Excel's plain CSV."""
    head = raw.read(_HEAD_BYTES)
    raw.seek(0)
    for mark, encoding in _BOMS.items():
        if head.startswith(mark):
            return encoding
    if b"\0" in head:
        raise DatasetError(f"{file} is not a text file: save it as UTF-8 (in Excel: CSV UTF-8).")
    damage = _utf8_damage(raw)
    raw.seek(0)
    if damage is None:
        return "utf-8"
    cells = _non_ascii_cells(head)
    if not cells or 2 * sum(_utf8_damage(io.BytesIO(cell)) is None for cell in cells) > len(cells):
        raise DatasetError(f"{file} is UTF-8, but damaged at byte {damage:,}: save it as UTF-8 again.")
    return guess_code_page(cells, from_dos=False).code_page


def _utf8_damage(raw: IO[bytes]) -> int | None:
    """Return the position of the first byte that is not UTF-8; None if all are."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    n_read = 0
    try:
        while block := raw.read(_HEAD_BYTES):
            decoder.decode(block)
            n_read += len(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        return n_read + error.start
    return None


def _non_ascii_cells(head: bytes) -> list[bytes]:
    """The cells that say which code page was used. Not split at bars: they may be the second byte of a character."""
    return [cell for cell in re.split(rb'[,;\t\r\n"]+', head) if not cell.isascii()]

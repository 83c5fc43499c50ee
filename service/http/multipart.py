"""Parses multipart/form-data (RFC 7578) in memory, without a temporary file. It does not interpret the fields."""

from typing import TYPE_CHECKING, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks


MAX_PARTS = 2_000  # far above the image limits, and few enough to parse quickly
MAX_HEADER_BYTES = 2**16  # of one line; file names may be long and are ignored


class FormError(ValueError):
    """The body is not a valid form. The message is safe to show to the client."""


class TooManyParts(FormError):
    """The form has more than `MAX_PARTS` parts."""


class Part(NamedTuple):
    """One field of a form.

    Attributes:
        is_file: whether it has a file name; the name itself is dropped.
    """

    name: str
    content: bytes
    is_file: bool


def parse_form(body: bytes, content_type: str) -> list[Part]:
    """The parts of a form, in order. Raises FormError."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise FormError("The Content-Type has no boundary: let the HTTP library set this header, and pass it only the fields.")
    collector = _PartCollector()
    try:
        parser = MultipartParser(boundary, collector.callbacks(), max_header_size=MAX_HEADER_BYTES)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise FormError(f"The form cannot be parsed: {error}.") from None
    if not collector.complete:
        raise FormError("The form ends before its closing boundary.")
    return collector.parts


class _PartCollector:
    """Collects the parts from the parser's callbacks."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.complete = False
        self._headers: list[tuple[bytearray, bytearray]] = []
        self._chunks: list[bytes] = []

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._on_part_begin,
            "on_header_begin": lambda: self._headers.append((bytearray(), bytearray())),
            "on_header_field": lambda data, start, end: self._headers[-1][0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._headers[-1][1].extend(data[start:end]),
            "on_part_data": lambda data, start, end: self._chunks.append(data[start:end]),
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }

    def _on_part_begin(self) -> None:
        if len(self.parts) == MAX_PARTS:
            raise TooManyParts(f"The form has more than {MAX_PARTS:,} parts.")
        self._headers, self._chunks = [], []

    def _on_part_end(self) -> None:
        headers = {bytes(name).lower(): bytes(value) for name, value in self._headers}
        disposition, options = parse_options_header(headers.get(b"content-disposition"))
        if disposition != b"form-data" or b"name" not in options:
            raise FormError("A part of the form has no name.")
        try:
            name = options[b"name"].decode()
        except UnicodeDecodeError:
            raise FormError("The name of a part of the form is not UTF-8.") from None
        self.parts.append(Part(name, b"".join(self._chunks), b"filename" in options))

    def _on_end(self) -> None:
        self.complete = True

"""Parses multipart/form-data (RFC 7578) in memory, without a temporary file. It does not interpret the fields.

The whole body is there, so it is split at its boundaries, in C. Parsers for streams look at single bytes in Python, and a body
that is made for it costs them seconds of the event loop. What Python looks at here is bounded, whatever the body's size.
"""

import re
from typing import NamedTuple

MAX_PARTS = 2_000  # far above the image limits
MAX_PART_HEADER_BYTES = 2**15  # of one part; file names may be long
MAX_HEADER_BYTES = 2**19  # of all parts
MAX_BOUNDARY_BYTES = 200  # RFC 2046 allows 70
_PARAMETER = re.compile(
    rb"""[ \t]*;[ \t]*(?P<name>[^\s=;"]+)[ \t]*=[ \t]*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<token>[^\s;"]*))""", re.DOTALL
)
_ESCAPED = re.compile(rb'\\(["\\])')


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
    delimiter = b"\r\n--" + _boundary(content_type)
    # The line break before the first boundary belongs to a preamble, which is ignored.
    start = 0 if body.startswith(delimiter[2:]) else body.find(delimiter) + 2
    if start == 1:
        raise FormError("The form has no part: its boundary does not occur in it.")
    if body.count(delimiter, start) > MAX_PARTS:
        raise TooManyParts(f"The form has more than {MAX_PARTS:,} parts.")
    sections = body[start + len(delimiter) - 2 :].split(delimiter)
    parts: list[Part] = []
    n_header_bytes = 0
    for section in sections:
        if section.startswith(b"--"):  # the closing boundary; an epilogue is ignored
            return parts
        headers, content = _split_section(section)
        n_header_bytes += len(headers)
        if n_header_bytes > MAX_HEADER_BYTES:
            raise FormError(f"The headers of the form's parts are larger than {MAX_HEADER_BYTES:,} bytes.")
        parts.append(_to_part(headers, content))
    raise FormError("The form ends before its closing boundary.")


def _boundary(content_type: str) -> bytes:
    boundary = _parameters(content_type[:MAX_PART_HEADER_BYTES].encode("latin-1", "replace")).get(b"boundary")
    if not boundary:
        raise FormError("The Content-Type has no boundary: let the HTTP library set this header, and pass it only the fields.")
    if len(boundary) > MAX_BOUNDARY_BYTES:
        raise FormError(f"The boundary of the form is longer than {MAX_BOUNDARY_BYTES} bytes.")
    return boundary


def _split_section(section: bytes) -> tuple[bytes, bytes]:
    """The headers and the content of what is between two boundaries."""
    line, newline, rest = section[:MAX_PART_HEADER_BYTES].partition(b"\r\n")
    if line.strip(b" \t") or not newline:
        raise FormError("A boundary of the form is not at the end of a line.")
    if rest.startswith(b"\r\n"):  # no headers
        return b"", section[len(line) + 4 :]
    end = section.find(b"\r\n\r\n", len(line), MAX_PART_HEADER_BYTES)
    if end < 0:
        raise FormError(f"The headers of a part of the form have no end, or are larger than {MAX_PART_HEADER_BYTES:,} bytes.")
    return section[len(line) + 2 : end], section[end + 4 :]


def _to_part(headers: bytes, content: bytes) -> Part:
    for line in headers.split(b"\r\n"):
        name, _, value = line.partition(b":")
        kind, _, _ = value.partition(b";")
        if name.strip().lower() == b"content-disposition" and kind.strip().lower() == b"form-data":
            parameters = _parameters(value)
            if b"name" not in parameters:
                break
            try:
                return Part(parameters[b"name"].decode(), content, b"filename" in parameters or b"filename*" in parameters)
            except UnicodeDecodeError:
                raise FormError("The name of a part of the form is not UTF-8.") from None
    raise FormError("A part of the form has no name.")


def _parameters(value: bytes) -> dict[bytes, bytes]:
    """The parameters of a header value, by name in lower case. Ends at the first that is malformed."""
    position = value.find(b";")
    found: dict[bytes, bytes] = {}
    while position >= 0 and (match := _PARAMETER.match(value, position)):
        content = match["token"] if match["quoted"] is None else _ESCAPED.sub(rb"\1", match["quoted"])
        found.setdefault(match["name"].lower(), content)
        position = match.end()
    return found

"""Decodes an image that was sent as text: base64 in its variants, or a data: URL (RFC 2397). No URL is ever fetched."""

import base64
import binascii
import re

from ..errors import ProblemError
from ..imaging.formats import detect_format

HEAD_BYTES = 64  # of an image; they tell its format
MAX_URL_HEAD = 1_000  # characters before the comma of a data: URL
_WHITESPACE = b" \t\r\n\f\v"
_URL_SAFE = bytes.maketrans(b"-_", b"+/")  # base64url (RFC 4648, 5) to base64
_DATA_URL = re.compile(rb"\s{0,64}data:", re.IGNORECASE)
_OTHER_URL = re.compile(rb"\s{0,64}(?:[a-z][a-z0-9+.-]{0,63}:|//)", re.IGNORECASE)
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/=_\s-]")


def decode(text: bytes, field: str | None = None) -> bytes:
    """The bytes in base64 text or in a data: URL.

    Raises:
        ProblemError: if the text is neither; `field` is where it came from.
    """
    if _DATA_URL.match(text[: 2 * HEAD_BYTES]):
        return _decode_data_url(text, field)
    refuse_url(text, field)
    return _decode_base64(text, field)


def refuse_url(text: bytes, field: str | None = None) -> None:
    """Raises ProblemError if text is a URL of another scheme than data:."""
    if _OTHER_URL.match(text[: 2 * HEAD_BYTES]):
        raise ProblemError("urls_not_accepted", "Images are never fetched; send the file itself.", field=field)


def holds_image(text: bytes) -> bool:
    """Whether text in an untyped place is an image: a data: URL, or base64 that begins like a file of a known format."""
    if _DATA_URL.match(text[: 2 * HEAD_BYTES]):
        return True
    head = text[: 4 * HEAD_BYTES].translate(_URL_SAFE, _WHITESPACE)[: HEAD_BYTES // 3 * 4]
    try:
        return detect_format(base64.b64decode(head[: len(head) // 4 * 4], validate=True)) is not None
    except binascii.Error:
        return False


def shown(content: bytes) -> str:
    """The first bytes of some content, for a message."""
    return f"{bytes(content[:16])!r:.60}"[1:]


def decode_percent(text: bytes) -> bytes:
    """Percent-decoding by way of quoted-printable, which Python decodes in C: megabytes of it must not block the event loop."""
    return binascii.a2b_qp(text.replace(b"=", b"=3D").replace(b"%", b"=")) if b"%" in text else text


def _decode_data_url(text: bytes, field: str | None) -> bytes:
    head, comma, payload = text.partition(b",")
    if not comma or len(head) > MAX_URL_HEAD:
        raise ProblemError("bad_base64", "The data: URL has no comma before its content.", field=field)
    payload = decode_percent(payload)
    return _decode_base64(payload, field) if head.translate(None, _WHITESPACE).lower().endswith(b";base64") else payload


def _decode_base64(text: bytes, field: str | None) -> bytes:
    """Base64 or base64url, with or without line breaks and padding."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        digits = text.translate(_URL_SAFE, _WHITESPACE).rstrip(b"=")
    try:
        return base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
    except binascii.Error:
        detail = f"The image is neither base64 nor a data: URL: {_flaw(text)}. It begins with {shown(text)}."
        raise ProblemError("bad_base64", detail, field=field) from None


def _flaw(text: bytes) -> str:
    if match := _NOT_BASE64.search(text):
        return f"character {match.start() + 1:,} is {shown(match[0])}"
    return "it is cut, or has padding in the middle"

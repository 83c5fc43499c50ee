"""Finds the images and the raw options in a body of any accepted media type. Within the limits on fields; nothing is decoded.

What callers call their body is often wrong: curl sends files as forms, browsers send JSON as text, and many libraries send no
type. So the type is believed only where the bytes leave a choice, and an error says what came.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn
from urllib.parse import unquote_plus

from ..api.schemas import PROBLEMS
from ..errors import ProblemError
from ..imaging.formats import detect_format
from . import image_text
from .image_text import HEAD_BYTES, shown
from .multipart import FormError, Part, TooManyParts, parse_form

IMAGE_FIELDS = frozenset({"image", "images", "file", "files"})  # in a form, also with [] behind
MAX_OPTION_BYTES = 5_000  # of a field's text; no option needs more
MAX_NESTING = 100  # brackets in a JSON body; base64 has none, and no option is nested
MAX_QUOTES = 1_000
MAX_URLENCODED_FIELDS = 100
MAX_SHOWN_FIELDS = 5
MULTIPART, JSON, URLENCODED, TEXT = (
    "multipart/form-data",
    "application/json",
    "application/x-www-form-urlencoded",
    "text/plain",
)
# "" is a missing type: curl -T sends none.
OPAQUE = frozenset({"", "application/octet-stream", "binary/octet-stream", "application/binary", "application/x-binary"})
ACCEPTED = "image/*, application/octet-stream, multipart/form-data or application/json"

OptionValues = dict[str, Any]


class Content(NamedTuple):
    """The images of a body, and its raw options by name."""

    images: list[bytes]
    options: OptionValues


def media_type(content_type: str) -> str:
    """The media type of a Content-Type header, without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def find_parser(content_type: str) -> Callable[[bytes], Content]:
    """The parser for the body of a single image. Raises ProblemError if the media type is not accepted."""
    kind = media_type(content_type)
    if kind == MULTIPART:
        return lambda body: parse_multipart(body, content_type, "image")
    if kind in (JSON, "text/json") or (kind.startswith("application/") and kind.endswith("+json")):
        return _parse_json
    if kind in OPAQUE or kind.startswith("image/"):
        return lambda body: _parse_bytes(body, may_be_json=kind == "")
    if kind == URLENCODED:
        return _parse_urlencoded
    if kind == TEXT:
        return _parse_text
    raise ProblemError("unsupported_media_type", f"{kind[:100]} is not accepted; send {ACCEPTED}.")


def parse_multipart(body: bytes, content_type: str, field: str) -> Content:
    """The files of a form, and its other fields as options; `field` is the name to suggest."""
    try:
        parts = parse_form(body, content_type)
    except TooManyParts as error:
        raise ProblemError("too_many_files", str(error), field=field) from None
    except FormError as error:
        raise ProblemError("bad_multipart", str(error)) from None
    return _from_form(parts, f"Send a file in the field {field!r}.", field)


def is_image_field(name: str) -> bool:
    return name.removesuffix("[]") in IMAGE_FIELDS


def options_by_name(items: Iterable[tuple[str, Any]]) -> OptionValues:
    """Options by name. Rejects a repeated option, because either value could be the intended one."""
    options: OptionValues = {}
    for name, value in items:
        if name in options:
            code = f"bad_{name}" if f"bad_{name}" in PROBLEMS else "unknown_field"
            raise ProblemError(code, f"{name[:100]} is given more than once.", field=name[:100])
        options[name] = value
    return options


def _from_form(parts: list[Part], remedy: str, field: str) -> Content:
    images = [_image_of(part, field) for part in parts if is_image_field(part.name)]
    if not images:
        raise _missing_image("form", "fields", [part.name for part in parts], remedy, field)
    options = [(part.name, part.content[:MAX_OPTION_BYTES].decode(errors="replace")) for part in parts]
    return Content(images, options_by_name((name, text) for name, text in options if not is_image_field(name)))


def _image_of(part: Part, field: str) -> bytes:
    """The image in one part. A part without a file name may hold text, such as a data: URL."""
    if part.is_file or detect_format(part.content[:HEAD_BYTES]):
        return part.content
    if not part.content.strip():
        raise ProblemError("missing_image", f"The field {part.name[:40]!r} is empty; send a file.", field=field)
    image = image_text.decode(part.content, part.name)
    if detect_format(image[:HEAD_BYTES]) is None and not image_text.holds_image(part.content):
        detail = f"The field {part.name[:40]!r} holds text, and no image in base64: it begins with {shown(part.content)}."
        raise ProblemError("missing_image", f"{detail} Send a file.", field=field)
    return image


def _parse_bytes(body: bytes, may_be_json: bool = False) -> Content:
    """An image as it is, or as text in spite of its type."""
    if detect_format(body[:HEAD_BYTES]) is None:
        if may_be_json and _begins_json(body):
            return _parse_json(body)
        if image_text.holds_image(body):
            return Content([image_text.decode(body)], {})
    return Content([body], {})


def _parse_text(body: bytes) -> Content:
    """JSON or an image as text: `fetch` calls every string text/plain."""
    if _begins_json(body):
        return _parse_json(body)
    if image_text.holds_image(body):
        return Content([image_text.decode(body)], {})
    image_text.refuse_url(body)
    came = "an image" if detect_format(body[:HEAD_BYTES]) else "neither JSON nor an image in base64"
    detail = f"The body has the type text/plain and is {came}; it begins with {shown(body)}. Send {ACCEPTED}."
    raise ProblemError("unsupported_media_type", detail)


def _parse_urlencoded(body: bytes) -> Content:
    """A form, or anything else: `curl -d` and `--data-binary` call every body a form."""
    is_image = detect_format(body[:HEAD_BYTES]) is not None
    if (is_image or body[:1] > b"~") and not any(byte in body for byte in (b"\0", b"\r", b"\n")):
        detail = "The image has no line breaks, because `curl -d @FILE` removes them; use `curl --data-binary @FILE`."
        raise ProblemError("corrupt_image", detail)
    if is_image or not body or image_text.holds_image(body):
        return _parse_bytes(body)
    if _begins_json(body):
        return _parse_json(body)
    image_text.refuse_url(body)
    fields = body.split(b"&", MAX_URLENCODED_FIELDS)
    if len(fields) > MAX_URLENCODED_FIELDS or b"=" not in body[:MAX_OPTION_BYTES] or not body[:MAX_OPTION_BYTES].isascii():
        detail = f"The body has the type {URLENCODED}, but is neither a form nor an image: it begins with {shown(body)}."
        raise ProblemError("unsupported_media_type", f"{detail} Send {ACCEPTED}.")
    return _from_form([_urlencoded_part(*field.partition(b"=")[::2]) for field in fields], f"Send {ACCEPTED}.", "image")


def _urlencoded_part(name: bytes, value: bytes) -> Part:
    """One field of a URL-encoded form. In an image's, a plus sign stays one: many callers do not escape their base64."""
    plain_name = _decode_option(name)
    content = image_text.decode_percent(value) if is_image_field(plain_name) else _decode_option(value).encode()
    return Part(plain_name, content, is_file=False)


def _decode_option(encoded: bytes) -> str:
    return unquote_plus(encoded[:MAX_OPTION_BYTES].decode(errors="replace"))


def _begins_json(body: bytes) -> bool:
    return body[:HEAD_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def _parse_json(body: bytes) -> Content:
    if detect_format(body[:HEAD_BYTES]):
        raise ProblemError("unsupported_media_type", "The body is an image, but its Content-Type is JSON.")
    # Counted first: parsing a million keys or numbers takes seconds. Base64 has neither quotes, commas nor brackets.
    if body.count(b'"') > MAX_QUOTES or body.count(b",") > MAX_QUOTES or body.count(b"[") + body.count(b"{") > MAX_NESTING:
        raise ProblemError("bad_json", "The body has too many fields.")
    try:
        fields = json.loads(body, object_pairs_hook=_unique_keys, parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        raise ProblemError("bad_json", f"The body cannot be parsed as JSON; it begins with {shown(body)}.") from None
    return _from_fields(fields)


def _from_fields(fields: object) -> Content:
    remedy = 'Send {"image": "<base64>"}.'
    if not isinstance(fields, dict):
        raise ProblemError("missing_image", f"The JSON is {_JSON_TYPES[type(fields)]}. {remedy}", field="image")
    names = [name for name in fields if is_image_field(name)]
    if not names:
        raise _missing_image("JSON object", "keys", list(fields), remedy, "image")
    images = [fields.pop(name) for name in names]
    for name, image in zip(names, images, strict=True):
        if not isinstance(image, str):
            detail = f"The key {name!r} holds {_JSON_TYPES[type(image)]}, not base64. {remedy}"
            raise ProblemError("missing_image", detail, field="image")
    return Content(
        [image_text.decode(image.encode(errors="replace"), name) for name, image in zip(names, images, strict=True)], fields
    )


_JSON_TYPES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}


def _missing_image(container: str, parts: str, names: list[str], remedy: str, field: str) -> ProblemError:
    """The error for a body without an image, with the names that came instead."""
    listed = ", ".join(f"{name[:40]!r}" for name in names[:MAX_SHOWN_FIELDS])
    more = ", …" if len(names) > MAX_SHOWN_FIELDS else ""
    came = f"the {container} has the {parts} {listed}{more}" if names else f"the {container} is empty"
    return ProblemError("missing_image", f"There is no image: {came}. {remedy}", field=field)


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON")


def _unique_keys(items: list[tuple[str, Any]]) -> OptionValues:
    if len(fields := dict(items)) != len(items):
        raise ValueError("a key is repeated")
    return fields

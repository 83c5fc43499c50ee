"""Reads the image bytes and the raw options from a request, within the limits. No image is decoded here."""

import asyncio
import base64
import binascii
import json
import re
from typing import Any, NoReturn

from starlette.requests import Request

from ..api.schemas import PROBLEMS
from ..errors import ProblemError
from ..imaging.formats import detect_format
from ..settings import Settings
from .multipart import FormError, Part, TooManyParts, parse_form

MAX_OPTION_BYTES = 5_000  # of a field's text; no option needs more
MAX_NESTING = 100  # brackets in a JSON body; base64 has none, and no option is nested
OptionValues = dict[str, Any]
RawOptions = tuple[OptionValues, OptionValues]  # options from the query string, and from the body


class UploadBudget:
    """Limits how many bytes of request bodies are in memory at once, so that a thousand slow uploads cannot fill it."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._n_used_bytes = 0

    def acquire(self, n_bytes: int) -> None:
        """Reserves bytes. Raises ProblemError if the budget is used up."""
        if self._n_used_bytes + n_bytes > self._max_bytes:
            raise ProblemError("overloaded", "Too many bytes are being uploaded at once.", "max_upload_bytes")
        self._n_used_bytes += n_bytes

    def release(self, n_bytes: int) -> None:
        self._n_used_bytes -= n_bytes


class RequestReader:
    """Reads one request. `request.state.buffered_bytes` counts how many bytes of its body are in memory."""

    def __init__(self, request: Request, settings: Settings, upload_budget: UploadBudget) -> None:
        self._request = request
        self._settings = settings
        self._upload_budget = upload_budget

    async def read_image(self) -> tuple[bytes, RawOptions]:
        """The image's bytes and the options; those in the body override those in the query. Raises ProblemError."""
        self._check_encoding()
        media_type = self._media_type
        if media_type == "multipart/form-data":
            images, options = await self._read_form("image")
            if len(images) != 1:
                code = "too_many_files" if images else "missing_image"
                raise ProblemError(
                    code, f"Send one file in the field 'image'; there were {len(images)}.", field="image", status=422
                )
            encoded = images[0]
        elif media_type == "application/json":
            encoded, options = _from_json(await self._read_body())
        # curl -T sends no type, and a wrong image type is common, so only the bytes decide.
        elif media_type in ("", "application/octet-stream") or media_type.startswith("image/"):
            encoded, options = await self._read_body(), {}
        else:
            accepted = "image/*, application/octet-stream, multipart/form-data or application/json"
            raise ProblemError("unsupported_media_type", f"{media_type} is not accepted; send {accepted}.")
        return encoded, self._with_query(options)

    async def read_images(self) -> tuple[list[bytes], RawOptions]:
        """All files in the form field `images`, and the options from the query and the form. Raises ProblemError."""
        self._check_encoding()
        if self._media_type != "multipart/form-data":
            raise ProblemError("unsupported_media_type", "Send multipart/form-data with files in the field 'images'.")
        images, options = await self._read_form("images")
        if not images:
            raise ProblemError("missing_image", "Send files in the field 'images'; there were none.", field="images")
        if len(images) > (limit := self._settings.max_batch_images):
            detail = f"The request has {len(images)} images; at most {limit} are allowed."
            raise ProblemError("too_many_files", detail, "max_batch_images", "images")
        return images, self._with_query(options)

    def _with_query(self, options: OptionValues) -> RawOptions:
        return _options_by_name(self._request.query_params.multi_items()), options

    @property
    def _media_type(self) -> str:
        return self._request.headers.get("content-type", "").partition(";")[0].strip().lower()

    def _check_encoding(self) -> None:
        encoding = self._request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise ProblemError("content_encoding", "Compressed bodies are not accepted; images are compressed already.")

    async def _read_body(self) -> bytes:
        """The whole body. Rejects it as soon as it is too large or too slow; it takes no queue slot while it is read."""
        max_bytes, deadline_s = self._settings.max_body_bytes, self._settings.read_deadline_s
        content_length = self._request.headers.get("content-length", "")
        if content_length.isdecimal() and int(content_length) > max_bytes:
            raise _too_large(max_bytes)
        chunks = []
        try:
            async with asyncio.timeout(deadline_s):
                async for chunk in self._request.stream():
                    if self._request.state.buffered_bytes + len(chunk) > max_bytes:
                        raise _too_large(max_bytes)
                    self._upload_budget.acquire(len(chunk))
                    self._request.state.buffered_bytes += len(chunk)
                    chunks.append(chunk)
        except TimeoutError:
            raise ProblemError(
                "slow_upload", f"The upload took longer than {deadline_s:g} seconds.", "read_deadline_s"
            ) from None
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _read_form(self, field: str) -> tuple[list[bytes], OptionValues]:
        """The files in one form field, and all other fields as options."""
        body = await self._read_body()
        try:
            form = parse_form(body, self._request.headers["content-type"])
        except TooManyParts as error:
            raise ProblemError("too_many_files", str(error), field=field) from None
        except FormError as error:
            raise ProblemError("bad_multipart", str(error)) from None
        for part in form:
            if part.name == field and not part.is_file:
                _reject_text(part.content, field)
        options = _options_by_name([(part.name, _decode_option(part)) for part in form if part.name != field])
        return [part.content for part in form if part.name == field], options


def _decode_option(part: Part) -> str:
    return part.content[:MAX_OPTION_BYTES].decode(errors="replace")


def _reject_text(text: bytes, field: str) -> NoReturn:
    if _URL.match(text):
        raise ProblemError("urls_not_accepted", "Images are never fetched; send the file itself.", field=field)
    raise ProblemError("missing_image", f"The field {field!r} contains text; send a file.", field=field)


# Any scheme but data:, which does hold an image, though not in an accepted form.
_URL = re.compile(rb"\s*(?!data:)[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def _from_json(body: bytes) -> tuple[bytes, OptionValues]:
    if detect_format(body[:18]):
        raise ProblemError("unsupported_media_type", "The body is an image, but its Content-Type is JSON.")
    # Counted first: parsing a million keys or brackets takes seconds. Base64 has neither quotes nor brackets.
    if body.count(b'"') > 1000 or body.count(b"[") + body.count(b"{") > MAX_NESTING:
        raise ProblemError("bad_json", "The body has too many fields.")
    try:
        fields = json.loads(body, object_pairs_hook=_unique_keys, parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        raise ProblemError("bad_json", "The body cannot be parsed as JSON.") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("image"), str):
        raise ProblemError("missing_image", 'Send {"image": "<base64>"}.', field="image")
    image = fields.pop("image")
    if _URL.match(image[:64].encode(errors="replace")):
        raise ProblemError("urls_not_accepted", "Images are never fetched; send the file itself.", field="image")
    try:
        return base64.b64decode(image, validate=True), fields
    except (binascii.Error, ValueError):
        raise ProblemError("bad_base64", "The field 'image' is not plain base64 (no data: prefix).", field="image") from None


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON")


def _options_by_name(items: list[tuple[str, Any]]) -> OptionValues:
    """Options by name. Rejects a repeated option, because either value could be the intended one."""
    options: OptionValues = {}
    for name, value in items:
        if name in options:
            code = f"bad_{name}" if f"bad_{name}" in PROBLEMS else "unknown_field"
            raise ProblemError(code, f"{name} is given more than once.", field=name)
        options[name] = value
    return options


def _unique_keys(items: list[tuple[str, Any]]) -> OptionValues:
    if len(fields := dict(items)) != len(items):
        raise ValueError("a key is repeated")
    return fields


def _too_large(max_bytes: int) -> ProblemError:
    return ProblemError("body_too_large", f"The body is larger than {max_bytes:,} bytes.", "max_body_bytes")

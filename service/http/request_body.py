"""Reads the image bytes and the raw options from a request, within the limits. No image is decoded here."""

import asyncio
from collections.abc import Callable

from starlette.requests import Request

from ..errors import ProblemError
from ..imaging.formats import detect_format
from ..imaging.unsupported import rejection_message
from ..settings import Settings
from .body_parsers import MULTIPART, Content, OptionValues, find_parser, media_type, options_by_name, parse_multipart
from .image_text import HEAD_BYTES, shown

THREAD_BYTES = 2**19  # a smaller body is parsed in less time than a thread takes to answer
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
        parse = find_parser(self._content_type)
        images, options = await _parse(parse, await self._read_body())
        if len(images) != 1:
            detail = f"Send one image in the field 'image'; there were {len(images)}."
            raise ProblemError("too_many_files", detail, field="image", status=422)
        _check_type(images[0], media_type(self._content_type)[:100] or "without a Content-Type")
        return images[0], self._with_query(options)

    async def read_images(self) -> tuple[list[bytes], RawOptions]:
        """All files in the form field `images`, and the options from the query and the form. Raises ProblemError."""
        self._check_encoding()
        if media_type(self._content_type) != MULTIPART:
            detail = f"Send multipart/form-data with files in the field 'images', not {media_type(self._content_type)[:100]!r}."
            raise ProblemError("unsupported_media_type", detail)
        images, options = await _parse(
            lambda body: parse_multipart(body, self._content_type, "images"), await self._read_body()
        )
        if len(images) > (limit := self._settings.max_batch_images):
            detail = f"The request has {len(images)} images; at most {limit} are allowed."
            raise ProblemError("too_many_files", detail, "max_batch_images", "images")
        return images, self._with_query(options)

    def _with_query(self, options: OptionValues) -> RawOptions:
        return options_by_name(self._request.query_params.multi_items()), options

    @property
    def _content_type(self) -> str:
        return self._request.headers.get("content-type", "")

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


async def _parse(parse: Callable[[bytes], Content], body: bytes) -> Content:
    """The parsed body. A large text or form is parsed in a thread, so that the event loop can answer others in between."""
    if len(body) < THREAD_BYTES or detect_format(body[:HEAD_BYTES]):
        return parse(body)
    return await asyncio.to_thread(parse, body)


def _check_type(image: bytes, came_as: str) -> None:
    """Rejects what is no file of a known type, and says what came. A known type gets its error from the decoder."""
    if image and not (detect_format(image[:HEAD_BYTES]) or rejection_message(image)):
        detail = (
            f"What was sent ({came_as}) is not a supported image: it begins with {shown(image)}. See formats in /v1/limits."
        )
        raise ProblemError("unsupported_format", detail)


def _too_large(max_bytes: int) -> ProblemError:
    return ProblemError("body_too_large", f"The body is larger than {max_bytes:,} bytes.", "max_body_bytes")

"""A request in; the image's bytes and the options out, or a refusal that says why. Nothing is decoded here."""

import base64
import binascii
import json
import re
from collections.abc import AsyncGenerator
from typing import Any

import anyio
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from service.limits import Settings

MOST_OPTIONS = 16
Options = dict[str, Any]


class Refused(Exception):
    """A request that is answered with a problem instead of a result.

    Attributes:
        code: a key of `service.schemas.PROBLEMS`.
        limit: the setting that was hit, if one was.
        field: the request's field at fault, if one is.
    """

    def __init__(self, code: str, detail: str, limit: str | None = None, field: str | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.limit = limit
        self.field = field


async def take(request: Request, settings: Settings) -> tuple[bytes, Options]:
    """The image's bytes, and the options of the query and the body together. Raises Refused."""
    query = request.query_params.multi_items()
    encoded, options = await _image(request, settings)
    return encoded, _single([*query, *options.items()])


async def take_many(request: Request, settings: Settings) -> tuple[list[bytes], Options]:
    """Every file of the form field `images`, and the options of the query and the form together. Raises Refused."""
    query = request.query_params.multi_items()
    if _media_type(request) != "multipart/form-data":
        raise Refused("unsupported_media_type", "Send multipart/form-data with files in the field 'images'.")
    images, options = await _form(request, await _read_body(request, settings), "images")
    if not images:
        raise Refused("missing_image", "Send files in the field 'images'; there were none.", field="images")
    if len(images) > settings.max_batch_images:
        detail = f"There are {len(images)} images; {settings.max_batch_images} may come at once."
        raise Refused("too_many_files", detail, "max_batch_images", "images")
    return images, _single([*query, *options.items()])


def parse_options(given: Options, n_labels: int) -> tuple[int, list[str]]:
    """`top_k` from a request's options, and the warnings that follow from it. Raises Refused."""
    return _count(given, "top_k", n_labels, f"the model has only {n_labels} labels")


def parse_k(given: Options, n_neighbours: int) -> tuple[int, list[str]]:
    """`k` from a request's options, and the warnings that follow from it. Raises Refused."""
    return _count(given, "k", n_neighbours, f"the package holds only {n_neighbours} training images")


def parse_nothing(given: Options) -> None:
    """Raises Refused if there are options."""
    for name in given:
        raise Refused("unknown_field", f"There is no option {name!r} here; there are none.", field=name)


def _count(given: Options, wanted: str, most: int, why: str) -> tuple[int, list[str]]:
    """A number of things to answer with, 5 unless told otherwise; more than there are become all, with a warning."""
    for name in given:
        if name != wanted:
            raise Refused("unknown_field", f"There is no option {name!r}; there is: {wanted}.", field=name)
    value = given.get(wanted, 5)
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,18}", str(value)) or int(value) < 1:
        raise Refused(f"bad_{wanted}", f"{wanted} must be a whole number from 1 to {most}.", field=wanted)
    if int(value) > most and wanted in given:
        return most, [f"{wanted}: {why}"]
    return min(int(value), most), []


async def _image(request: Request, settings: Settings) -> tuple[bytes, Options]:
    """The image's bytes, and whatever options travel in the body."""
    media_type = _media_type(request)
    if media_type == "multipart/form-data":
        images, options = await _form(request, await _read_body(request, settings), "image")
        if len(images) != 1:
            code = "too_many_files" if images else "missing_image"
            raise Refused(code, f"Send one file in the field 'image'; there were {len(images)}.", field="image")
        return images[0], options
    if media_type == "application/json":
        return _from_json(await _read_body(request, settings))
    # curl -T names no type at all, and a wrong image type is so common that only the bytes decide.
    if media_type in ("", "application/octet-stream") or media_type.startswith("image/"):
        return await _read_body(request, settings), {}
    accepted = "image/*, application/octet-stream, multipart/form-data or application/json"
    raise Refused("unsupported_media_type", f"{media_type} is not accepted; send {accepted}.")


def _media_type(request: Request) -> str:
    """What the body claims to be. Raises Refused if it is compressed."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused("unsupported_media_type", "Compressed bodies are not accepted; images are compressed already.")
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _form(request: Request, body: bytes, field: str) -> tuple[list[bytes], Options]:
    """The files of one field of a form, and its other fields as options."""
    # Every file is let in, so that too many are told so; the body is bounded already.
    parser = MultiPartParser(request.headers, _replay(body), max_files=len(body), max_fields=MOST_OPTIONS)
    parser.spool_max_size = len(body)  # the body is in memory already: no temporary file
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeDecodeError) as error:
        raise Refused("bad_multipart", getattr(error, "message", "The form cannot be parsed.")) from None
    if not body.rstrip().endswith(b"--"):
        raise Refused("bad_multipart", "The form breaks off before its closing boundary.")
    items = form.multi_items()
    images = [value for name, value in items if name == field]
    if not all(isinstance(image, UploadFile) for image in images):
        raise Refused("missing_image", f"The field {field!r} holds text; send a file. URLs are not fetched.", field=field)
    files = [await image.read() for image in images if isinstance(image, UploadFile)]
    return files, _single([(name, value) for name, value in items if name != field])


def _from_json(body: bytes) -> tuple[bytes, Options]:
    try:
        fields = json.loads(body, object_pairs_hook=_single)
    except (ValueError, RecursionError):
        raise Refused("bad_json", "The body cannot be parsed as JSON.") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("image"), str):
        raise Refused("missing_image", 'Send {"image": "<base64>"}.', field="image")
    image = fields.pop("image")
    try:
        return base64.b64decode(image, validate=True), fields
    except (binascii.Error, ValueError):
        raise Refused("bad_base64", "The field 'image' is not plain base64 (no data: prefix, no URL).", field="image") from None


def _single(items: list[tuple[str, Any]]) -> Options:
    """Options by name; one given twice is refused, because guessing which was meant would be wrong half the time."""
    options = dict(items)
    if len(options) != len(items):
        raise Refused("bad_request", "An option was given more than once.")
    return options


async def _read_body(request: Request, settings: Settings) -> bytes:
    """The whole body, refused as soon as it is known to be too large or too slow. Holds no work slot meanwhile."""
    most = settings.max_body_bytes
    promised = request.headers.get("content-length", "")
    if promised.isdecimal() and int(promised) > most:
        raise _too_large(most)
    pieces, size = [], 0
    try:
        with anyio.fail_after(settings.read_deadline_s):
            async for piece in request.stream():
                size += len(piece)
                if size > most:
                    raise _too_large(most)
                pieces.append(piece)
    except TimeoutError:
        detail = f"The upload took longer than {settings.read_deadline_s:g} seconds."
        raise Refused("slow_upload", detail, "read_deadline_s") from None
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large(most: int) -> Refused:
    return Refused("body_too_large", f"The body is larger than {most:,} bytes.", "max_body_bytes")


async def _replay(body: bytes) -> AsyncGenerator[bytes, None]:
    """A body that was read already, as a stream."""
    yield body

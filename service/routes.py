"""The HTTP contract: requests in, `service.schemas` out, every error a problem+json. No arithmetic."""

import asyncio
import base64
import binascii
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from service.batcher import Batcher, Overloaded
from service.decoder import Decoder
from service.engine import Outputs
from service.limits import Refused, Settings, parse_options, read_body, replay
from service.model import Model
from service.preprocess import Decoded, ImageError
from service.schemas import (
    PROBLEMS,
    Classification,
    ImageFacts,
    ModelDescription,
    ModelReference,
    Prediction,
    Problem,
)

logger = logging.getLogger("graft")
R = TypeVar("R")
Handler = Callable[[Request], Awaitable[Response]]
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class Classifier:
    """The road from one image's bytes to its answer, through the decoder's and the engine's queues."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self.model = model
        self.settings = settings
        self._decoder = Decoder(model.decode, max(2, model.engine.lanes), settings.max_waiting)
        self._batcher = Batcher(model.engine, settings.max_waiting, settings.queue_deadline_s)

    async def classify(self, encoded: bytes, top_k: int, warnings: list[str], request_id: str) -> Classification:
        """Raises ImageError, Overloaded, or Refused if the network's answer is not finite."""
        begun = time.perf_counter()
        decoded = await _awaited(self._decoder.submit(encoded))
        ready = time.perf_counter()
        outputs = await _awaited(self._batcher.submit(decoded.pixels))
        done = time.perf_counter()
        if not np.isfinite(outputs.logits).all():
            raise Refused("model_output_invalid", "The network's answer to this image is not a number.")
        timing = {"decode": round(1e3 * (ready - begun), 3), "network": round(1e3 * (done - ready), 3)}
        return self._answer(decoded, outputs, top_k, warnings, request_id, timing)

    def _answer(
        self,
        decoded: Decoded,
        outputs: Outputs,
        top_k: int,
        warnings: list[str],
        request_id: str,
        timing_ms: dict[str, float],
    ) -> Classification:
        manifest = self.model.manifest
        ranked = self.model.answer(outputs, top_k)
        return Classification(
            predictions=[Prediction(label=label, probability=probability) for label, probability in ranked],
            model=ModelReference(name=manifest.name, version=manifest.version, sha256=manifest.sha256),
            image=ImageFacts(width=decoded.width, height=decoded.height, format=decoded.format),
            warnings=[*warnings, *decoded.notes],
            timing_ms=timing_ms,
            request_id=request_id,
        )

    def close(self) -> None:
        """Finishes what was accepted."""
        self._decoder.close()
        self._batcher.close()


async def _awaited(promise: Future[R]) -> R:
    # Awaiting passes a cancellation on, so what a vanished client asked for is not computed if it has not begun.
    return await asyncio.wrap_future(promise)


def application() -> Starlette:
    """The routes below /v1. Whoever starts it puts a `Classifier` into `application.state.classifier`."""
    handlers: list[tuple[str, str, Handler]] = [
        ("POST", "/classify", classify),
        ("GET", "/model", describe_model),
        ("GET", "/labels", list_labels),
        ("GET", "/limits", list_limits),
    ]
    routes = []
    for method, path, handler in handlers:
        routes.append(Route(path, _guarded(handler), methods=[method]))
        routes.append(Route(path, _guarded(_instead(method)), methods=METHODS))
    return Starlette(routes=[*routes, Route("/{path:path}", _guarded(nothing_here), methods=METHODS)])


async def classify(request: Request) -> Response:
    classifier: Classifier = request.app.state.classifier
    options: dict[str, Any] = dict(_single(request.query_params.multi_items()))
    encoded, more = await _image(request, classifier.settings)
    top_k, warnings = parse_options(options | more, len(classifier.model.manifest.labels))
    return _reply(await classifier.classify(encoded, top_k, warnings, request.state.id), request)


async def describe_model(request: Request) -> Response:
    classifier: Classifier = request.app.state.classifier
    manifest = classifier.model.manifest
    facts = manifest.model_dump(include=set(ModelDescription.model_fields))
    return _reply(ModelDescription(**facts, device=classifier.model.engine.device, drift=classifier.model.drift), request)


async def list_labels(request: Request) -> Response:
    return _json({"labels": request.app.state.classifier.model.manifest.labels}, request)


async def list_limits(request: Request) -> Response:
    settings: Settings = request.app.state.classifier.settings
    return _json({"limits": [limit.model_dump() for limit in settings.limits()]}, request)


async def nothing_here(request: Request) -> Response:
    raise Refused("not_found", f"There is no {request.scope['path']!r}. See /docs.json for what there is.")


def _instead(method: str) -> Handler:
    async def answer(request: Request) -> Response:
        response = _problem(request, "method_not_allowed", f"{request.method} is not possible here; {method} is.")
        response.headers["Allow"] = method
        return response

    return answer


async def _image(request: Request, settings: Settings) -> tuple[bytes, dict[str, Any]]:
    """The image's bytes, and whatever options travel in the body."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused("unsupported_media_type", "Compressed bodies are not accepted; images are compressed already.")
    if media_type == "multipart/form-data":
        return await _from_form(request, await read_body(request, settings))
    if media_type == "application/json":
        return _from_json(await read_body(request, settings))
    # curl -T names no type at all, and a wrong image type is so common that only the bytes decide.
    if media_type in ("", "application/octet-stream") or media_type.startswith("image/"):
        return await read_body(request, settings), {}
    accepted = "image/*, application/octet-stream, multipart/form-data or application/json"
    raise Refused("unsupported_media_type", f"{media_type} is not accepted; send {accepted}.")


async def _from_form(request: Request, body: bytes) -> tuple[bytes, dict[str, Any]]:
    parser = MultiPartParser(request.headers, replay(body), max_files=2, max_fields=16)
    parser.spool_max_size = len(body)  # the body is in memory already: no temporary file
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeDecodeError) as error:
        raise Refused("bad_multipart", getattr(error, "message", "The form cannot be parsed.")) from None
    items = form.multi_items()
    images = [value for name, value in items if name == "image"]
    if len(images) != 1:
        code = "too_many_files" if images else "missing_image"
        raise Refused(code, f"Send one file in the field 'image'; there were {len(images)}.", field="image")
    [image] = images
    if not isinstance(image, UploadFile):
        raise Refused("missing_image", "The field 'image' holds text; send a file. URLs are not fetched.", field="image")
    return await image.read(), _single([(name, value) for name, value in items if name != "image"])


def _from_json(body: bytes) -> tuple[bytes, dict[str, Any]]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused("bad_json", "The body cannot be parsed as JSON.") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("image"), str):
        raise Refused("missing_image", 'Send {"image": "<base64>"}.', field="image")
    image = fields.pop("image")
    try:
        return base64.b64decode(image, validate=True), fields
    except (binascii.Error, ValueError):
        raise Refused("bad_base64", "The field 'image' is not plain base64 (no data: prefix, no URL).", field="image") from None


def _single(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """Options by name; one given twice is refused, because guessing which was meant would be wrong half the time."""
    options = dict(items)
    if len(options) != len(items):
        raise Refused("bad_request", "An option was given more than once.")
    return options


def _guarded(handler: Handler) -> Handler:
    """The handler, with a request id, and with every failure answered as a problem."""

    async def answer(request: Request) -> Response:
        request.state.id = request_id(request)
        try:
            return await handler(request)
        except (Refused, ImageError) as error:
            return _problem(request, error.code, str(error), error.limit, getattr(error, "field", None))
        except Overloaded as error:
            return _problem(request, "overloaded", str(error), "max_waiting")
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it; nginx's word for it keeps it apart from our errors
        except Exception:
            logger.exception("request %s failed", request.state.id)
            return _problem(request, "internal", "This is a bug of ours; the request id finds it in the log.")

    return answer


def request_id(request: Request) -> str:
    """The caller's own X-Request-ID if it is short and printable, else a new one."""
    given = request.headers.get("x-request-id", "")
    return given if 0 < len(given) <= 64 and given.isascii() and given.isprintable() else uuid.uuid4().hex


def _problem(request: Request, code: str, detail: str, limit: str | None = None, field: str | None = None) -> Response:
    status, title = PROBLEMS[code]
    shown = request.app.state.classifier.settings.limit(limit) if limit else None
    problem = Problem(
        title=title, status=status, detail=detail, code=code, request_id=request.state.id, limit=shown, field=field
    )
    headers = {"X-Request-ID": request.state.id} | ({"Retry-After": "1"} if status == 503 else {})
    return Response(problem.model_dump_json(exclude_none=True), status, headers, "application/problem+json")


def _reply(answer: BaseModel, request: Request) -> Response:
    return Response(answer.model_dump_json(), headers={"X-Request-ID": request.state.id}, media_type="application/json")


def _json(answer: dict[str, Any], request: Request) -> Response:
    content = json.dumps(answer, ensure_ascii=False).encode()
    return Response(content, headers={"X-Request-ID": request.state.id}, media_type="application/json")

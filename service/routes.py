"""The HTTP contract: requests in, `service.schemas` out, every error a problem+json. No arithmetic."""

import json
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service.intake import Refused, parse_k, parse_nothing, parse_options, take, take_many
from service.limits import Settings
from service.pipeline import Pipeline
from service.problems import EXPECTED, explained, problem
from service.schemas import ModelDescription, Problem

logger = logging.getLogger("graft")
Handler = Callable[[Request], Awaitable[Response]]


def application() -> Starlette:
    """The routes below /v1. Whoever starts it puts a `Pipeline` into `application.state.pipeline`."""
    return Starlette(
        routes=[
            Route("/classify", Endpoint("POST", classify)),
            Route("/classify/batch", Endpoint("POST", classify_batch)),
            Route("/embed", Endpoint("POST", embed)),
            Route("/similar", Endpoint("POST", similar)),
            Route("/model", Endpoint("GET", describe_model)),
            Route("/labels", Endpoint("GET", list_labels)),
            Route("/limits", Endpoint("GET", list_limits)),
            Route("/{path:path}", Endpoint("", nothing_here)),
        ]
    )


class Endpoint:
    """One path: its handler for its one method, 405 for every other; and whatever fails becomes a problem.

    Args:
        method: the only one that is possible; "" for any.
    """

    def __init__(self, method: str, handler: Handler) -> None:
        self._method = method
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        request.state.id = request_id(request)
        response = await self._answer(request)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        if self._method and request.method != self._method:
            detail = f"{request.method} is not possible here; {self._method} is."
            response = _refusal(_problem(request, "method_not_allowed", detail))
            response.headers["Allow"] = self._method
            return response
        try:
            return await self._handler(request)
        except EXPECTED as error:
            return _refusal(explained(error, request.app.state.pipeline.settings, request.state.id))
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it; nginx's word for it keeps it apart from our errors
        except Exception:
            logger.exception("request %s failed", request.state.id)
            return _refusal(_problem(request, "internal", "This is a bug of ours; the request id finds it in the log."))


async def classify(request: Request) -> Response:
    pipeline: Pipeline = request.app.state.pipeline
    encoded, options = await take(request, pipeline.settings)
    top_k, warnings = parse_options(options, len(pipeline.model.manifest.labels))
    return _reply(await pipeline.classify(encoded, top_k, warnings, request.state.id), request)


async def classify_batch(request: Request) -> Response:
    pipeline: Pipeline = request.app.state.pipeline
    images, options = await take_many(request, pipeline.settings)
    top_k, warnings = parse_options(options, len(pipeline.model.manifest.labels))
    return _reply(await pipeline.classify_many(images, top_k, warnings, request.state.id), request)


async def embed(request: Request) -> Response:
    pipeline: Pipeline = request.app.state.pipeline
    encoded, options = await take(request, pipeline.settings)
    parse_nothing(options)
    return _reply(await pipeline.embed(encoded, [], request.state.id), request)


async def similar(request: Request) -> Response:
    pipeline: Pipeline = request.app.state.pipeline
    encoded, options = await take(request, pipeline.settings)
    k, warnings = parse_k(options, len(pipeline.model.neighbours.paths))
    return _reply(await pipeline.similar(encoded, k, warnings, request.state.id), request)


async def describe_model(request: Request) -> Response:
    pipeline: Pipeline = request.app.state.pipeline
    manifest = pipeline.model.manifest
    facts = manifest.model_dump(include=set(ModelDescription.model_fields))
    return _reply(ModelDescription(**facts, device=pipeline.model.engine.device, drift=pipeline.model.drift), request)


async def list_labels(request: Request) -> Response:
    return _json({"labels": request.app.state.pipeline.model.manifest.labels}, request)


async def list_limits(request: Request) -> Response:
    settings: Settings = request.app.state.pipeline.settings
    return _json({"limits": [limit.model_dump() for limit in settings.limits()]}, request)


async def nothing_here(request: Request) -> Response:
    raise Refused("not_found", f"There is no {request.scope['path']!r}. See /docs.json for what there is.")


def request_id(request: Request) -> str:
    """The caller's own X-Request-ID if it is short and printable, else a new one."""
    given = request.headers.get("x-request-id", "")
    return given if 0 < len(given) <= 64 and given.isascii() and given.isprintable() else uuid.uuid4().hex


def _problem(request: Request, code: str, detail: str) -> Problem:
    return problem(code, detail, request.app.state.pipeline.settings, request.state.id)


def _refusal(problem: Problem) -> Response:
    headers = {"X-Request-ID": problem.request_id} | ({"Retry-After": "1"} if problem.status == 503 else {})
    return Response(problem.model_dump_json(exclude_none=True), problem.status, headers, "application/problem+json")


def _reply(answer: BaseModel, request: Request) -> Response:
    return Response(answer.model_dump_json(), headers={"X-Request-ID": request.state.id}, media_type="application/json")


def _json(answer: dict[str, Any], request: Request) -> Response:
    content = json.dumps(answer, ensure_ascii=False).encode()
    return Response(content, headers={"X-Request-ID": request.state.id}, media_type="application/json")

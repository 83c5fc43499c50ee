"""The route table and its handlers: which path accepts and returns what. No inference, no decoding."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from .. import answers
from ..api.options import ClassifyOptions, ExplainOptions, Options, SimilarOptions, parse_options
from ..api.problems import CLIENT_ERRORS, to_problem
from ..api.schemas import Batch, Classification, Embedding, Explained, Labels, Limits, ModelDescription, Similar
from ..errors import ProblemError
from ..imaging import formats
from ..monitoring import metrics
from ..scheduling.predictor import Predictor
from .request_body import RawOptions, RequestReader
from .responses import json_response, negotiate, problem_response
from .state import AppState

R = TypeVar("R")
Handler = Callable[[Request, AppState], Awaitable[Response]]


@dataclass(frozen=True)
class Route:
    """One path with the handler of its only method. Other methods get a 405; an expected error becomes a problem response.

    Attributes:
        accepts: what the body holds: one image, or several.
        response_model: the pydantic model of a JSON response.
        media_types: the media types of the response.
        public: whether it needs no API key.
        include_in_schema: whether the OpenAPI document includes it.
    """

    path: str
    method: Literal["GET", "POST"]
    handler: Handler
    summary: str
    accepts: Literal["image", "images"] | None = None
    options: type[Options] = Options
    response_model: type[BaseModel] | None = None
    media_types: tuple[str, ...] = ("application/json",)
    public: bool = False
    include_in_schema: bool = True

    async def __call__(self, request: Request, app_state: AppState) -> Response:
        methods = ("GET", "HEAD") if self.method == "GET" else ("POST",)
        try:
            if request.method not in methods:
                raise ProblemError("method_not_allowed", f"{request.method} is not allowed here; use {' or '.join(methods)}.")
            if not self.public and negotiate(request.headers.get("accept", ""), self.media_types) is None:
                raise ProblemError(
                    "not_acceptable", f"The response is {' or '.join(self.media_types)}, which the Accept header excludes."
                )
            return await self.handler(request, app_state)
        except CLIENT_ERRORS as error:
            rejection = to_problem(error, app_state.settings, request.state.id)
            request.state.code = rejection.code
            response = problem_response(rejection)
            if rejection.status == 405:
                response.headers["Allow"] = ", ".join(methods)
            return response


async def classify(request: Request, app_state: AppState) -> Response:
    predictor, encoded, raw_options = await _read_request(request, app_state, RequestReader.read_image)
    options = parse_options(ClassifyOptions, *raw_options)
    return json_response(await _with_deadline(request, app_state, predictor.classify(encoded, options, request.state.id)))


async def classify_batch(request: Request, app_state: AppState) -> Response:
    predictor, images, raw_options = await _read_request(request, app_state, RequestReader.read_images)
    options = parse_options(ClassifyOptions, *raw_options)
    return json_response(await _with_deadline(request, app_state, predictor.classify_many(images, options, request.state.id)))


async def embed(request: Request, app_state: AppState) -> Response:
    predictor, encoded, raw_options = await _read_request(request, app_state, RequestReader.read_image)
    parse_options(Options, *raw_options)
    return json_response(await _with_deadline(request, app_state, predictor.embed(encoded, request.state.id)))


async def similar(request: Request, app_state: AppState) -> Response:
    predictor, encoded, raw_options = await _read_request(request, app_state, RequestReader.read_image)
    options = parse_options(SimilarOptions, *raw_options)
    return json_response(await _with_deadline(request, app_state, predictor.similar(encoded, options, request.state.id)))


async def explain(request: Request, app_state: AppState) -> Response:
    predictor, encoded, raw_options = await _read_request(request, app_state, RequestReader.read_image)
    options = parse_options(ExplainOptions, *raw_options)
    if negotiate(request.headers.get("accept", ""), PNG_OR_JSON) == "application/json":
        return json_response(await _with_deadline(request, app_state, predictor.explain(encoded, options, request.state.id)))
    png = await _with_deadline(request, app_state, predictor.overlay(encoded, options))
    return Response(png, media_type="image/png")


async def describe_model(request: Request, app_state: AppState) -> Response:
    return json_response(answers.describe(app_state.require_predictor().model))


async def list_labels(request: Request, app_state: AppState) -> Response:
    return json_response(Labels(labels=app_state.require_predictor().model.manifest.labels))


async def list_limits(request: Request, app_state: AppState) -> Response:
    return json_response(Limits(limits=app_state.settings.limits(), formats=formats.LABELS))


async def liveness(request: Request, app_state: AppState) -> Response:
    if app_state.predictor is not None and app_state.predictor.queue.needs_restart:
        raise ProblemError("not_ready", "The network no longer responds.")
    return Response("\n", media_type="text/plain")


async def readiness(request: Request, app_state: AppState) -> Response:
    if not app_state.ready:
        raise ProblemError("not_ready", "The service does not accept new requests.")
    return Response("\n", media_type="text/plain")


async def get_metrics(request: Request, app_state: AppState) -> Response:
    return Response(app_state.metrics.to_text(), media_type=metrics.MEDIA_TYPE)


async def _read_request(
    request: Request, app_state: AppState, read: Callable[[RequestReader], Awaitable[tuple[R, RawOptions]]]
) -> tuple[Predictor, R, RawOptions]:
    """The predictor, the request's images and raw options. Raises Overloaded before reading the body if the queue is full."""
    predictor = app_state.require_predictor()
    predictor.queue.admission.check()
    start = time.perf_counter()
    try:
        content, raw_options = await read(RequestReader(request, app_state.settings, app_state.upload_budget))
        return predictor, content, raw_options
    finally:
        if reservation := request.scope.get("reservation"):
            reservation.release()
        app_state.metrics.stage_seconds.labels("read").observe(time.perf_counter() - start)


async def _with_deadline(request: Request, app_state: AppState, work: Coroutine[Any, Any, R]) -> R:
    """The result of `work`, after the body was read. Cancels `work` on a disconnect or when the deadline passes."""
    deadline_s = app_state.settings.answer_deadline_s
    timeout = asyncio.timeout(deadline_s)
    disconnect = asyncio.ensure_future(_disconnected(request, timeout))
    try:
        async with timeout:
            return await work
    except TimeoutError:
        if disconnect.done():
            raise ClientDisconnect from None
        detail = f"The result was not ready within {deadline_s:g} seconds."
        raise ProblemError("deadline", detail, "answer_deadline_s") from None
    finally:
        disconnect.cancel()


async def _disconnected(request: Request, timeout: asyncio.Timeout) -> None:
    """Waits for the client to disconnect, then makes the timeout expire."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    with suppress(RuntimeError):  # the work finished at the same moment
        timeout.reschedule(0)


PNG_OR_JSON = ("image/png", "application/json")
PROBE_ROUTES = [
    Route("/livez", "GET", liveness, "Liveness: whether the process works.", media_types=("text/plain",), public=True),
    Route("/healthz", "GET", liveness, "Liveness: alias of /livez.", media_types=("text/plain",), public=True),
    Route(
        "/readyz", "GET", readiness, "Readiness: whether new requests are accepted.", media_types=("text/plain",), public=True
    ),
]
API_ROUTES = [
    Route("/v1/classify", "POST", classify, "Classify one image.", "image", ClassifyOptions, Classification),
    Route(
        "/v1/classify/batch",
        "POST",
        classify_batch,
        "Classify several images. Each gets its own result or error.",
        "images",
        ClassifyOptions,
        Batch,
    ),
    Route("/v1/embed", "POST", embed, "Compute the feature vector of one image.", "image", Options, Embedding),
    Route("/v1/similar", "POST", similar, "Find the nearest training images of one image.", "image", SimilarOptions, Similar),
    Route(
        "/v1/explain",
        "POST",
        explain,
        "Compute a heat map for a label: a PNG overlay, or the values as JSON.",
        "image",
        ExplainOptions,
        Explained,
        PNG_OR_JSON,
    ),
    Route("/v1/model", "GET", describe_model, "Describe the served model.", response_model=ModelDescription),
    Route("/v1/labels", "GET", list_labels, "List the labels, in the order of the network's outputs.", response_model=Labels),
    Route(
        "/v1/limits", "GET", list_limits, "List the request limits and the settings that change them.", response_model=Limits
    ),
    Route("/metrics", "GET", get_metrics, "Prometheus metrics.", media_types=(metrics.MEDIA_TYPE,)),
    *PROBE_ROUTES,
]
PROBE_PATHS = frozenset(route.path for route in PROBE_ROUTES)
ALIASES = {"/classify": "/v1/classify", "/classify_batch": "/v1/classify/batch"}  # BentoML's paths for the same handlers

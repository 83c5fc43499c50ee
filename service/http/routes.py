"""The route table and its handlers: which path accepts and returns what. No inference, no decoding."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from .. import answers
from ..api.options import ClassifyOptions, ExplainOptions, Options, SimilarOptions, parse_options
from ..api.schemas import Batch, Classification, Embedding, Explained, Labels, Limits, ModelDescription, Similar
from ..errors import ProblemError
from ..imaging import formats
from ..monitoring import metrics
from ..scheduling.predictor import Predictor
from .request_body import RawOptions, RequestReader
from .responses import json_response, negotiate
from .route import METRICS_PATH, Handler, Route
from .state import AppState

R = TypeVar("R")


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
    if negotiate(request.headers.get("accept", ""), JSON_OR_PNG) == JSON_OR_PNG[0]:
        return json_response(await _with_deadline(request, app_state, predictor.explain(encoded, options, request.state.id)))
    png = await _with_deadline(request, app_state, predictor.overlay(encoded, options))
    return Response(png, media_type="image/png")


async def describe_model(request: Request, app_state: AppState) -> Response:
    return json_response(answers.describe(app_state.require_predictor().model))


async def list_labels(request: Request, app_state: AppState) -> Response:
    return json_response(Labels(labels=app_state.require_predictor().model.manifest.labels))


async def list_limits(request: Request, app_state: AppState) -> Response:
    settings, predictor = app_state.settings, app_state.predictor
    accepted = predictor.queue.formats if predictor else settings.accepted_formats(())
    return json_response(Limits(limits=settings.limits(), formats=formats.labels(accepted)))


async def liveness(request: Request, app_state: AppState) -> Response:
    if app_state.predictor is not None and app_state.predictor.queue.restart_reason:
        raise ProblemError("not_ready", "The network no longer responds; the service restarts.")
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


JSON_OR_PNG = ("application/json", "image/png")
OPTIONS_IN_BODY = "Options may also be fields of the body, and then override those of the query."
ONE_IMAGE = (
    'The image is a file in a form, the body itself, or text in JSON: `{"image": "<base64 or data: URL>"}`.'
    f" {OPTIONS_IN_BODY} The content decides the format of an image, not its name or media type. Images are never fetched from"
    " a URL."
)


def _probe(path: str, name: str, handler: Handler, summary: str) -> Route:
    return Route(path, name, "GET", handler, summary, tag="health", media_types=("text/plain",), public=True)


PROBE_ROUTES = [
    _probe("/livez", "is_alive", liveness, "Liveness: whether the process works."),
    _probe("/healthz", "is_healthy", liveness, "Liveness: the same as /livez."),
    _probe("/readyz", "is_ready", readiness, "Readiness: whether new requests are accepted."),
]
API_ROUTES = [
    Route(
        "/v1/classify",
        "classify",
        "POST",
        handler=classify,
        tag="images",
        summary="Classify one image.",
        description=ONE_IMAGE,
        accepts="image",
        options=ClassifyOptions,
        response_model=Classification,
    ),
    Route(
        "/v1/classify/batch",
        "classify_batch",
        "POST",
        handler=classify_batch,
        tag="images",
        summary="Classify several images. Each gets its own result or error.",
        description=f"The response has status 200 even if some images have an error: see each result. {OPTIONS_IN_BODY}",
        accepts="images",
        options=ClassifyOptions,
        response_model=Batch,
    ),
    Route(
        "/v1/explain",
        "explain",
        "POST",
        handler=explain,
        tag="images",
        summary="Compute a heat map for a label: the values as JSON, or a PNG overlay.",
        description=f"{ONE_IMAGE} With `Accept: image/png`, the response is the image with the heat map over it.",
        accepts="image",
        options=ExplainOptions,
        response_model=Explained,
        media_types=JSON_OR_PNG,
    ),
    Route(
        "/v1/similar",
        "find_similar",
        "POST",
        handler=similar,
        tag="images",
        summary="Find the nearest training images of one image.",
        description=ONE_IMAGE,
        accepts="image",
        options=SimilarOptions,
        response_model=Similar,
    ),
    Route(
        "/v1/embed",
        "embed",
        "POST",
        handler=embed,
        tag="images",
        summary="Compute the feature vector of one image.",
        description=ONE_IMAGE,
        accepts="image",
        response_model=Embedding,
    ),
    Route(
        "/v1/model",
        "get_model",
        "GET",
        handler=describe_model,
        tag="model",
        summary="Describe the served model.",
        response_model=ModelDescription,
    ),
    Route(
        "/v1/labels",
        "list_labels",
        "GET",
        handler=list_labels,
        tag="model",
        summary="List the labels, in the order of the network's outputs.",
        response_model=Labels,
    ),
    Route(
        "/v1/limits",
        "list_limits",
        "GET",
        handler=list_limits,
        tag="model",
        summary="List the request limits and the settings that change them.",
        response_model=Limits,
    ),
    Route(
        METRICS_PATH,
        "get_metrics",
        "GET",
        handler=get_metrics,
        tag="health",
        summary="Prometheus metrics.",
        media_types=(metrics.MEDIA_TYPE,),
    ),
    *PROBE_ROUTES,
]
PROBE_PATHS = frozenset(route.path for route in PROBE_ROUTES)
ALIASES = {"/classify": "/v1/classify", "/classify_batch": "/v1/classify/batch"}  # BentoML's paths for the same handlers

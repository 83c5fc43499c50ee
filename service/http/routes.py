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

from ..api.options import ClassifyOptions, ExplainOptions, Options, SimilarOptions, parsed
from ..api.problems import EXPECTED, explained
from ..api.schemas import Batch, Classification, Embedding, Explained, Labels, Limits, ModelDescription, Similar
from ..errors import Refused
from ..monitoring import metrics
from .request_body import Givens, Intake
from .responses import acceptable, refusal, reply
from .state import Serving

R = TypeVar("R")
Handler = Callable[[Request, Serving], Awaitable[Response]]


@dataclass(frozen=True)
class Route:
    """One path with the handler of its only method. Other methods get a 405; an expected error becomes a problem response.

    Attributes:
        takes: what the body holds: one image, or several.
        answer: the pydantic model of a JSON response.
        kinds: the media types of the response.
        open: whether it needs no API key.
        shown: whether the OpenAPI document includes it.
    """

    path: str
    method: Literal["GET", "POST"]
    handler: Handler
    summary: str
    takes: Literal["image", "images"] | None = None
    options: type[Options] = Options
    answer: type[BaseModel] | None = None
    kinds: tuple[str, ...] = ("application/json",)
    open: bool = False
    shown: bool = True

    async def __call__(self, request: Request, serving: Serving) -> Response:
        methods = ("GET", "HEAD") if self.method == "GET" else ("POST",)
        try:
            if request.method not in methods:
                raise Refused("method_not_allowed", f"{request.method} is not allowed here; use {' or '.join(methods)}.")
            if not self.open and acceptable(request.headers.get("accept", ""), self.kinds) is None:
                raise Refused("not_acceptable", f"The response is {' or '.join(self.kinds)}, which the Accept header excludes.")
            return await self.handler(request, serving)
        except EXPECTED as error:
            rejection = explained(error, serving.settings, request.state.id)
            request.state.code = rejection.code
            response = refusal(rejection)
            if rejection.status == 405:
                response.headers["Allow"] = ", ".join(methods)
            return response


async def classify(request: Request, serving: Serving) -> Response:
    predictor, (encoded, raw_options) = serving.loaded(), await _taken(request, serving, Intake.image)
    options = parsed(ClassifyOptions, *raw_options)
    return reply(await _unless_gone(request, serving, predictor.classify(encoded, options, request.state.id)))


async def classify_batch(request: Request, serving: Serving) -> Response:
    predictor, (images, raw_options) = serving.loaded(), await _taken(request, serving, Intake.images)
    options = parsed(ClassifyOptions, *raw_options)
    return reply(await _unless_gone(request, serving, predictor.classify_many(images, options, request.state.id)))


async def embed(request: Request, serving: Serving) -> Response:
    predictor, (encoded, raw_options) = serving.loaded(), await _taken(request, serving, Intake.image)
    parsed(Options, *raw_options)
    return reply(await _unless_gone(request, serving, predictor.embed(encoded, request.state.id)))


async def similar(request: Request, serving: Serving) -> Response:
    predictor, (encoded, raw_options) = serving.loaded(), await _taken(request, serving, Intake.image)
    options = parsed(SimilarOptions, *raw_options)
    return reply(await _unless_gone(request, serving, predictor.similar(encoded, options, request.state.id)))


async def explain(request: Request, serving: Serving) -> Response:
    predictor, (encoded, raw_options) = serving.loaded(), await _taken(request, serving, Intake.image)
    options = parsed(ExplainOptions, *raw_options)
    if acceptable(request.headers.get("accept", ""), PICTURE_OR_JSON) == "application/json":
        return reply(await _unless_gone(request, serving, predictor.explain(encoded, options, request.state.id)))
    png = await _unless_gone(request, serving, predictor.overlay(encoded, options))
    return Response(png, media_type="image/png")


async def describe_model(request: Request, serving: Serving) -> Response:
    model = serving.loaded().model
    fields = model.manifest.model_dump(include=set(ModelDescription.model_fields))
    return reply(ModelDescription(**fields, device=model.engine.device, precision=model.engine.precision, drift=model.drift))


async def list_labels(request: Request, serving: Serving) -> Response:
    return reply(Labels(labels=serving.loaded().model.manifest.labels))


async def list_limits(request: Request, serving: Serving) -> Response:
    return reply(Limits(limits=serving.settings.limits()))


async def alive(request: Request, serving: Serving) -> Response:
    if serving.pipeline is not None and serving.pipeline.road.beyond_repair:
        raise Refused("not_ready", "The network no longer responds.")
    return Response("\n", media_type="text/plain")


async def ready(request: Request, serving: Serving) -> Response:
    if not serving.ready:
        raise Refused("not_ready", "The service does not accept new requests.")
    return Response("\n", media_type="text/plain")


async def tell_metrics(request: Request, serving: Serving) -> Response:
    return Response(serving.metrics.text(), media_type=metrics.MEDIA_TYPE)


async def _taken(request: Request, serving: Serving, take: Callable[[Intake], Awaitable[tuple[R, Givens]]]) -> tuple[R, Givens]:
    """The request's images and raw options. Raises Overloaded before it reads the body if the queue is full."""
    serving.loaded().road.room.check()
    start = time.perf_counter()
    try:
        return await take(Intake(request, serving.settings, serving.uploads))
    finally:
        if reservation := request.scope.get("reservation"):
            reservation.end()
        serving.metrics.stage_seconds.labels("read").observe(time.perf_counter() - start)


async def _unless_gone(request: Request, serving: Serving, work: Coroutine[Any, Any, R]) -> R:
    """The result of `work`, after the body was read. Cancels `work` on a disconnect or when the deadline passes."""
    deadline_s = serving.settings.answer_deadline_s
    timeout = asyncio.timeout(deadline_s)
    disconnect = asyncio.ensure_future(_hung_up(request, timeout))
    try:
        async with timeout:
            return await work
    except TimeoutError:
        if disconnect.done():
            raise ClientDisconnect from None
        detail = f"The result was not ready within {deadline_s:g} seconds."
        raise Refused("deadline", detail, "answer_deadline_s") from None
    finally:
        disconnect.cancel()


async def _hung_up(request: Request, limit: asyncio.Timeout) -> None:
    """Waits for the client to disconnect, then makes the timeout expire."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    with suppress(RuntimeError):  # the work finished at the same moment
        limit.reschedule(0)


PICTURE_OR_JSON = ("image/png", "application/json")
PROBED = [
    Route("/livez", "GET", alive, "Liveness: whether the process works.", kinds=("text/plain",), open=True),
    Route("/healthz", "GET", alive, "Liveness: alias of /livez.", kinds=("text/plain",), open=True),
    Route("/readyz", "GET", ready, "Readiness: whether new requests are accepted.", kinds=("text/plain",), open=True),
]
CONTRACT = [
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
        PICTURE_OR_JSON,
    ),
    Route("/v1/model", "GET", describe_model, "Describe the served model.", answer=ModelDescription),
    Route("/v1/labels", "GET", list_labels, "List the labels, in the order of the network's outputs.", answer=Labels),
    Route("/v1/limits", "GET", list_limits, "List the request limits and the settings that change them.", answer=Limits),
    Route("/metrics", "GET", tell_metrics, "Prometheus metrics.", kinds=(metrics.MEDIA_TYPE,)),
    *PROBED,
]
PROBES = frozenset(route.path for route in PROBED)
TWINS = {"/classify": "/v1/classify", "/classify_batch": "/v1/classify/batch"}  # BentoML's paths for the same handlers

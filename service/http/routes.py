"""The HTTP contract as a table: which path takes what and answers what. No arithmetic."""

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
    """One path: its handler for its one method, 405 for every other; and whatever is refused becomes a problem.

    Attributes:
        takes: an image, or several, in the body.
        answer: the model of a JSON answer.
        kinds: the media types of its answer.
        open: whether it is answered without the key.
        shown: whether the OpenAPI document tells of it.
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
                raise Refused("method_not_allowed", f"{request.method} is not possible here; {' or '.join(methods)} is.")
            if not self.open and acceptable(request.headers.get("accept", ""), self.kinds) is None:
                raise Refused("not_acceptable", f"The answer is {' or '.join(self.kinds)}, which the Accept header rules out.")
            return await self.handler(request, serving)
        except EXPECTED as error:
            told = explained(error, serving.settings, request.state.id)
            request.state.code = told.code
            response = refusal(told)
            if told.status == 405:
                response.headers["Allow"] = ", ".join(methods)
            return response


async def classify(request: Request, serving: Serving) -> Response:
    pipeline, (encoded, given) = serving.loaded(), await _taken(request, serving, Intake.image)
    options = parsed(ClassifyOptions, *given)
    return reply(await _unless_gone(request, serving, pipeline.classify(encoded, options, request.state.id)))


async def classify_batch(request: Request, serving: Serving) -> Response:
    pipeline, (images, given) = serving.loaded(), await _taken(request, serving, Intake.images)
    options = parsed(ClassifyOptions, *given)
    return reply(await _unless_gone(request, serving, pipeline.classify_many(images, options, request.state.id)))


async def embed(request: Request, serving: Serving) -> Response:
    pipeline, (encoded, given) = serving.loaded(), await _taken(request, serving, Intake.image)
    parsed(Options, *given)
    return reply(await _unless_gone(request, serving, pipeline.embed(encoded, request.state.id)))


async def similar(request: Request, serving: Serving) -> Response:
    pipeline, (encoded, given) = serving.loaded(), await _taken(request, serving, Intake.image)
    options = parsed(SimilarOptions, *given)
    return reply(await _unless_gone(request, serving, pipeline.similar(encoded, options, request.state.id)))


async def explain(request: Request, serving: Serving) -> Response:
    pipeline, (encoded, given) = serving.loaded(), await _taken(request, serving, Intake.image)
    options = parsed(ExplainOptions, *given)
    if acceptable(request.headers.get("accept", ""), PICTURE_OR_JSON) == "application/json":
        return reply(await _unless_gone(request, serving, pipeline.explain(encoded, options, request.state.id)))
    picture = await _unless_gone(request, serving, pipeline.overlay(encoded, options))
    return Response(picture, media_type="image/png")


async def describe_model(request: Request, serving: Serving) -> Response:
    model = serving.loaded().model
    facts = model.manifest.model_dump(include=set(ModelDescription.model_fields))
    return reply(ModelDescription(**facts, device=model.engine.device, precision=model.engine.precision, drift=model.drift))


async def list_labels(request: Request, serving: Serving) -> Response:
    return reply(Labels(labels=serving.loaded().model.manifest.labels))


async def list_limits(request: Request, serving: Serving) -> Response:
    return reply(Limits(limits=serving.settings.limits()))


async def alive(request: Request, serving: Serving) -> Response:
    if serving.pipeline is not None and serving.pipeline.road.beyond_repair:
        raise Refused("not_ready", "The network no longer answers.")
    return Response("\n", media_type="text/plain")


async def ready(request: Request, serving: Serving) -> Response:
    if not serving.ready:
        raise Refused("not_ready", "New requests should go elsewhere.")
    return Response("\n", media_type="text/plain")


async def tell_metrics(request: Request, serving: Serving) -> Response:
    return Response(serving.metrics.text(), media_type=metrics.MEDIA_TYPE)


async def _taken(request: Request, serving: Serving, take: Callable[[Intake], Awaitable[tuple[R, Givens]]]) -> tuple[R, Givens]:
    """What a request brings. A full house says so before it reads."""
    serving.loaded().road.room.check()
    begun = time.perf_counter()
    try:
        return await take(Intake(request, serving.settings, serving.uploads))
    finally:
        if arrival := request.scope.get("arrival"):
            arrival.end()
        serving.metrics.stage_seconds.labels("read").observe(time.perf_counter() - begun)


async def _unless_gone(request: Request, serving: Serving, work: Coroutine[Any, Any, R]) -> R:
    """The outcome of work on a request that has been read; cancelled if its caller hangs up or the deadline passes."""
    deadline_s = serving.settings.answer_deadline_s
    limit = asyncio.timeout(deadline_s)
    leaving = asyncio.ensure_future(_hung_up(request, limit))
    try:
        async with limit:
            return await work
    except TimeoutError:
        if leaving.done():
            raise ClientDisconnect from None
        raise Refused("deadline", f"There was no answer within {deadline_s:g} seconds.", "answer_deadline_s") from None
    finally:
        leaving.cancel()


async def _hung_up(request: Request, limit: asyncio.Timeout) -> None:
    """Once the caller has hung up, there is no time left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    with suppress(RuntimeError):  # it was answered in the same moment
        limit.reschedule(0)


PICTURE_OR_JSON = ("image/png", "application/json")
PROBED = [
    Route("/livez", "GET", alive, "Whether the process should be kept.", kinds=("text/plain",), open=True),
    Route("/healthz", "GET", alive, "The same.", kinds=("text/plain",), open=True),
    Route("/readyz", "GET", ready, "Whether requests should be sent here.", kinds=("text/plain",), open=True),
]
CONTRACT = [
    Route("/v1/classify", "POST", classify, "The most probable labels of one image.", "image", ClassifyOptions, Classification),
    Route(
        "/v1/classify/batch",
        "POST",
        classify_batch,
        "The most probable labels of several images, or what is wrong with each.",
        "images",
        ClassifyOptions,
        Batch,
    ),
    Route("/v1/embed", "POST", embed, "What the network sees in one image.", "image", Options, Embedding),
    Route("/v1/similar", "POST", similar, "The training images that are most like one.", "image", SimilarOptions, Similar),
    Route(
        "/v1/explain",
        "POST",
        explain,
        "Which parts of an image speak for a label: a picture, or numbers.",
        "image",
        ExplainOptions,
        Explained,
        PICTURE_OR_JSON,
    ),
    Route("/v1/model", "GET", describe_model, "What is served, exactly.", answer=ModelDescription),
    Route("/v1/labels", "GET", list_labels, "Every label, in the order of the network's outputs.", answer=Labels),
    Route("/v1/limits", "GET", list_limits, "What a request may be, and the settings that say so.", answer=Limits),
    Route("/metrics", "GET", tell_metrics, "What an operator watches, in Prometheus' words.", kinds=(metrics.MEDIA_TYPE,)),
    *PROBED,
]
PROBES = frozenset(route.path for route in PROBED)
TWINS = {"/classify": "/v1/classify", "/classify_batch": "/v1/classify/batch"}  # BentoML's names for them

"""Builds HTTP responses from results and problems, and negotiates the media type. No routing, no application state."""

import random

from pydantic import BaseModel
from starlette.responses import Response

from ..api.schemas import Problem

PROBLEM_TYPE = "application/problem+json"
# Of every response, unless it sets its own: an answer is for one caller, and is of the type that it says.
DEFAULT_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def json_response(answer: BaseModel) -> Response:
    """A result as a JSON response."""
    return Response(answer.model_dump_json(), media_type="application/json")


def problem_response(problem: Problem) -> Response:
    """A problem as a JSON response, with the headers that its status requires."""
    headers = dict(DEFAULT_HEADERS)
    if problem.status == 503:
        headers["Retry-After"] = str(random.randint(1, 3))  # jitter: the clients must not all retry at once
    if problem.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="graft"'
    return Response(problem.model_dump_json(exclude_none=True), problem.status, headers, PROBLEM_TYPE)


def negotiate(accept: str, media_types: tuple[str, ...]) -> str | None:
    """The offered media type that an Accept header prefers; the first one if the header is empty; None if it rules out all.

    As in RFC 9110, 12.5.1, the most specific range that matches a type sets its quality.
    """
    if not accept.strip():
        return media_types[0]
    ranges = dict(_parse_range(part) for part in accept.split(","))
    quality = {offer: _quality(offer.partition(";")[0], ranges) for offer in media_types}
    best = max(media_types, key=lambda offer: quality[offer])
    return best if quality[best] > 0 else None


def _quality(media_type: str, ranges: dict[str, float]) -> float:
    main_type = media_type.partition("/")[0]
    return next((ranges[name] for name in (media_type, f"{main_type}/*", "*/*") if name in ranges), 0.0)


def _parse_range(media_range: str) -> tuple[str, float]:
    name, *parameters = (token.strip().lower() for token in media_range.split(";"))
    weights = [parameter[2:] for parameter in parameters if parameter.startswith("q=")]
    try:
        return name, float(weights[0]) if weights else 1.0
    except ValueError:
        return name, 0.0

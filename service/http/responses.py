"""Builds HTTP responses from results and problems, and negotiates the media type. No routing, no application state."""

import random

from pydantic import BaseModel
from starlette.responses import Response

from ..api.schemas import Problem

PROBLEM_TYPE = "application/problem+json"


def reply(answer: BaseModel) -> Response:
    """A result as a JSON response."""
    return Response(answer.model_dump_json(), media_type="application/json")


def refusal(problem: Problem) -> Response:
    """A problem as a JSON response, with the headers that its status requires."""
    headers = {}
    if problem.status == 503:
        headers["Retry-After"] = str(random.randint(1, 3))  # jitter: the clients must not all retry at once
    if problem.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="graft"'
    return Response(problem.model_dump_json(exclude_none=True), problem.status, headers, PROBLEM_TYPE)


def acceptable(accept: str, kinds: tuple[str, ...]) -> str | None:
    """The offered media type that an Accept header prefers; the first one if the header is empty; None if it rules out all.

    As in RFC 9110, 12.5.1, the most specific range that matches a type sets its quality.
    """
    if not accept.strip():
        return kinds[0]
    ranges = dict(_weighed(part) for part in accept.split(","))
    quality = {offer: _liking(offer.partition(";")[0], ranges) for offer in kinds}
    best = max(kinds, key=lambda offer: quality[offer])
    return best if quality[best] > 0 else None


def _liking(kind: str, ranges: dict[str, float]) -> float:
    main_type = kind.partition("/")[0]
    return next((ranges[name] for name in (kind, f"{main_type}/*", "*/*") if name in ranges), 0.0)


def _weighed(part: str) -> tuple[str, float]:
    name, *parameters = (token.strip().lower() for token in part.split(";"))
    weights = [parameter[2:] for parameter in parameters if parameter.startswith("q=")]
    try:
        return name, float(weights[0]) if weights else 1.0
    except ValueError:
        return name, 0.0

"""Answers and problems as HTTP responses."""

import random

from pydantic import BaseModel
from starlette.responses import Response

from ..api.schemas import Problem

PROBLEM_TYPE = "application/problem+json"


def reply(answer: BaseModel) -> Response:
    """An answer as JSON."""
    return Response(answer.model_dump_json(), media_type="application/json")


def refusal(problem: Problem) -> Response:
    """A problem as JSON, with the headers that its status calls for."""
    headers = {}
    if problem.status == 503:
        headers["Retry-After"] = str(random.randint(1, 3))  # apart from each other, so that they don't come back as one crowd
    if problem.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="graft"'
    return Response(problem.model_dump_json(exclude_none=True), problem.status, headers, PROBLEM_TYPE)


def acceptable(accept: str, kinds: tuple[str, ...]) -> str | None:
    """Which of the media types on offer an Accept header likes best; the first of them if it says nothing; None if none.

    By RFC 9110, 12.5.1: the most specific range that covers a type decides about it.
    """
    if not accept.strip():
        return kinds[0]
    ranges = dict(_weighed(part) for part in accept.split(","))
    liking = {kind: _liking(kind.partition(";")[0], ranges) for kind in kinds}
    best = max(kinds, key=lambda kind: liking[kind])
    return best if liking[best] > 0 else None


def _liking(kind: str, ranges: dict[str, float]) -> float:
    family = kind.partition("/")[0]
    return next((ranges[name] for name in (kind, f"{family}/*", "*/*") if name in ranges), 0.0)


def _weighed(part: str) -> tuple[str, float]:
    name, *parameters = (piece.strip().lower() for piece in part.split(";"))
    weights = [parameter[2:] for parameter in parameters if parameter.startswith("q=")]
    try:
        return name, float(weights[0]) if weights else 1.0
    except ValueError:
        return name, 0.0

"""Converts exceptions to RFC 9457 problems. No HTTP responses."""

from ..errors import ImageError, Overloaded, ProblemError
from ..settings import Settings
from .schemas import PROBLEMS, Problem

# Caused by the request or the current load; any other exception is a bug.
CLIENT_ERRORS = (ProblemError, ImageError, Overloaded)


def to_problem(error: ProblemError | ImageError | Overloaded, settings: Settings, request_id: str) -> Problem:
    """The problem for an expected error, with the limit that was hit and its setting."""
    if isinstance(error, Overloaded):
        return make_problem("overloaded", str(error), settings, request_id, error.limit)
    field, status = getattr(error, "field", None), getattr(error, "status", None)
    return make_problem(error.code, str(error), settings, request_id, error.limit, field, status)


def make_problem(
    code: str,
    detail: str,
    settings: Settings,
    request_id: str,
    limit: str | None = None,
    field: str | None = None,
    status: int | None = None,
) -> Problem:
    """A problem with one of the codes in `graft.service.api.schemas.PROBLEMS`."""
    default_status, title = PROBLEMS[code]
    if field is not None:
        field = field.encode(errors="backslashreplace").decode()  # JSON strings may hold surrogates, which UTF-8 cannot encode
    return Problem(
        title=title,
        status=status or default_status,
        detail=detail,
        code=code,
        request_id=request_id,
        limit=settings.limit(limit) if limit else None,
        field=field,
    )

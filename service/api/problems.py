"""What is answered instead of a result: an error in the words of the contract. No HTTP."""

from ..errors import ImageError, Overloaded, Refused
from ..settings import Settings
from .schemas import PROBLEMS, Problem

EXPECTED = (Refused, ImageError, Overloaded)  # the errors that are the caller's, or the moment's; others are bugs of ours


def explained(error: Refused | ImageError | Overloaded, settings: Settings, request_id: str) -> Problem:
    """The problem that an expected error is, with the limit that was hit and its setting."""
    if isinstance(error, Overloaded):
        return problem("overloaded", str(error), settings, request_id, error.limit)
    field, status = getattr(error, "field", None), getattr(error, "status", None)
    return problem(error.code, str(error), settings, request_id, error.limit, field, status)


def problem(
    code: str,
    detail: str,
    settings: Settings,
    request_id: str,
    limit: str | None = None,
    field: str | None = None,
    status: int | None = None,
) -> Problem:
    """A problem of one of the codes in `graft.service.api.schemas.PROBLEMS`."""
    usual, title = PROBLEMS[code]
    if field is not None:
        field = field.encode(errors="backslashreplace").decode()  # JSON can spell what UTF-8 cannot
    shown = settings.limit(limit) if limit else None
    return Problem(
        title=title, status=status or usual, detail=detail, code=code, request_id=request_id, limit=shown, field=field
    )

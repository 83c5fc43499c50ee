"""What is answered instead of a result: an error in the words of the contract. No HTTP."""

from service.batcher import Overloaded
from service.limits import Settings
from service.preprocess import ImageError
from service.schemas import PROBLEMS, Problem


class Refused(Exception):
    """A request that is answered with a problem instead of a result.

    Attributes:
        code: a key of `service.schemas.PROBLEMS`.
        limit: the setting that was hit, if one was.
        field: the request's field at fault, if one is.
        status: if it is another than the code's own.
    """

    def __init__(
        self, code: str, detail: str, limit: str | None = None, field: str | None = None, status: int | None = None
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.limit = limit
        self.field = field
        self.status = status


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
    """A problem of one of the codes in `service.schemas.PROBLEMS`."""
    usual, title = PROBLEMS[code]
    if field is not None:
        field = field.encode(errors="backslashreplace").decode()  # JSON can spell what UTF-8 cannot
    shown = settings.limit(limit) if limit else None
    return Problem(
        title=title, status=status or usual, detail=detail, code=code, request_id=request_id, limit=shown, field=field
    )

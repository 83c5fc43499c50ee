"""The exceptions that a request may end with."""


class ImageError(ValueError):
    """This file cannot be classified, for a reason fit to show to whoever sent it.

    Attributes:
        code: a stable slug, as listed in `graft.service.api.schemas`.
        limit: the name of the limit that was hit, if one was.
    """

    def __init__(self, code: str, detail: str, limit: str | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.limit = limit


class Overloaded(Exception):
    """The queue is full, or the deadline passed while waiting. Try again in a moment.

    Attributes:
        limit: the setting that was hit.
    """

    def __init__(self, detail: str, limit: str | None = None) -> None:
        super().__init__(detail)
        self.limit = limit


class Refused(Exception):
    """A request that is answered with a problem instead of a result.

    Attributes:
        code: a key of `graft.service.api.schemas.PROBLEMS`.
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

"""The exceptions that end a request."""


class ImageError(ValueError):
    """The image cannot be used. The message is safe to return to the client.

    Attributes:
        code: a stable error code from `graft.service.api.schemas`.
        limit: the name of the exceeded limit, if any.
    """

    def __init__(self, code: str, detail: str, limit: str | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.limit = limit


class Overloaded(Exception):
    """The queue is full, or the deadline passed in the queue. The client may retry.

    Attributes:
        limit: the name of the exceeded setting, if any.
    """

    def __init__(self, detail: str, limit: str | None = None) -> None:
        super().__init__(detail)
        self.limit = limit


class ProblemError(Exception):
    """Ends a request with a problem response (RFC 9457).

    Attributes:
        code: a key of `graft.service.api.schemas.PROBLEMS`.
        limit: the name of the exceeded setting, if any.
        field: the invalid request field, if any.
        status: overrides the default status of the code.
    """

    def __init__(
        self, code: str, detail: str, limit: str | None = None, field: str | None = None, status: int | None = None
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.limit = limit
        self.field = field
        self.status = status

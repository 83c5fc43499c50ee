"""What one path accepts and returns, and its common behavior. No handlers."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from ..api.options import Options
from ..api.problems import CLIENT_ERRORS, to_problem
from ..errors import ProblemError
from ..settings import Settings
from .responses import negotiate, problem_response
from .state import AppState

Handler = Callable[[Request, AppState], Awaitable[Response]]
METRICS_PATH = "/metrics"
Tag = Literal["images", "model", "health", "documentation", "bentoml"]


@dataclass(frozen=True)
class Route:
    """One path with the handler of its only method. Other methods get a 405; an expected error becomes a problem response.

    Attributes:
        name: the operationId in the OpenAPI document, from which generated clients make a method.
        tag: the group in the OpenAPI document; None: not in the document.
        accepts: what the body holds: one image, or several.
        response_model: the pydantic model of a JSON response.
        media_types: the media types of the response.
        public: whether it needs no API key, whatever the settings.
    """

    path: str
    name: str
    method: Literal["GET", "POST"]
    handler: Handler
    summary: str = ""
    tag: Tag | None = None
    description: str = ""
    accepts: Literal["image", "images"] | None = None
    options: type[Options] = Options
    response_model: type[BaseModel] | None = None
    media_types: tuple[str, ...] = ("application/json",)
    public: bool = False

    def is_public(self, settings: Settings) -> bool:
        """Whether it needs no key with these settings."""
        return self.public or (self.path == METRICS_PATH and settings.metrics_public)

    @property
    def methods(self) -> tuple[str, ...]:
        return ("GET", "HEAD") if self.method == "GET" else ("POST",)

    async def __call__(self, request: Request, app_state: AppState) -> Response:
        try:
            if request.method not in self.methods:
                detail = f"{request.method[:20]} is not allowed here; use {' or '.join(self.methods)}."
                raise ProblemError("method_not_allowed", detail)
            if not self.public and negotiate(request.headers.get("accept", ""), self.media_types) is None:
                raise ProblemError(
                    "not_acceptable", f"The response is {' or '.join(self.media_types)}, which the Accept header excludes."
                )
            return await self.handler(request, app_state)
        except CLIENT_ERRORS as error:
            rejection = to_problem(error, app_state.settings, request.state.id)
            request.state.code = rejection.code
            response = problem_response(rejection)
            if rejection.status == 405:
                response.headers["Allow"] = ", ".join(self.methods)
            return response

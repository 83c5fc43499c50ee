"""The way past BentoML's own middlewares."""

from starlette.types import ASGIApp, Receive, Scope, Send

from .middleware import BENTOML_PATHS
from .state import AppState


class BypassBentoML:
    """ASGI app that skips BentoML's middlewares. Used unless tracing needs them.

    They cost three times as much as the rest of the request path, and one of their timers keeps 5 KB per request for a minute.
    """

    def __init__(self, bentoml: ASGIApp, middleware: ASGIApp, app_state: AppState) -> None:
        self._bentoml = bentoml
        self._middleware = middleware
        self._app_state = app_state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_for_bentoml = self._app_state.route_path(scope.get("path", "")) in BENTOML_PATHS
        app = self._bentoml if is_for_bentoml else self._middleware
        await app(scope, receive, send)

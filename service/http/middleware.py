"""ASGI middleware around every request: access, routing, access log, and metrics.

BentoML's request parser fetches URLs found in upload fields, unpickles, and responds 500 to broken images, and its metrics
create a new series for every path that is tried. So only the paths of the route table are served, and the schema for
BentoML's client is the only one passed on to BentoML: its parser never receives a byte.
"""

import time
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..api.problems import make_problem
from ..monitoring.logs import logger
from . import access, cors
from .exchange import Exchange
from .responses import problem_response
from .route import METRICS_PATH, Route
from .routes import PROBE_PATHS
from .state import AppState

BENTOML_PATHS = frozenset({"/schema.json"})
CLIENT_CLOSED_REQUEST = (
    499  # nginx's code for a client that disconnected; only in logs and metrics, separate from server errors
)


class Middleware:
    """ASGI middleware in front of BentoML.

    Attributes:
        app_state: the state of the service.
    """

    def __init__(self, app: ASGIApp, app_state: AppState, routes: Mapping[str, Route]) -> None:
        self._bentoml = app
        self.app_state = app_state
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": self.app_state.route_path(scope["path"])}
            added_headers = cors.response_headers(Headers(scope=scope), self.app_state.settings)
            await self._handle(scope, Exchange(scope, receive, send, added_headers), receive)
        elif scope["type"] == "websocket":
            await self._refuse_websocket(scope, receive, send)
        else:
            await self._bentoml(scope, receive, send)

    async def _handle(self, scope: Scope, exchange: Exchange, receive: Receive) -> None:
        try:
            if (rejection := self._reject(exchange.request)) is not None:
                await exchange.respond(rejection)
            elif scope["path"] in BENTOML_PATHS:
                await self._bentoml(scope, receive, exchange.send)
            else:
                await exchange.respond(await self._routes[scope["path"]](exchange.request, self.app_state))
        except ClientDisconnect:
            exchange.status = CLIENT_CLOSED_REQUEST
        except Exception:
            logger.exception("failed", extra={"fields": {"request_id": exchange.id}})
            if exchange.status:  # the response has started: only a broken connection can show that it is incomplete
                raise
            await exchange.respond(
                self._problem_response(
                    exchange.request, "internal", "This is a bug in Graft. Find it in the log by the request id."
                )
            )
        finally:
            self.app_state.upload_budget.release(exchange.request.state.buffered_bytes)
            self._record(exchange)

    def _reject(self, request: Request) -> Response | None:
        """The response to a request that reaches no handler: a preflight, or one that is refused; None for any other."""
        path = request.scope["path"]
        route = self._routes.get(path)
        if cors.is_preflight(request) and route and request.headers["access-control-request-method"] in route.methods:
            return self._answer_preflight(request, route)
        if path == self.app_state.settings.root_path:  # for the page's relative links
            return Response(status_code=308, headers={"Location": f"{path.rpartition('/')[2]}/"})
        if not (route and route.is_public(self.app_state.settings)) and (reason := self._access_refusal(request)):
            return self._problem_response(request, *reason)
        if path in BENTOML_PATHS and request.method not in ("GET", "HEAD"):
            response = self._problem_response(request, "method_not_allowed", "Use GET or HEAD here.")
            response.headers["Allow"] = "GET, HEAD"
            return response
        if route is None and path not in BENTOML_PATHS:
            return self._problem_response(
                request, "not_found", f"There is no {path[:200]!r}. See /docs for the available paths."
            )
        return None

    def _access_refusal(self, request: Request) -> tuple[str, str] | None:
        keys = [self.app_state.api_keys]
        if request.scope["path"] == METRICS_PATH:
            keys.append(self.app_state.metrics_keys)
        return access.refusal(request.scope, request.method, self.app_state.settings, *keys)

    async def _refuse_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuses a WebSocket with a problem, or, if the server cannot send one, by closing it; counts and logs it."""
        scope = {**scope, "type": "http", "method": "GET", "path": self.app_state.route_path(scope["path"])}

        async def send_refusal(message: Message) -> None:
            if "websocket.http.response" in scope.get("extensions", {}):
                await send({**message, "type": f"websocket.{message['type']}"})
            elif message["type"] == "http.response.start":
                await send({"type": "websocket.close", "code": 1008})  # the server answers 403

        exchange = Exchange(scope, receive, send_refusal, cors.response_headers(Headers(scope=scope), self.app_state.settings))
        try:
            await exchange.respond(self._problem_response(exchange.request, "bad_request", "WebSockets are not supported."))
        finally:
            self._record(exchange)

    def _answer_preflight(self, request: Request, route: Route) -> Response:
        """Before the key is asked for, because browsers send none with a preflight."""
        if access.is_allowed_origin(origin := request.headers["origin"], self.app_state.settings):
            return cors.preflight_response(route.methods)
        return self._problem_response(request, "origin_not_allowed", access.origin_detail(origin))

    def _problem_response(self, request: Request, code: str, detail: str) -> Response:
        request.state.code = code
        return problem_response(make_problem(code, detail, self.app_state.settings, request.state.id))

    def _record(self, exchange: Exchange) -> None:
        """Counts and logs a request. By route, not by path: the number of paths is unbounded."""
        path, code = exchange.request.scope["path"], exchange.request.state.code
        route = path if path in self._routes or path in BENTOML_PATHS else "other"
        seconds = time.perf_counter() - exchange.started
        self.app_state.metrics.requests.labels(route, exchange.status, code).inc()
        self.app_state.metrics.request_seconds.labels(route).observe(seconds)
        if self.app_state.settings.log_requests and path not in PROBE_PATHS:
            fields = {
                "request_id": exchange.id,
                "method": exchange.request.method,
                "route": route,
                "status": exchange.status,
                "code": code,
                "ms": round(1e3 * seconds, 1),
                "bytes": exchange.n_received_bytes,
            }
            logger.info("request", extra={"fields": fields})

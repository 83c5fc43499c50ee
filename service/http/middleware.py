"""ASGI middleware around every request: authorization, routing, access log, and metrics.

BentoML's request parser fetches URLs found in upload fields, unpickles, and responds 500 to broken images, and its metrics
create a new series for every path that is tried. So only the paths of the route table are served, and the schema for
BentoML's client is the only one passed on to BentoML: its parser never receives a byte.
"""

import time
from collections.abc import Mapping

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ..api.problems import problem
from ..monitoring.logs import logger
from .exchange import Visit
from .responses import refusal
from .routes import PROBES, Route
from .state import Serving

BENTOML_PATHS = frozenset({"/schema.json"})
HUNG_UP = 499  # nginx's code for a client that disconnected; only in logs and metrics, separate from server errors


class Gate:
    """ASGI middleware in front of BentoML.

    Attributes:
        serving: the state of the service.
    """

    def __init__(self, app: ASGIApp, serving: Serving, routes: Mapping[str, Route]) -> None:
        self._bentoml = app
        self.serving = serving
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, Visit(scope, receive, send), receive)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._bentoml(scope, receive, send)

    async def _answer(self, scope: Scope, visit: Visit, receive: Receive) -> None:
        try:
            if (rejection := self._check(visit.request)) is not None:
                await visit.reply(rejection)
            elif scope["path"] in BENTOML_PATHS:
                await self._bentoml(scope, receive, visit.send)
            else:
                await visit.reply(await self._routes[scope["path"]](visit.request, self.serving))
        except ClientDisconnect:
            visit.status = HUNG_UP
        except Exception:
            logger.exception("failed", extra={"fields": {"request_id": visit.id}})
            if visit.status:  # the response has started: only a broken connection can show that it is incomplete
                raise
            await visit.reply(
                self._refusal(visit.request, "internal", "This is a bug in Graft. Find it in the log by the request id.")
            )
        finally:
            self.serving.uploads.give_back(visit.request.state.buffered_bytes)
            self._tell(visit)

    def _check(self, request: Request) -> Response | None:
        """The response to a request without a valid key or to an unknown path; None for any other."""
        path = request.scope["path"]
        route = self._routes.get(path)
        if not (route and route.open) and not self.serving.admits(request.headers.get("authorization", "")):
            return self._refusal(request, "unauthorized", "Send the header `Authorization: Bearer KEY`.")
        if route is None and path not in BENTOML_PATHS:
            return self._refusal(request, "not_found", f"There is no {path!r}. See /docs.json for the available paths.")
        return None

    def _refusal(self, request: Request, code: str, detail: str) -> Response:
        request.state.code = code
        return refusal(problem(code, detail, self.serving.settings, request.state.id))

    def _tell(self, visit: Visit) -> None:
        """Counts and logs a request. By route, not by path: the number of paths is unbounded."""
        path, code = visit.request.scope["path"], visit.request.state.code
        route = path if path in self._routes or path in BENTOML_PATHS else "other"
        seconds = time.perf_counter() - visit.begun
        self.serving.metrics.requests.labels(route, visit.status, code).inc()
        self.serving.metrics.request_seconds.labels(route).observe(seconds)
        if self.serving.settings.log_requests and path not in PROBES:
            fields = {
                "request_id": visit.id,
                "method": visit.request.method,
                "route": route,
                "status": visit.status,
                "code": code,
                "ms": round(1e3 * seconds, 1),
                "bytes": visit.received,
            }
            logger.info("request", extra={"fields": fields})

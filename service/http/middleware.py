"""The gate that every request passes first and every answer last: its key, its log line, its count.

BentoML's own request parser fetches URLs that it finds in upload fields, unpickles, and answers 500 to broken images; its
metrics make a new series of every path that anybody tries. So only the paths known here lead anywhere, and of those only
its client's schema leads to BentoML: its parser never sees a byte.
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
HUNG_UP = 499  # nobody reads it; nginx's word for it keeps it apart from our errors


class Gate:
    """ASGI middleware in front of BentoML.

    Attributes:
        serving: who answers.
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
            if (turned_away := self._check(visit.request)) is not None:
                await visit.reply(turned_away)
            elif scope["path"] in BENTOML_PATHS:
                await self._bentoml(scope, receive, visit.send)
            else:
                await visit.reply(await self._routes[scope["path"]](visit.request, self.serving))
        except ClientDisconnect:
            visit.status = HUNG_UP
        except Exception:
            logger.exception("failed", extra={"fields": {"request_id": visit.id}})
            if visit.status:  # too late to say so: only a broken connection tells that the answer is not whole
                raise
            await visit.reply(
                self._refusal(visit.request, "internal", "This is a bug of ours; the request id finds it in the log.")
            )
        finally:
            self.serving.uploads.give_back(visit.request.state.held)
            self._tell(visit)

    def _check(self, request: Request) -> Response | None:
        """What is answered to a request that comes without the key, or leads nowhere."""
        path = request.scope["path"]
        route = self._routes.get(path)
        if not (route and route.open) and not self.serving.admits(request.headers.get("authorization", "")):
            return self._refusal(request, "unauthorized", "Send the header `Authorization: Bearer KEY`.")
        if route is None and path not in BENTOML_PATHS:
            return self._refusal(request, "not_found", f"There is no {path!r}. See /docs.json for what there is.")
        return None

    def _refusal(self, request: Request, code: str, detail: str) -> Response:
        request.state.code = code
        return refusal(problem(code, detail, self.serving.settings, request.state.id))

    def _tell(self, visit: Visit) -> None:
        """Counts and logs a request. By route, not by path: there is no end of paths."""
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

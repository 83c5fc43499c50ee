"""What happens on a connection before there is a request: uvicorn's own protocol, with limits on time and size.

By itself uvicorn waits for ever for headers, takes any number of them, and explains itself in plain text.
"""

import asyncio
import math
import uuid
from collections.abc import Mapping
from typing import Any, ClassVar

import uvicorn.config
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from service.gate import BENTOML_PATHS, Gate
from service.problems import problem
from service.replies import PROBLEM_TYPE
from service.routes import Route
from service.serving import Serving

HEADER_OVERHEAD = 32  # bytes that a header counts beside its own, as in HTTP/2 (RFC 9113, 6.5.2): many small ones cost too


class Protocol(HttpToolsProtocol):
    """One connection."""

    serving: ClassVar[Serving]
    routes: ClassVar[Mapping[str, Route]]

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        settings = self._settings = self.serving.settings
        if not settings.tracing:
            self.app = Shortcut(self.app, Gate(self.app, self.serving, self.routes))
        # BentoML leaves it out, and then uvicorn waits without end for what was accepted.
        config.timeout_graceful_shutdown = config.timeout_graceful_shutdown or math.ceil(settings.drain_deadline_s)
        self._due: asyncio.TimerHandle | None = None  # while headers are awaited
        self._n_bytes = 0  # of the headers that are awaited
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._await_no_headers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._n_bytes += len(data)
        super().data_received(data)
        if self._due is not None and self._n_bytes > self._settings.max_header_bytes:
            self._refuse_headers()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._due is None:  # another request on the same connection
            self._await_headers()

    def on_headers_complete(self) -> None:
        self._await_no_headers()
        size = len(self.url) + sum(len(name) + len(value) + HEADER_OVERHEAD for name, value in self.headers)
        if size > self._settings.max_header_bytes:
            self._refuse_headers()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._refused:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse("bad_request", "This is not an HTTP request that can be understood.")

    def _await_headers(self) -> None:
        self._n_bytes = 0
        self._due = self.loop.call_later(self._settings.header_deadline_s, self._give_up)

    def _await_no_headers(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _give_up(self) -> None:
        detail = f"The headers were not there within {self._settings.header_deadline_s:g} seconds."
        self._refuse("slow_headers", detail, "header_deadline_s")

    def _refuse_headers(self) -> None:
        detail = (
            f"The headers have more than {self._settings.max_header_bytes:,} bytes, each counted with {HEADER_OVERHEAD} more."
        )
        self._refuse("headers_too_large", detail, "max_header_bytes")

    def _refuse(self, code: str, detail: str, limit: str | None = None) -> None:
        """Says what is wrong, and hangs up."""
        self._refused = True
        self._await_no_headers()
        if self.transport.is_closing():
            return
        told = problem(code, detail, self._settings, uuid.uuid4().hex, limit)
        body = told.model_dump_json(exclude_none=True).encode()
        headers = [
            f"content-type: {PROBLEM_TYPE}",
            f"content-length: {len(body)}",
            f"x-request-id: {told.request_id}",
            "connection: close",
        ]
        head = "\r\n".join([*headers, "", ""]).encode()
        self.transport.write(STATUS_LINE[told.status] + head + body)
        self.transport.close()
        self.serving.metrics.requests.labels("other", told.status, code).inc()


class Shortcut:
    """ASGI: leads past BentoML's middlewares, unless they are wanted for their tracing.

    They cost three times as much as the rest of the way, and a timer of theirs keeps 5 KB of every request for a minute.
    """

    def __init__(self, bentoml: ASGIApp, gate: ASGIApp) -> None:
        self._bentoml = bentoml
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._bentoml if scope.get("path") in BENTOML_PATHS else self._gate
        await app(scope, receive, send)


def install(serving: Serving, routes: Mapping[str, Route]) -> None:
    """Lets the uvicorn that BentoML is about to start in this process speak our protocol."""
    Protocol.serving, Protocol.routes = serving, routes
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{Protocol.__name__}"

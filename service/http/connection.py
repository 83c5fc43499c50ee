"""What happens on a connection before there is a request: uvicorn's own protocol, with limits on time and size.

By itself uvicorn waits for ever for headers, takes any number of them, and explains itself in plain text. And where there
is no room for one more image, its headers are enough to say so: refusals that cost as much as answers would leave no time
for answers.
"""

import asyncio
import math
import socket
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import uvicorn.config
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from ..api.problems import explained, problem
from ..api.schemas import Problem
from ..errors import Overloaded
from ..scheduling.predictor import Pipeline
from .exchange import LINGER_S, given_or_new, new_id
from .middleware import BENTOML_PATHS, Gate
from .responses import refusal
from .routes import Route
from .state import Serving

ACCEPTED_AT_ONCE = 4
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
        self._passing: asyncio.TimerHandle | None = None  # while the body of a request that was turned away passes by
        self._lasting = True  # whether the connection goes on after that

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._await_no_headers()
        if self._passing is not None:
            self._passing.cancel()
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
        elif self.serving.pipeline and self._brings_image():
            self._admit(self.serving.pipeline)
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._refused and self._passing is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._passing is not None:
            self._passed()
        elif not self._refused:
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
        if self._passing is not None:  # its answer is out already, and this is only about the body
            self.transport.close()
        if self.transport.is_closing():
            return
        told = problem(code, detail, self._settings, new_id(), limit)
        self._write(told, closing=True)
        self.transport.close()
        self.serving.metrics.requests.labels("other", told.status, code).inc()

    def _write(self, told: Problem, closing: bool) -> None:
        response = refusal(told)
        response.headers["X-Request-ID"] = told.request_id
        if closing:
            response.headers["Connection"] = "close"
        headers = b"".join(b"%b: %b\r\n" % header for header in [*self.server_state.default_headers, *response.raw_headers])
        self.transport.write(STATUS_LINE[told.status] + headers + b"\r\n" + bytes(response.body))

    def _brings_image(self) -> bool:
        """Whether an image is to follow these headers; False too where only the gate can answer, or answer in order."""
        route = self.routes.get(self._path())
        in_order = self.cycle is None or self.cycle.response_complete
        image = route is not None and route.takes is not None and self.parser.get_method() == b"POST"
        return image and in_order and self.serving.admits(self._header(b"authorization"))

    def _admit(self, pipeline: Pipeline) -> None:
        """Keeps a place for the image, or says that there is none."""
        try:
            self.scope["arrival"] = pipeline.road.room.expect()  # type: ignore[typeddict-unknown-key]
        except Overloaded as overload:
            self._turn_away(overload)
        else:
            super().on_headers_complete()

    def _turn_away(self, overload: Overloaded) -> None:
        """Answers at once; the body passes by unread, and then the connection is as good as before."""
        begun = time.perf_counter()
        # Whoever asks before sending a body does not send it now; nobody could tell where the next request begins.
        lasting = self.parser.should_keep_alive() and self.parser.get_http_version() != "1.0"
        self._lasting = lasting and not self.expect_100_continue
        told = explained(overload, self._settings, given_or_new(self._header(b"x-request-id")))
        self._write(told, closing=not self._lasting)
        self._passing = self.loop.call_later(LINGER_S, self.transport.close)
        self.server_state.total_requests += 1
        self.serving.turn_away(self._path(), told, time.perf_counter() - begun)

    def _path(self) -> str:
        return self.url.partition(b"?")[0].decode("latin-1")

    def _header(self, name: bytes) -> str:
        return next((value.decode("latin-1") for key, value in self.headers if key == name), "")

    def _passed(self) -> None:
        """The body of a request that was turned away is off the wire."""
        if self._passing is not None:
            self._passing.cancel()
            self._passing = None
        if not self._lasting:
            self.transport.close()
        elif not self.transport.is_closing():  # as uvicorn does after an answer of its own
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)


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
    _open_wide()


def _open_wide() -> None:
    """Lets uvicorn accept several connections in one round of its loop.

    uvloop accepts one in a round for each listening socket, and under load a round takes long: two thousand callers were
    kept waiting at the door for seconds, only to be told that there is no room. So the same door is opened several times.
    """
    start = uvicorn.Server.startup

    async def startup(self: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
        await start(self, sockets and [given.dup() for given in sockets for _ in range(ACCEPTED_AT_ONCE)])

    uvicorn.Server.startup = startup  # type: ignore[method-assign]

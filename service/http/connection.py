"""uvicorn's HTTP protocol with limits and early rejection. Nothing here reads a body.

By default uvicorn waits forever for headers, accepts any number of them, of trailers and of pipelined requests, and reports
errors in plain text. An overloaded service rejects an upload after its headers: if a rejection cost as much as a prediction, no
time would be left for predictions.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar

import httptools
import uvicorn
from starlette.datastructures import Headers
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from ..api.problems import make_problem, to_problem
from ..api.schemas import Problem
from ..errors import Overloaded
from ..scheduling.predictor import Predictor
from . import access, cors
from .bypass import BypassBentoML
from .connection_table import ConnectionTable
from .exchange import LINGER_S, new_id, valid_or_new_id
from .middleware import Middleware
from .responses import problem_response
from .route import Route
from .state import AppState
from .upgrade import request_head

MAX_PIPELINED = 16  # requests that may follow an unanswered one; browsers and HTTP libraries send none
FREE_CHUNKS = 1_000  # a body may have this many chunks of any size
MIN_CHUNK_BYTES = 64  # the mean size of further chunks: each costs microseconds, however small it is
HEADER_OVERHEAD = 32  # bytes added to the size of each header, as in HTTP/2 (RFC 9113, 6.5.2): many small headers cost too


class StopParsing(Exception):
    """Raised in a callback of the parser, so that it drops the rest of what was received."""


class HttpProtocol(HttpToolsProtocol):
    """One HTTP/1.1 connection.

    Attributes:
        n_responses: how many responses are complete.
    """

    service_state: ClassVar[AppState]
    routes: ClassVar[Mapping[str, Route]]

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        settings = self._settings = self.service_state.settings
        if not settings.tracing:
            self.app = BypassBentoML(self.app, Middleware(self.app, self.service_state, self.routes), self.service_state)
        # BentoML does not set it, and uvicorn would then wait forever for accepted requests.
        config.timeout_graceful_shutdown = config.timeout_graceful_shutdown or math.ceil(settings.drain_deadline_s)
        self._header_timer: asyncio.TimerHandle | None = None  # runs until the headers are complete
        self._in_headers = False
        self._n_idle_bytes = 0  # received since the last progress: headers that are complete, or a byte of a body
        self._pipelined_sizes: deque[int] = deque()  # bytes in the headers of each request in the pipeline
        self._n_body_bytes = self._n_chunks = 0  # of the current request
        self._rejected = False  # whether the rest of what the client sends is ignored
        self.n_responses = 0
        self._discard_timer: asyncio.TimerHandle | None = None  # runs while the body of a rejected request is discarded
        self._reuse_connection = True  # whether the connection is kept alive after that

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._table.add(self):
            self._start_header_timer()
        else:
            self._reject("overloaded", "All connections are in use.", "max_connections")

    def connection_lost(self, exc: Exception | None) -> None:
        self._table.remove(self)
        self._cancel_header_timer()
        if self._discard_timer is not None:
            self._discard_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._rejected:
            return
        self._n_idle_bytes += len(data)
        try:
            self._parse(memoryview(data))
        except httptools.HttpParserError:
            if not self._rejected:
                self._reject("bad_request", "The request is not valid HTTP.")
        if not self._rejected and self._n_idle_bytes > self._settings.max_header_bytes:
            self._reject_headers()

    def evict(self) -> None:
        """Closes a connection whose client has kept the service waiting, to make room for another."""
        self.transport.abort()

    def pause_writing(self) -> None:
        """Reads nothing more from a client that does not read its responses."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.pipeline:
            self.flow.resume_reading()

    def _parse(self, data: memoryview) -> None:
        """Parses received bytes. A request with an offer to switch protocols is parsed again without it."""
        while not self._rejected:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                data = data[offer.args[0] :]
            if not self._rejected:
                self._restart_without_offer()

    def _restart_without_offer(self) -> None:
        head = request_head(self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.parser.feed_data(head)

    def on_message_begin(self) -> None:
        if self._rejected:
            raise StopParsing
        self._in_headers = True
        if len(self.pipeline) >= MAX_PIPELINED or sum(self._pipelined_sizes) > self._settings.max_header_bytes:
            self._reject("bad_request", "Too many requests are sent before the first one is answered.")
            raise StopParsing
        super().on_message_begin()
        self._n_body_bytes = self._n_chunks = 0
        if self._header_timer is None:  # another request on the same connection
            self._start_header_timer()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._header_timer is not None:  # else a trailer, which nobody reads
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            self._check_method()
            return
        self._cancel_header_timer()
        self._unset_keepalive_if_required()
        self._n_idle_bytes = 0
        size = len(self.url) + sum(len(name) + len(value) + HEADER_OVERHEAD for name, value in self.headers)
        if size > self._settings.max_header_bytes:
            self._reject_headers()
        elif self.service_state.predictor and self._is_image_upload():
            self._in_headers = False
            self._admit(self.service_state.predictor)
        else:
            self._in_headers = False
            if not self._is_answered:
                self._pipelined_sizes.append(size)
            super().on_headers_complete()

    def on_chunk_header(self) -> None:
        self._n_chunks += 1
        if self._n_chunks > FREE_CHUNKS + self._n_body_bytes // MIN_CHUNK_BYTES:
            if not self._rejected:
                self._reject("bad_request", f"The body is sent in chunks of fewer than {MIN_CHUNK_BYTES} bytes.")
            raise StopParsing

    def on_body(self, body: bytes) -> None:
        self._n_idle_bytes = 0
        self._n_body_bytes += len(body)
        if not self._rejected and self._discard_timer is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._n_idle_bytes = 0
        if self._discard_timer is not None:
            self._finish_discard()
        elif not self._rejected:
            self._table.set_working(self)
            super().on_message_complete()

    def on_response_complete(self) -> None:
        self.n_responses += 1
        if self._pipelined_sizes:
            self._pipelined_sizes.popleft()
        super().on_response_complete()
        if not self.pipeline:
            self._table.set_waiting(self)

    @property
    def _table(self) -> ConnectionTable:
        return self.service_state.connections

    def _start_header_timer(self) -> None:
        self._header_timer = self.loop.call_later(self._settings.header_deadline_s, self._on_header_timeout)

    def _cancel_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _on_header_timeout(self) -> None:
        detail = f"The headers did not arrive within {self._settings.header_deadline_s:g} seconds."
        self._reject("slow_headers", detail, "header_deadline_s")

    def _check_method(self) -> None:
        """Rejects CONNECT, which asks for a tunnel: to the parser it is an offer without an Upgrade header."""
        if self.parser.get_method() == b"CONNECT":
            self._reject("bad_request", "CONNECT is for proxies, and this is not one.")

    def _reject_headers(self) -> None:
        limit = f"{self._settings.max_header_bytes:,} bytes, counting {HEADER_OVERHEAD} extra bytes for each header"
        detail = f"The headers are larger than {limit}."
        self._reject("headers_too_large", detail, "max_header_bytes")

    def _reject(self, code: str, detail: str, limit: str | None = None) -> None:
        """Sends a problem and closes the connection."""
        self._rejected = True
        self._cancel_header_timer()
        if self._has_pending_response():
            self.cycle.keep_alive = False  # the earlier requests are answered first; then the connection closes
            return
        if self._discard_timer is not None or (not self._is_answered and self.cycle.response_started):
            self.transport.close()  # the response has been sent or begun already; only the body is invalid
        if self.transport.is_closing():
            return
        rejection = make_problem(code, detail, self._settings, new_id(), limit)
        self._write_problem(rejection, closing=True)
        self.transport.close()
        self.service_state.metrics.requests.labels("other", rejection.status, code).inc()

    def _has_pending_response(self) -> bool:
        """Whether requests before the current one are not answered yet."""
        return bool(self.pipeline) or (self._in_headers and not self._is_answered)

    @property
    def _is_answered(self) -> bool:
        """Whether all requests whose headers are complete have their response."""
        return self.cycle is None or self.cycle.response_complete

    def _write_problem(self, rejection: Problem, closing: bool) -> None:
        response = problem_response(rejection)
        response.headers["X-Request-ID"] = rejection.request_id
        response.headers.update(cors.response_headers(Headers(raw=self.headers or []), self._settings))
        if closing:
            response.headers["Connection"] = "close"
        headers = b"".join(b"%b: %b\r\n" % header for header in [*self.server_state.default_headers, *response.raw_headers])
        self.transport.write(STATUS_LINE[rejection.status] + headers + b"\r\n" + bytes(response.body))

    def _is_image_upload(self) -> bool:
        """Whether these headers announce an authorized image upload, and no earlier response is pending (pipelining)."""
        route = self.routes.get(self._path())
        is_upload = route is not None and route.accepts is not None and self.parser.get_method() == b"POST"
        if not (is_upload and self._is_answered):
            return False
        return access.refusal(dict(self.scope), "POST", self._settings, self.service_state.api_keys) is None

    def _admit(self, predictor: Predictor) -> None:
        """Reserves a slot for the image, or rejects the request if the queue is full."""
        try:
            self.scope["reservation"] = predictor.queue.admission.reserve()  # type: ignore[typeddict-unknown-key]
        except Overloaded as overload:
            self._reject_overloaded(overload)
        else:
            super().on_headers_complete()

    def _reject_overloaded(self, overload: Overloaded) -> None:
        """Responds immediately and discards the body, so that the connection can be reused."""
        start = time.perf_counter()
        # After `Expect: 100-continue` the client may skip the body, and the start of the next request would be ambiguous.
        keep_alive = self.parser.should_keep_alive() and self.parser.get_http_version() != "1.0"
        self._reuse_connection = keep_alive and not self.expect_100_continue
        rejection = to_problem(overload, self._settings, valid_or_new_id(self._header(b"x-request-id")))
        self._write_problem(rejection, closing=not self._reuse_connection)
        self._discard_timer = self.loop.call_later(LINGER_S, self.transport.close)
        self.server_state.total_requests += 1
        self.service_state.reject(self._path(), rejection, time.perf_counter() - start)

    def _path(self) -> str:
        return self.service_state.route_path(self.url.partition(b"?")[0].decode("latin-1"))

    def _header(self, name: bytes) -> str:
        return next((value.decode("latin-1") for key, value in self.headers if key == name), "")

    def _finish_discard(self) -> None:
        """Runs once the body of a rejected request has been discarded."""
        if self._discard_timer is not None:
            self._discard_timer.cancel()
            self._discard_timer = None
        if not self._reuse_connection:
            self.transport.close()
        elif not self.transport.is_closing():  # as uvicorn does after its own responses
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

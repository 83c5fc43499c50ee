"""Shared by the tests of the routes: the ASGI app without BentoML, request bodies, and checks of problem responses."""

import asyncio
import base64
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from graft.service.http.connection import HttpProtocol
from graft.service.http.middleware import Middleware
from graft.service.http.openapi import build_routes
from graft.service.http.state import AppState
from graft.service.inference.engine import Outputs, Pixels
from graft.service.inference.model import Model
from graft.service.scheduling.predictor import Predictor
from graft.service.settings import Settings

BOUNDARY = {"Content-Type": "multipart/form-data; boundary=cut"}
TIMEOUT_S = 30  # seconds until a hanging test fails
JSON = {"Content-Type": "application/json"}


class BlockingEngine:
    """An engine that blocks until `release` is set."""

    device, precision, streams, max_batch = "cpu", "f32", 1, 1

    def __init__(self, model: Model) -> None:
        self.started, self.release = threading.Event(), threading.Event()
        self.n_calls = 0
        self._engine = model.engine

    def __call__(self, batch: Pixels) -> Outputs:
        self.n_calls += 1
        self.started.set()
        assert self.release.wait(TIMEOUT_S)
        return self._engine(batch)


@contextmanager
def asgi_app(model: Model | None, **settings: Any) -> Iterator[Middleware]:
    """The service without BentoML: middleware and all routes; without a model, it acts as if still loading."""
    serving = AppState()
    serving.configure(Settings(**settings))
    if model is not None:
        serving.predictor = Predictor(model, serving.settings, serving.metrics)
    app = Middleware(_bentoml_stub, serving, build_routes())
    try:
        yield app
    finally:
        if serving.predictor is not None:
            with ThreadPoolExecutor(1) as thread:  # in this one, an event loop may run: that of playwright
                thread.submit(asyncio.run, serving.predictor.close()).result()


@contextmanager
def http_server(model: Model | None, **settings: Any) -> Iterator[int]:
    """The same on a TCP port, with Graft's HTTP protocol; yields the port."""
    with asgi_app(model, **settings) as app:
        protocol = type("Bound", (HttpProtocol,), {"service_state": app.app_state, "routes": build_routes()})
        server = uvicorn.Server(uvicorn.Config(app, http=protocol, port=0, log_level="critical", lifespan="off"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            deadline = time.monotonic() + TIMEOUT_S
            while not server.started:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield server.servers[0].sockets[0].getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(TIMEOUT_S)


async def _bentoml_stub(scope: Scope, receive: Receive, send: Send) -> None:
    """Stands in for the BentoML app."""
    if scope["type"] == "lifespan":
        return await Starlette()(scope, receive, send)
    raise AssertionError("only requests for the schema may reach BentoML")


def to_base64(encoded: bytes) -> str:
    """Base64, as in JSON request bodies."""
    return base64.b64encode(encoded).decode()


def multipart_body(encoded: bytes, name: str = "image") -> bytes:
    """A multipart body with one file; goes with the header `BOUNDARY`."""
    head = f'--cut\r\nContent-Disposition: form-data; name="{name}"; filename="a.png"\r\n\r\n'
    return head.encode() + encoded + b"\r\n--cut--\r\n"


def assert_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    """Check the fields that every problem response must have; return its JSON."""
    assert response.headers["Content-Type"] == "application/problem+json"
    fields = response.json()
    assert (response.status_code, fields["status"], fields["code"]) == (status, status, code)
    assert fields["request_id"] == response.headers["X-Request-ID"]
    assert fields["type"] == "about:blank"
    assert fields["title"]
    assert fields["detail"]
    assert set(fields) <= {"type", "title", "status", "detail", "code", "request_id", "limit", "field"}
    return fields

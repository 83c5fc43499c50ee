"""What the tests of the routes share: the routes mounted, ways to spell a request, and what every problem must have."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount

from service.limits import Settings
from service.model import Model
from service.pipeline import Pipeline
from service.routes import application

BOUNDARY = {"Content-Type": "multipart/form-data; boundary=cut"}
JSON = {"Content-Type": "application/json"}


@contextmanager
def mounted(model: Model, **settings: Any) -> Iterator[Starlette]:
    """The routes below /v1, as the service mounts them."""
    routes = application()
    routes.state.pipeline = Pipeline(model, Settings(**settings))
    try:
        yield Starlette(routes=[Mount("/v1", routes)])
    finally:
        routes.state.pipeline.close()


def text(encoded: bytes) -> str:
    return base64.b64encode(encoded).decode()


def form(encoded: bytes, name: str = "image") -> bytes:
    head = f'--cut\r\nContent-Disposition: form-data; name="{name}"; filename="a.png"\r\n\r\n'
    return head.encode() + encoded + b"\r\n--cut--\r\n"


def problem(response: Any, status: int, code: str) -> dict[str, Any]:
    """The problem of a response, once everything that every problem must have is there."""
    assert response.headers["Content-Type"] == "application/problem+json"
    fields = response.json()
    assert (response.status_code, fields["status"], fields["code"]) == (status, status, code)
    assert fields["request_id"] == response.headers["X-Request-ID"]
    assert fields["type"] == "about:blank"
    assert fields["title"]
    assert fields["detail"]
    assert set(fields) <= {"type", "title", "status", "detail", "code", "request_id", "limit", "field"}
    return fields

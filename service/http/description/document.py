"""The OpenAPI document, from the route table, so that it always matches the routes."""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ...api.schemas import Problem
from ...settings import Settings
from ..route import Route
from .models import model_schemas
from .operations import body_schemas, operation

Schema = dict[str, Any]
DESCRIPTION = """Image classification with calibrated probabilities and abstention.

Every error is `application/problem+json` (RFC 9457). Use its `code` in programs: it is stable. After status 503, try again when
the seconds in `Retry-After` have passed; a request that was rejected for its content will be rejected again."""
TAGS = {
    "images": "Predictions, heat maps, similar images, and feature vectors.",
    "model": "What is served, and within which limits.",
    "health": "Health checks and metrics.",
    "documentation": "This document.",
    "bentoml": "The paths that BentoML's clients call.",
}


def document(routes: Iterable[Route], settings: Settings) -> Schema:
    """The OpenAPI 3.1 document for a set of routes."""
    shown = [route for route in routes if route.tag]
    models = {model for route in shown if (model := route.response_model)} | {Problem}
    described: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "Graft",
            "version": _version(),
            "summary": "A REST API of an image classifier.",
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": ".", "description": "relative to this document, so that it holds behind any proxy"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items() if name in {route.tag for route in shown}],
        "paths": {route.path: {route.method.lower(): operation(route, settings)} for route in shown},
        "components": {"schemas": model_schemas(models) | body_schemas(settings)},
    }
    if settings.needs_key:
        described["security"] = [{"key": []}]
        scheme = {"type": "http", "scheme": "bearer", "description": "the key that the operator has set"}
        described["components"]["securitySchemes"] = {"key": scheme}
    return described


def _version() -> str:
    try:
        return version("graft-vision")
    except PackageNotFoundError:  # inside a Bento, which contains only the source
        return "0"

"""Generates the OpenAPI document from the route table, so that it always matches the routes. No handlers."""

import json
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from ..api.options import Options
from ..api.problems import make_problem
from ..api.schemas import PROBLEMS, Problem
from ..settings import Settings
from . import website
from .responses import PROBLEM_TYPE
from .routes import ALIASES, API_ROUTES, Route
from .state import AppState

REF_TEMPLATE = "#/components/schemas/{model}"
EXAMPLE_ID = "3f0c1d2e4b5a69788796a5b4c3d2e1f0"
BINARY: dict[str, Any] = {"type": "string", "format": "binary"}
Schema = dict[str, Any]


def document(routes: Iterable[Route]) -> Schema:
    """The OpenAPI 3.1 document for a set of routes."""
    shown = [route for route in routes if route.include_in_schema]
    models = {model for route in shown if (model := route.response_model)} | {Problem}
    _, schemas = models_json_schema(
        [(model, "serialization") for model in sorted(models, key=_model_name)], ref_template=REF_TEMPLATE
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Graft",
            "version": _version(),
            "description": "Image classification with calibrated probabilities and abstention.",
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}, {}],
        "paths": {route.path: {route.method.lower(): _operation(route)} for route in shown},
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "required if GRAFT_API_KEY is set"}},
        },
    }


def _model_name(model: type[BaseModel]) -> str:
    return model.__name__


def _version() -> str:
    try:
        return version("graft-vision")
    except PackageNotFoundError:  # inside a Bento, which contains only the source
        return "0"


def _operation(route: Route) -> Schema:
    operation: Schema = {
        "operationId": route.path.strip("/").replace("/", "_"),
        "summary": route.summary,
        "responses": {"200": _success_response(route)} | _problem_responses(route),
        "parameters": [REQUEST_ID, *(_parameter(name, schema) for name, schema in _option_schemas(route.options).items())],
    }
    if route.accepts:
        operation["requestBody"] = {"required": True, "content": _request_bodies(route)}
    if route.public:
        operation["security"] = []
    return operation


REQUEST_ID: Schema = {
    "name": "X-Request-ID",
    "in": "header",
    "description": "returned with the response and written to the log; a missing or invalid id is replaced by a new one",
    "schema": {"type": "string"},
}
ID_HEADER: Schema = {"X-Request-ID": {"schema": {"type": "string"}, "required": True}}


def _success_response(route: Route) -> Schema:
    schema = {"$ref": REF_TEMPLATE.format(model=route.response_model.__name__)} if route.response_model else None
    content = {
        media_type: {"schema": schema if media_type == "application/json" else _media_schema(media_type)}
        for media_type in route.media_types
    }
    return {"description": "Success.", "headers": ID_HEADER, "content": content}


def _media_schema(media_type: str) -> Schema:
    return {"type": "string"} if media_type.startswith("text/") else BINARY


def _option_schemas(options: type[Options]) -> dict[str, Schema]:
    properties: dict[str, Schema] = options.model_json_schema()["properties"] if options.model_fields else {}
    return properties


def _parameter(name: str, schema: Schema) -> Schema:
    plain = {key: value for key, value in schema.items() if key not in ("title", "description")}
    description = f"{schema['description']}; the same field in the body takes precedence"
    return {"name": name, "in": "query", "description": description, "schema": _without_null(plain)}


def _without_null(schema: Schema) -> Schema:
    """An option's schema for queries and forms, which cannot send null: the option is left out instead."""
    variants = [variant for variant in schema.pop("anyOf", []) if variant != {"type": "null"}]
    if variants:
        del schema["default"]
        schema |= variants[0]
    return schema


def _request_bodies(route: Route) -> Schema:
    options = {name: _without_null(dict(schema)) for name, schema in _option_schemas(route.options).items()}
    if route.accepts == "images":
        limit = Settings.model_fields["max_batch_images"].default
        images = {"type": "array", "items": BINARY, "minItems": 1, "maxItems": limit, "description": "see /v1/limits"}
        return {"multipart/form-data": {"schema": _object_schema("images", images, options)}}
    text = {"type": "string", "format": "byte", "description": "base64, without a data: prefix"}
    return {
        "image/*": {"schema": BINARY},
        "application/octet-stream": {"schema": BINARY},
        "multipart/form-data": {"schema": _object_schema("image", BINARY, options)},
        "application/json": {"schema": _object_schema("image", text, _option_schemas(route.options))},
    }


def _object_schema(name: str, schema: Schema, options: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": {name: schema, **options}, "required": [name], "additionalProperties": False}


def _problem_responses(route: Route) -> Schema:
    """The response of every possible error status, with an example of each code."""
    examples: dict[int, dict[str, Schema]] = {}
    for code in possible_codes(route):
        status, title = PROBLEMS[code]
        if code == "too_many_files" and route.accepts == "image":
            status = 422
        example = make_problem(code, f"{title}.", Settings(), EXAMPLE_ID, status=status).model_dump(
            mode="json", exclude_none=True
        )
        examples.setdefault(status, {})[code] = {"summary": title, "value": example}
    return {
        str(status): {
            "description": " / ".join(examples[status]),
            "headers": ID_HEADER | EXTRA_HEADERS.get(status, {}),
            "content": {PROBLEM_TYPE: {"schema": {"$ref": REF_TEMPLATE.format(model="Problem")}, "examples": examples[status]}},
        }
        for status in sorted(examples)
    }


EXTRA_HEADERS: dict[int, Schema] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}, "required": True}},
    405: {"Allow": {"schema": {"type": "string"}, "required": True}},
    503: {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}, "required": True}},
}
COMMON_CODES = ("bad_request", "method_not_allowed", "slow_headers", "headers_too_large", "internal")
BODY_CODES = (
    "body_too_large",
    "content_encoding",
    "missing_image",
    "overloaded",
    "slow_upload",
    "too_many_files",
    "unknown_field",
    "unsupported_media_type",
    "bad_multipart",
    "urls_not_accepted",
)
IMAGE_CODES = (
    "bad_aspect",
    "corrupt_image",
    "deadline",
    "decode_limit",
    "empty_image",
    "image_too_large",
    "model_output_invalid",
    "out_of_memory",
    "too_many_scans",
    "unsupported_format",
    "unsupported_mode",
)


def possible_codes(route: Route) -> list[str]:
    """The codes of every problem that a route can return."""
    codes = [*COMMON_CODES]
    if not route.public:
        codes += ["unauthorized", "not_acceptable"]
    if route.path not in MODEL_FREE_PATHS:
        codes.append("not_ready")
    if route.accepts:
        codes += [*BODY_CODES, *IMAGE_CODES, *(f"bad_{name}" for name in route.options.model_fields)]
    if route.accepts == "image":
        codes += ["bad_json", "bad_base64"]
    return [code for code in PROBLEMS if code in codes]


MODEL_FREE_PATHS = ("/v1/limits", "/metrics", "/docs.json")


def build_routes() -> dict[str, Route]:
    """All routes by path: the API, its aliases, the page, and the OpenAPI document."""
    routes = {route.path: route for route in [*API_ROUTES, *website.routes()]}
    for alias, original in ALIASES.items():
        routes[alias] = replace(routes[original], path=alias)

    async def serve_document(request: Request, app_state: AppState) -> Response:
        return Response(content, media_type="application/json")

    docs = Route("/docs.json", "GET", serve_document, "This OpenAPI document.")
    content = json.dumps(document([*routes.values(), docs]), ensure_ascii=False).encode()
    return routes | {docs.path: docs}

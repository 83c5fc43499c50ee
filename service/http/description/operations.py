"""One operation of the OpenAPI document from one route: its parameters, bodies, and responses.

Generators make a method of each operation, for one media type and with one place for each parameter. openapi-generator's
clients send forms, but would send JSON if it were listed too. So a form comes first, base64 in JSON is described in words, and
options are query parameters only, although they may be fields of a body.
"""

from typing import Any

from ...api.options import Options
from ...settings import Settings
from ..route import Route
from .errors import ID_HEADER, problem_responses
from .models import reference, simplify

Schema = dict[str, Any]
BINARY: Schema = {"type": "string", "format": "binary"}
REQUEST_ID: Schema = {
    "name": "X-Request-ID",
    "in": "header",
    "description": "an id for the response and the log; a missing or invalid one is replaced",
    "schema": {"type": "string"},
}


def operation(route: Route, settings: Settings) -> Schema:
    """The operation of a route."""
    described: Schema = {
        "operationId": route.name,
        "tags": [route.tag],
        "summary": route.summary,
        "description": route.description or route.summary,
        "parameters": [*(_parameter(name, schema) for name, schema in option_schemas(route.options).items())],
    }
    if route.accepts:
        described["parameters"].append(REQUEST_ID)
        described["requestBody"] = {"required": True, "content": _request_bodies(route)}
    described["responses"] = {"200": _success_response(route)} | problem_responses(route)
    if route.is_public(settings) or not settings.needs_key:
        described["security"] = []
    return described


def option_schemas(options: type[Options]) -> dict[str, Schema]:
    """The schema of each option."""
    properties: dict[str, Schema] = options.model_json_schema()["properties"] if options.model_fields else {}
    return {name: _without_null(simplify(schema)) for name, schema in properties.items()}


def _parameter(name: str, schema: Schema) -> Schema:
    plain = {key: value for key, value in schema.items() if key != "description"}
    return {"name": name, "in": "query", "description": schema["description"], "schema": plain}


def _without_null(schema: Schema) -> Schema:
    """An option's schema for a query, which cannot send null: the option is left out instead."""
    if schema.get("default", 0) is not None:
        return schema
    described = {key: value for key, value in schema.items() if key not in ("default", "anyOf")}
    if isinstance(kinds := schema.get("type"), list):
        return described | {"type": next(kind for kind in kinds if kind != "null")}
    [plain] = [variant for variant in schema["anyOf"] if variant != {"type": "null"}]
    return described | dict(plain)


def body_schemas(settings: Settings) -> Schema:
    """The schemas of the request bodies, by name."""
    limit = f"at most {settings.max_batch_images}, see GRAFT_MAX_BATCH_IMAGES"
    images = {"type": "array", "items": BINARY, "minItems": 1, "maxItems": settings.max_batch_images, "description": limit}
    return {
        "ImageForm": _object_schema("A form with one file.", "image", BINARY),
        "ImagesForm": _object_schema("A form with several files.", "images", images),
    }


def _object_schema(description: str, name: str, schema: Schema) -> Schema:
    properties = {name: schema}
    return {
        "description": description,
        "type": "object",
        "properties": properties,
        "required": [name],
        "additionalProperties": False,
    }


def _request_bodies(route: Route) -> Schema:
    if route.accepts == "images":
        return {"multipart/form-data": {"schema": reference("ImagesForm")}}
    return {
        "multipart/form-data": {"schema": reference("ImageForm")},
        "application/octet-stream": {"schema": BINARY},
    }


def _success_response(route: Route) -> Schema:
    content = {media_type: {"schema": _media_schema(route, media_type)} for media_type in route.media_types}
    return {"description": "Success.", "headers": ID_HEADER, "content": content}


def _media_schema(route: Route, media_type: str) -> Schema:
    if media_type == "application/json":
        return reference(route.response_model.__name__) if route.response_model else {"type": "object"}
    return {"type": "string"} if media_type.startswith("text/") else BINARY

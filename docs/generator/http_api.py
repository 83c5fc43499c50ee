"""The HTTP reference, from the OpenAPI document that the service itself builds."""

from functools import cache
from typing import Any

from generator.markdown import code, definitions, prose, sentence, table
from graft.service.api.schemas import PROBLEMS
from graft.service.http.description.document import document
from graft.service.http.openapi import build_routes
from graft.service.http.routes import ALIASES
from graft.service.settings import Settings

Schema = dict[str, Any]
JSON, PROBLEM_TYPE = "application/json", "application/problem+json"
EXAMPLE_KEY = "0123456789abcdef"  # so that the document says which routes need a key
IMAGE_BODIES = """- `multipart/form-data`: a form with a file in a field `image`, `images`, `file` or `files`, also with `[]`
- the bytes of the image, as `image/...`, `application/octet-stream`, or without a type
- `application/json`: an object; the field `image` holds base64 or a `data:` URL"""
IMAGES_BODY = """- `multipart/form-data`: a form with the field `images`, once per image; at most {limit} images, see
  [`/v1/limits`](#get-v1-limits)"""
FORMS = ("ImageForm", "ImagesForm")  # described with the routes


@cache
def openapi() -> Schema:
    """The OpenAPI document of all routes."""
    built: Schema = document(build_routes().values(), Settings(api_key=EXAMPLE_KEY))
    return built


def routes() -> str:
    """One section per route."""
    return "\n\n".join(
        _route(path, method, operation) for path, methods in openapi()["paths"].items() for method, operation in methods.items()
    )


def models() -> str:
    """One section per model of a response, with its fields."""
    schemas = openapi()["components"]["schemas"]
    return "\n\n".join(_model(name, schema) for name, schema in schemas.items() if name not in FORMS)


def problems() -> str:
    """Every error code with its status."""
    rows = ((code(name), str(status), title) for name, (status, title) in PROBLEMS.items())
    return table(("code", "status", "title"), rows)


def route_anchor(method: str, path: str) -> str:
    return f"{method.lower()}-{path.strip('/').replace('/', '-').replace('.', '-') or 'page'}"


def _route(path: str, method: str, operation: Schema) -> str:
    parts = [f"### {method.upper()} {path} {{ #{route_anchor(method, path)} }}", sentence(operation["summary"])]
    if original := ALIASES.get(path):
        return "\n\n".join([*parts, f"The same as [`{original}`](#{route_anchor(method, original)}), for BentoML's clients."])
    if operation.get("security") == []:
        parts.append("Needs no API key.")
    if "requestBody" in operation:
        parts += ["**Request body**", _bodies(operation["requestBody"]["content"])]
    if options := [parameter for parameter in operation["parameters"] if parameter["in"] == "query"]:
        parts += ["**Options** (in the query string, or as fields of the body)", definitions(map(_option, options))]
    parts += ["**Response**", _success(operation["responses"]["200"])]
    parts.append(f'??? info "Errors"\n\n{_errors(operation["responses"])}')
    return "\n\n".join(parts)


def _bodies(content: Schema) -> str:
    name = content["multipart/form-data"]["schema"]["$ref"].rpartition("/")[2]
    images = openapi()["components"]["schemas"][name]["properties"].get("images")
    return IMAGES_BODY.format(limit=images["maxItems"]) if images else IMAGE_BODIES


def _option(parameter: Schema) -> tuple[str, str, str]:
    schema = parameter["schema"]
    description = parameter["description"]
    default = f" Default: {code(_plain(schema['default']))}." if schema.get("default") is not None else ""
    return f"{code(parameter['name'])} ({_type(schema)})", "", f"{sentence(description)}{default}"


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _success(response: Schema) -> str:
    lines = []
    for media_type, content in response["content"].items():
        lines.append(f"- {code(media_type)}{f': {_type(schema)}' if '$ref' in (schema := content.get('schema') or {}) else ''}")
    return "\n".join(lines)


def _errors(responses: Schema) -> str:
    """The codes of each status, as the indented content of a details block."""
    lines = [
        f"    - {status}: {', '.join(map(code, response['content'][PROBLEM_TYPE]['examples']))}"
        for status, response in responses.items()
        if status != "200"
    ]
    return "\n".join([*lines, "", "    [All error codes](#error-codes)"])


def _model(name: str, schema: Schema) -> str:
    lines = [_field(field, value) for field, value in schema.get("properties", {}).items()]
    summary = [sentence(schema["description"].split("\n\n")[0])] if "description" in schema else []
    return "\n\n".join([f"### {name} {{ #{name.lower()} }}", *summary, "\n".join(lines)])


def _field(name: str, schema: Schema) -> str:
    notes = [note for note in (prose(schema.get("description", "")), _range(schema)) if note]
    return f"- {code(name)} ({_type(schema)}){': ' if notes else ''}{'; '.join(notes)}"


def _range(field: Schema) -> str:
    low, high = field.get("minimum"), field.get("maximum")
    return f"from {low:g} to {high:g}" if low is not None and high is not None else ""


def _type(schema: Schema) -> str:
    """The type of a value in words, with links to models."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if variants := schema.get("anyOf"):
        return " or ".join(_type(variant) for variant in variants)
    if "enum" in schema or "const" in schema:
        return " or ".join(code(str(value)) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if isinstance(values := schema.get("additionalProperties"), dict):
        return f"object of {_type(values)}"
    kind = "file" if schema.get("format") == "binary" else schema.get("type", "any")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)

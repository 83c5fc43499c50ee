"""Which problems each route can return, and how the OpenAPI document shows them."""

from typing import Any

from ...api.problems import make_problem
from ...api.schemas import PROBLEMS, Problem
from ...settings import Settings
from ..responses import PROBLEM_TYPE
from ..route import Route
from .models import reference

Schema = dict[str, Any]
EXAMPLE_ID = "3f0c1d2e4b5a69788796a5b4c3d2e1f0"
ID_HEADER: Schema = {
    "X-Request-ID": {"description": "of this request, also in the log", "schema": {"type": "string"}, "required": True}
}
EXTRA_HEADERS: dict[int, Schema] = {
    401: {"WWW-Authenticate": {"description": "the scheme: Bearer", "schema": {"type": "string"}, "required": True}},
    405: {"Allow": {"description": "the allowed methods", "schema": {"type": "string"}, "required": True}},
    503: {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}, "required": True}},
}
COMMON_CODES = ("bad_request", "method_not_allowed", "slow_headers", "headers_too_large", "internal")
PROTECTED_CODES = ("unauthorized", "wrong_host", "not_acceptable")
BODY_CODES = (
    "origin_not_allowed",
    "body_too_large",
    "content_encoding",
    "missing_image",
    "overloaded",
    "slow_upload",
    "too_many_files",
    "unknown_field",
    "unsupported_media_type",
    "bad_multipart",
    "bad_base64",
    "urls_not_accepted",
)
IMAGE_CODES = (
    "bad_aspect",
    "corrupt_image",
    "deadline",
    "decode_limit",
    "device_failed",
    "empty_image",
    "image_too_large",
    "model_output_invalid",
    "out_of_memory",
    "too_many_scans",
    "unsupported_format",
    "unsupported_mode",
)
MODEL_FREE_PATHS = ("/v1/limits", "/metrics", "/docs", "/docs.json", "/openapi.json")


def possible_codes(route: Route) -> list[str]:
    """The codes of every problem that a route can return."""
    codes = [*COMMON_CODES]
    if not route.public:
        codes += PROTECTED_CODES
    if route.path not in MODEL_FREE_PATHS:
        codes.append("not_ready")
    if route.accepts:
        codes += [*BODY_CODES, *IMAGE_CODES, *(f"bad_{name}" for name in route.options.model_fields)]
    if route.accepts == "image":
        codes.append("bad_json")
    return [code for code in PROBLEMS if code in codes]


def problem_responses(route: Route) -> Schema:
    """The response of every possible error status, with an example of each code."""
    codes: dict[int, list[str]] = {}
    for code in possible_codes(route):
        # One image too many cannot be helped by sending fewer: the route takes one.
        status = 422 if code == "too_many_files" and route.accepts == "image" else PROBLEMS[code][0]
        codes.setdefault(status, []).append(code)
    return {str(status): _problem_response(status, codes[status]) for status in sorted(codes)}


def _problem_response(status: int, codes: list[str]) -> Schema:
    titles = dict.fromkeys(PROBLEMS[code][1] for code in codes)
    examples = {code: _example(code, status) for code in codes}
    return {
        "description": f"{'. '.join(titles)}.",
        "headers": ID_HEADER | EXTRA_HEADERS.get(status, {}),
        "content": {PROBLEM_TYPE: {"schema": reference(Problem.__name__), "examples": examples}},
    }


def _example(code: str, status: int) -> Schema:
    title = PROBLEMS[code][1]
    problem = make_problem(code, f"{title}.", Settings(), EXAMPLE_ID, status=status)
    return {"summary": title, "value": problem.model_dump(mode="json", exclude_none=True)}

"""Cross-origin resource sharing (CORS): which answers pages of other origins may read. Cookies are never asked for."""

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from ..settings import ANY, Settings, SettingsError
from .access import is_allowed_origin

EXPOSED_HEADERS = "X-Request-ID, Retry-After, Allow, WWW-Authenticate, ETag"
MAX_AGE_S = 7_200  # that a browser remembers a preflight; Chromium's limit


def is_preflight(request: Request) -> bool:
    """Whether a browser asks if a page may send a request, before it sends it."""
    headers = request.headers
    return request.method == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers


def preflight_response(methods: tuple[str, ...]) -> Response:
    """The answer to a preflight of an allowed origin. `*` does not cover Authorization."""
    headers = {
        "Access-Control-Allow-Methods": ", ".join(methods),
        "Access-Control-Allow-Headers": "*, Authorization",
        "Access-Control-Max-Age": str(MAX_AGE_S),
    }
    return Response(status_code=204, headers=headers)


def response_headers(headers: Headers, settings: Settings) -> dict[str, str]:
    """The headers that every response to a request with these headers gets, errors too."""
    if not settings.cors_origins:
        return {}
    if ANY in settings.cors_origins:
        return {"Access-Control-Allow-Origin": ANY, "Access-Control-Expose-Headers": EXPOSED_HEADERS}
    origin = headers.get("origin", "")
    if not is_allowed_origin(origin, settings):
        return {"Vary": "Origin"}
    return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": EXPOSED_HEADERS, "Vary": "Origin"}


def check_bentoml_config() -> None:
    """Raises SettingsError if BentoML's own CORS is on: its middleware would never see a request."""
    from bentoml._internal.configuration.containers import BentoMLContainer

    cors = BentoMLContainer.http.cors
    if cors.enabled.get():
        origins = cors.access_control_allow_origins.get() or ANY
        value = origins if isinstance(origins, str) else ",".join(origins)
        raise SettingsError(f"BentoML's http.cors does not apply to Graft; set GRAFT_CORS_ORIGINS={value} instead.")

"""Serves the demo page at `/`. Files are read once; the security headers let the page reach only this service.

The page holds no secret, so it needs no key; the /v1 routes that it calls check the key themselves.
"""

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from .routes import Route
from .state import Serving

PAGE = Path(__file__).parent.parent / "page"
INDEX = PAGE / "index.html"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob: data:",
    "connect-src": "'self'",
    "media-src": "blob:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    # Labels are untrusted text: with this, a browser blocks a script that inserts one as HTML.
    "require-trusted-types-for": "'script'",
}
FEATURES_OFF = ("accelerometer", "display-capture", "geolocation", "gyroscope", "magnetometer", "microphone", "payment", "usb")
HEADERS = {
    "Cache-Control": "no-cache",  # a browser keeps its copy and revalidates it with the ETag
    "Content-Security-Policy": "; ".join(f"{directive} {sources}" for directive, sources in POLICY.items()),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": ", ".join(["camera=(self)", *(f"{feature}=()" for feature in FEATURES_OFF)]),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def routes() -> list[Route]:
    """The routes of the page and its assets."""
    assets = {f"/page/{path.name}": path for path in sorted(PAGE.iterdir()) if path.suffix in KINDS and path != INDEX}
    return [
        Route(url_path, "GET", Asset(path).answer, "An asset of the page.", open=True, shown=False)
        for url_path, path in {"/": INDEX, **assets}.items()
    ]


class Asset:
    """One static file, held in memory."""

    def __init__(self, path: Path) -> None:
        self._content = path.read_bytes()
        self._media_type = KINDS[path.suffix]
        self._tag = f'"{hashlib.sha256(self._content).hexdigest()[:32]}"'

    async def answer(self, request: Request, serving: Serving) -> Response:
        """The file, or 304 if the browser has the current version."""
        headers = HEADERS | {"ETag": self._tag}
        if self._is_had(request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        return Response(self._content, headers=headers, media_type=self._media_type)

    def _is_had(self, tags: str) -> bool:
        # A compressing proxy marks the ETag as weak; the file is the same.
        return tags.strip() == "*" or self._tag in {tag.strip().removeprefix("W/") for tag in tags.split(",")}

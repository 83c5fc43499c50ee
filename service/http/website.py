"""Serves the pages and their files. Files are read once; the security headers let the pages reach only this service.

The pages hold no secret, so they need no key; the /v1 routes that they call check the key themselves.
"""

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from .route import Route
from .state import AppState

PAGE_DIR = Path(__file__).parent.parent / "page"
INDEX = PAGE_DIR / "index.html"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
CONTENT_SECURITY_POLICY = {
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
DISABLED_FEATURES = (
    "accelerometer",
    "display-capture",
    "geolocation",
    "gyroscope",
    "magnetometer",
    "microphone",
    "payment",
    "usb",
)
HEADERS = {
    "Cache-Control": "no-cache",  # a browser keeps its copy and revalidates it with the ETag
    "Content-Security-Policy": "; ".join(f"{directive} {sources}" for directive, sources in CONTENT_SECURITY_POLICY.items()),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": ", ".join(["camera=(self)", *(f"{feature}=()" for feature in DISABLED_FEATURES)]),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def routes() -> list[Route]:
    """The routes of the page and its assets."""
    assets = {f"/page/{path.name}": path for path in sorted(PAGE_DIR.iterdir()) if path.suffix in MEDIA_TYPES and path != INDEX}
    return [
        Route(url_path, path.stem, "GET", Asset(path.read_bytes(), MEDIA_TYPES[path.suffix]).respond, public=True)
        for url_path, path in {"/": INDEX, **assets}.items()
    ]


class Asset:
    """One static file, held in memory."""

    def __init__(self, content: bytes, media_type: str) -> None:
        self._content = content
        self._media_type = media_type
        self._etag = f'"{hashlib.sha256(self._content).hexdigest()[:32]}"'

    async def respond(self, request: Request, app_state: AppState) -> Response:
        """The file, or 304 if the browser has the current version."""
        headers = HEADERS | {"ETag": self._etag}
        if self._not_modified(request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        return Response(self._content, headers=headers, media_type=self._media_type)

    def _not_modified(self, etags: str) -> bool:
        # A compressing proxy marks the ETag as weak; the file is the same.
        return etags.strip() == "*" or self._etag in {tag.strip().removeprefix("W/") for tag in etags.split(",")}

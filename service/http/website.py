"""The try-it page at `/`: its files, read once, under headers that let the page reach this service and nothing else.

The page holds no secret and needs no key; what it asks of /v1 is guarded there.
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
    # Labels are written by strangers: with this a browser refuses any script of ours that would make markup of one.
    "require-trusted-types-for": "'script'",
}
FEATURES_OFF = ("accelerometer", "display-capture", "geolocation", "gyroscope", "magnetometer", "microphone", "payment", "usb")
HEADERS = {
    "Cache-Control": "no-cache",  # a browser keeps its copy and asks whether it is still the right one
    "Content-Security-Policy": "; ".join(f"{directive} {sources}" for directive, sources in POLICY.items()),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": ", ".join(["camera=(self)", *(f"{feature}=()" for feature in FEATURES_OFF)]),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def routes() -> list[Route]:
    """The page and what it is made of."""
    parts = {f"/page/{path.name}": path for path in sorted(PAGE.iterdir()) if path.suffix in KINDS and path != INDEX}
    return [
        Route(address, "GET", Asset(path).answer, "A part of the page.", open=True, shown=False)
        for address, path in {"/": INDEX, **parts}.items()
    ]


class Asset:
    """One file in memory."""

    def __init__(self, path: Path) -> None:
        self._content = path.read_bytes()
        self._media_type = KINDS[path.suffix]
        self._tag = f'"{hashlib.sha256(self._content).hexdigest()[:32]}"'

    async def answer(self, request: Request, serving: Serving) -> Response:
        """The file, or 304 to a browser that has it already."""
        headers = HEADERS | {"ETag": self._tag}
        if self._is_had(request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        return Response(self._content, headers=headers, media_type=self._media_type)

    def _is_had(self, tags: str) -> bool:
        # A proxy that compresses on the way marks the tag as weak; the file behind it is the same.
        return tags.strip() == "*" or self._tag in {tag.strip().removeprefix("W/") for tag in tags.split(",")}

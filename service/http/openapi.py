"""All routes by path, and those that describe them: the OpenAPI document, its page, and the paths where others serve theirs."""

import json
from dataclasses import replace
from functools import cache

from starlette.requests import Request
from starlette.responses import Response

from ..settings import Settings
from . import website
from .description import page
from .description.document import document
from .route import Route
from .routes import ALIASES, API_ROUTES
from .state import AppState

OTHER_DOCS_PATHS = ("/redoc", "/swagger")  # where FastAPI and others have theirs


def build_routes() -> dict[str, Route]:
    """All routes by path: the API, its aliases, the pages, and the OpenAPI document."""
    routes = {route.path: route for route in [*API_ROUTES, *website.routes()]}
    for alias, original in ALIASES.items():
        name, description = f"bentoml_{routes[original].name}", f"The same as `{original}`, for BentoML's clients."
        routes[alias] = replace(routes[original], path=alias, name=name, tag="bentoml", description=description)

    @cache
    def files(settings: Settings) -> tuple[website.Asset, website.Asset]:
        """The document and its page; they depend on the settings, because the key and the limits do."""
        described = document([*routes.values(), docs], settings)
        text = json.dumps(described, ensure_ascii=False)
        html = page.render(described)
        return website.Asset(text.encode(), "application/json"), website.Asset(html.encode(), "text/html")

    async def serve_document(request: Request, app_state: AppState) -> Response:
        return await files(app_state.settings)[0].respond(request, app_state)

    async def serve_page(request: Request, app_state: AppState) -> Response:
        return await files(app_state.settings)[1].respond(request, app_state)

    docs = Route("/docs.json", "get_openapi", "GET", serve_document, "This OpenAPI document.", tag="documentation", public=True)
    routes |= {docs.path: docs, "/openapi.json": replace(docs, path="/openapi.json", tag=None)}
    routes["/docs"] = Route("/docs", "docs", "GET", serve_page, public=True)
    return routes | {path: Route(path, path[1:], "GET", _redirect_to_docs, public=True) for path in OTHER_DOCS_PATHS}


async def _redirect_to_docs(request: Request, app_state: AppState) -> Response:
    return Response(status_code=307, headers={"Location": "docs"})  # relative, so that it holds behind any proxy

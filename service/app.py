"""The BentoML service: start-up, shutdown, and which path leads where.

What BentoML does by itself and we don't let it: its own request parser fetches URLs that it finds in upload fields and
answers 500 to broken images. So `POST /classify` and `/classify_batch`, which its clients and its Swagger page know, are
answered by the very handlers below /v1, and BentoML's parser never sees a byte.
"""

import os
import sys
import uuid
from pathlib import Path
from typing import Annotated, Any, cast

# BentoML reports usage to its makers unless told otherwise before its first import.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")

import bentoml
from bentoml.validators import ContentType
from starlette.types import ASGIApp, Receive, Scope, Send

from service import model
from service.artifact import ArtifactError, read
from service.intake import parse_options
from service.limits import Settings, SettingsError
from service.pipeline import Pipeline
from service.routes import application
from service.schemas import Batch, Classification

TWINS = {"/classify": "/v1/classify", "/classify_batch": "/v1/classify/batch"}

routes = application()


class Twins:
    """ASGI middleware: BentoML's own routes are answered by their twins below /v1."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (twin := TWINS.get(scope["path"])):
            scope = {**scope, "path": twin, "raw_path": twin.encode()}
        await self._app(scope, receive, send)


def _settings() -> Settings:
    return Settings.from_environment(os.environ)


@bentoml.service(
    name="graft",
    workers=1,
    traffic={"timeout": 60},  # a backstop far behind our own deadlines
    http={"host": "127.0.0.1", "port": 3000},
)
@bentoml.asgi_app(routes, path="/v1")
class Graft:
    """Classifies images with the package that GRAFT_PACKAGE names."""

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        """Once, before any worker: a package that cannot be served ends the command, not a worker that respawns."""
        try:
            read(_settings().package)
        except (ArtifactError, SettingsError) as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(3 if isinstance(error, ArtifactError) else 2) from None

    def __init__(self) -> None:
        settings = _settings()
        loaded = model.load(settings.package, settings.device, settings.image_limits)
        self._pipeline = routes.state.pipeline = Pipeline(loaded, settings)

    @bentoml.api
    async def classify(self, image: Annotated[Path, ContentType("image/*")], top_k: int = 5) -> Classification:
        """The most probable labels of one image."""
        top_k, warnings = parse_options({"top_k": top_k}, len(self._pipeline.model.manifest.labels))
        return await self._pipeline.classify(image.read_bytes(), top_k, warnings, uuid.uuid4().hex)

    @bentoml.api
    async def classify_batch(self, images: list[Annotated[Path, ContentType("image/*")]], top_k: int = 5) -> Batch:
        """The most probable labels of several images, or what is wrong with each."""
        top_k, warnings = parse_options({"top_k": top_k}, len(self._pipeline.model.manifest.labels))
        encoded = [image.read_bytes() for image in images]
        return await self._pipeline.classify_many(encoded, top_k, warnings, uuid.uuid4().hex)

    @bentoml.on_shutdown
    def close(self) -> None:
        """Finishes what was accepted."""
        self._pipeline.close()


# The decorator made a bentoml.Service of the class, which type checkers cannot see.
cast(bentoml.Service[Any], Graft).add_asgi_middleware(Twins)

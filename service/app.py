"""The BentoML service: its name, its start-up, and its middleware. No request handling.

`POST /classify` and `/classify_batch`, which BentoML's clients and platforms use, are served by the same handlers as /v1:
the middleware takes every request before BentoML's own parser.
"""

import asyncio
import os
import uuid
from pathlib import Path
from typing import Annotated, Any

# BentoML sends usage statistics unless this is set before its first import, which follows.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
# One process, one registry. All servers with the same BentoML home share its multiprocess folder, and each new one empties it.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

import bentoml

from . import lifecycle
from .api.options import ClassifyOptions
from .api.schemas import Batch, Classification
from .http import openapi, server
from .http.middleware import Middleware
from .http.state import AppState
from .model_loader import ModelLoader
from .supervision import Handover

app_state = AppState()
loader = ModelLoader(app_state)
if Handover.received():  # a worker; `bentoml` imports itself at the first use of an attribute, below, and takes a second
    loader.start()
routes = openapi.build_routes()
# At import, because uvicorn chooses its protocol before the service is created.
server.install(app_state, routes)


# Of both services, this one and that in `gpu`.
CONFIG: dict[str, Any] = {
    "name": "graft",
    "workers": 1,  # the supervisor starts more where there are several GPUs
    "http": {"host": "127.0.0.1", "port": 3000},
    "metrics": {"enabled": False},  # replaced by graft.service.monitoring.metrics
    "logging": {"access": {"enabled": False}},  # replaced by graft.service.monitoring.logs
}


class GraftService:
    """Classifies images with the package at GRAFT_PACKAGE."""

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        """Runs once in the supervisor: opens the package; exits if it, a setting or the address is invalid."""
        lifecycle.check()

    def __init__(self) -> None:
        loader.finish_start()

    @bentoml.on_startup
    async def start_watchdog(self) -> None:
        """Runs once the event loop has started."""
        lifecycle.install_drain(app_state)
        self._watchdog = asyncio.create_task(lifecycle.watchdog(app_state))

    @bentoml.api
    async def classify(
        self, image: Annotated[Path, bentoml.validators.ContentType("image/*")], top_k: int = 5, threshold: float = 0
    ) -> Classification:
        """Classify one image."""
        options = ClassifyOptions(top_k=top_k, threshold=threshold)
        return await app_state.require_predictor().classify(image.read_bytes(), options, uuid.uuid4().hex)

    @bentoml.api
    async def classify_batch(
        self, images: list[Annotated[Path, bentoml.validators.ContentType("image/*")]], top_k: int = 5, threshold: float = 0
    ) -> Batch:
        """Classify several images. Each gets its own result or error."""
        options = ClassifyOptions(top_k=top_k, threshold=threshold)
        return await app_state.require_predictor().classify_many(
            [image.read_bytes() for image in images], options, uuid.uuid4().hex
        )

    @bentoml.on_shutdown
    async def close(self) -> None:
        """Finishes the accepted requests."""
        self._watchdog.cancel()
        if app_state.predictor is not None:
            await app_state.predictor.close()


def add_middleware(service: bentoml.Service[Any]) -> None:
    """Lets Graft answer the requests of a service instead of BentoML."""
    service.add_asgi_middleware(Middleware, app_state=app_state, routes=routes)


Graft = bentoml.service(**CONFIG)(GraftService)
add_middleware(Graft)

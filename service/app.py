"""The BentoML service: what it is called, how it comes up, and the gate in front of it.

`POST /classify` and `/classify_batch`, which BentoML's clients and platforms know, are answered by the very handlers of
/v1: the gate takes every request before BentoML's own parser could.
"""

import asyncio
import gc
import os
import threading
import uuid
from pathlib import Path
from typing import Annotated, Any, cast

import bentoml
from bentoml.validators import ContentType

from . import lifecycle
from .api.options import ClassifyOptions
from .api.schemas import Batch, Classification
from .artifact import ArtifactError
from .http import connection, openapi
from .http.middleware import Gate
from .http.state import Serving
from .inference import model
from .monitoring import logs
from .scheduling.predictor import Pipeline
from .settings import Settings

# BentoML reports usage to its makers unless told otherwise before its first import.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
# One process, one registry. BentoML's folder for several is shared by all servers of a home, and the next one empties it.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

serving = Serving()
routes = openapi.table()
# At import, because uvicorn picks its protocol before the service is made.
connection.install(serving, routes)


@bentoml.service(
    name="graft",
    workers=1,
    http={"host": "127.0.0.1", "port": 3000},
    metrics={"enabled": False},  # ours are in graft.service.monitoring.metrics
    logging={"access": {"enabled": False}},  # ours are in graft.service.monitoring.logs
)
class Graft:
    """Classifies images with the package that GRAFT_PACKAGE names."""

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        """Once, in the command: what cannot be served ends it, instead of a worker that is respawned for ever."""
        lifecycle.check()

    def __init__(self) -> None:
        logs.configure()
        lifecycle.end_with_command()
        lifecycle.return_large_blocks()
        serving.use(Settings.from_environment(os.environ))
        # Beside the event loop, so that probes are answered meanwhile.
        threading.Thread(target=_load, name="loader", daemon=True).start()

    @bentoml.on_startup
    async def watch(self) -> None:
        """Once the event loop runs."""
        lifecycle.announce_stop(serving)
        self._watching = asyncio.create_task(lifecycle.recycle(serving))

    @bentoml.api
    async def classify(
        self, image: Annotated[Path, ContentType("image/*")], top_k: int = 5, threshold: float = 0
    ) -> Classification:
        """The most probable labels of one image."""
        options = ClassifyOptions(top_k=top_k, threshold=threshold)
        return await serving.loaded().classify(image.read_bytes(), options, uuid.uuid4().hex)

    @bentoml.api
    async def classify_batch(
        self, images: list[Annotated[Path, ContentType("image/*")]], top_k: int = 5, threshold: float = 0
    ) -> Batch:
        """The most probable labels of several images, or what is wrong with each."""
        options = ClassifyOptions(top_k=top_k, threshold=threshold)
        return await serving.loaded().classify_many([image.read_bytes() for image in images], options, uuid.uuid4().hex)

    @bentoml.on_shutdown
    def close(self) -> None:
        """Finishes what was accepted."""
        self._watching.cancel()
        if serving.pipeline is not None:
            serving.pipeline.close()


def _load() -> None:
    """Checks the package, warms the network up, and opens for requests; or ends the service, saying why."""
    settings = serving.settings
    lifecycle.step_back()
    try:
        loaded = model.load(settings.package, settings.device, settings.image_limits, settings.precision)
        serving.pipeline = Pipeline(loaded, settings, serving.metrics)
    except ArtifactError as error:
        lifecycle.fail(str(error))
    except Exception:  # noqa: BLE001 - whatever it is, a service that will never answer must not look alive
        logs.logger.exception("the package cannot be loaded")
        lifecycle.fail("the package cannot be loaded; the reason stands above")
    else:
        # What is there by now stays. Going through all of it again and again would halt every answer for a tenth of a second.
        gc.collect()
        gc.freeze()
        running = {"device": loaded.engine.device, "precision": loaded.engine.precision}
        logs.logger.info("ready", extra={"fields": {"model": loaded.manifest.name, **running}})


# The decorator made a bentoml.Service of the class, which type checkers cannot see.
cast(bentoml.Service[Any], Graft).add_asgi_middleware(Gate, serving=serving, routes=routes)

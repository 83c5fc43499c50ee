"""The BentoML service: its name, its start-up, and its middleware. No request handling.

`POST /classify` and `/classify_batch`, which BentoML's clients and platforms use, are served by the same handlers as /v1:
the middleware takes every request before BentoML's own parser.
"""

import asyncio
import faulthandler
import gc
import os
import threading
import uuid
from pathlib import Path
from typing import Annotated, Any

# BentoML sends usage statistics unless this is set before its first import, which follows.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
# One process, one registry. All servers with the same BentoML home share its multiprocess folder, and each new one empties it.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

import bentoml
from bentoml.validators import ContentType

from . import lifecycle
from .api.options import ClassifyOptions
from .api.schemas import Batch, Classification
from .http import openapi, server
from .http.middleware import Middleware
from .http.state import AppState
from .imaging import formats
from .inference import model
from .monitoring import logs
from .monitoring.merged_metrics import MetricsFolder
from .scheduling.predictor import Predictor
from .settings import Settings

app_state = AppState()
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
        logs.configure()
        with lifecycle.ends_service_on_failure():
            lifecycle.die_with_parent()
            workers = lifecycle.take_share()
            lifecycle.tune_malloc()
            faulthandler.enable()  # the stack of a crash, and of a worker that the supervisor ends because it hangs
            settings = Settings.from_environment(os.environ)
            n_connections = lifecycle.allow_connections(settings.max_connections)
            app_state.configure(settings.model_copy(update={"max_connections": n_connections}))
            # In a thread, so that the event loop answers probes while the model loads.
            loader = threading.Thread(target=_load_model, args=[lifecycle.listening_url()], name="loader", daemon=True)
            loader.start()
            if workers.n > 1:
                app_state.metrics.share(MetricsFolder(Path(workers.metrics)))
                loader.join()  # it gets requests only when it can answer them: the others can already

    @bentoml.on_startup
    async def start_watchdog(self) -> None:
        """Runs once the event loop has started."""
        lifecycle.install_drain(app_state)
        self._watchdog = asyncio.create_task(lifecycle.watchdog(app_state))

    @bentoml.api
    async def classify(
        self, image: Annotated[Path, ContentType("image/*")], top_k: int = 5, threshold: float = 0
    ) -> Classification:
        """Classify one image."""
        options = ClassifyOptions(top_k=top_k, threshold=threshold)
        return await app_state.require_predictor().classify(image.read_bytes(), options, uuid.uuid4().hex)

    @bentoml.api
    async def classify_batch(
        self, images: list[Annotated[Path, ContentType("image/*")]], top_k: int = 5, threshold: float = 0
    ) -> Batch:
        """Classify several images. Each gets its own result or error."""
        options = ClassifyOptions(top_k=top_k, threshold=threshold)
        return await app_state.require_predictor().classify_many(
            [image.read_bytes() for image in images], options, uuid.uuid4().hex
        )

    @bentoml.on_shutdown
    def close(self) -> None:
        """Finishes the accepted requests."""
        self._watchdog.cancel()
        if app_state.predictor is not None:
            app_state.predictor.close()


def _load_model(url: str | None) -> None:
    """Verifies the package, warms up the network, and starts to accept requests; or ends the service with the reason."""
    with lifecycle.ends_service_on_failure():
        lifecycle.lower_priority()
        settings = app_state.settings
        artifact = lifecycle.open_package(settings)
        lifecycle.resolve_worker_device(settings.device)
        loaded = model.load(artifact, settings.device, settings.image_limits, settings.precision)
        app_state.predictor = Predictor(loaded, settings, app_state.metrics)
        # All objects so far are permanent. If the garbage collector scanned them, every scan would pause requests for 0.1 s.
        gc.collect()
        gc.freeze()
        _warn_about_formats(app_state.predictor.queue.formats, loaded.manifest.formats)
        manifest, engine = loaded.manifest, loaded.engine
        fields = {"model": manifest.name, "sha256": manifest.sha256, "device": engine.device, "precision": engine.precision}
        fields["decoders"] = ", ".join(app_state.predictor.queue.decoder_restrictions) or "not confined"
        logs.logger.info("ready", extra={"fields": fields})
        lifecycle.announce_ready(url)


def _warn_about_formats(accepted: tuple[str, ...], trained: tuple[str, ...]) -> None:
    if refused := formats.labels(set(trained) - set(accepted)):
        logs.logger.warning(
            f"the training images include {' and '.join(refused)}, which this service refuses: see GRAFT_FORMATS"
        )


def add_middleware(service: bentoml.Service[Any]) -> None:
    """Lets Graft answer the requests of a service instead of BentoML."""
    service.add_asgi_middleware(Middleware, app_state=app_state, routes=routes)


Graft = bentoml.service(**CONFIG)(GraftService)
add_middleware(Graft)

"""Loads the package in a worker of the service. No request handling.

In a thread that starts before BentoML is imported, because both take seconds and leave each other time: reading and compiling
the network do not hold Python's lock. Once the event loop runs, it answers probes while the model loads.
"""

import faulthandler
import gc
import os
import threading
from pathlib import Path

from . import lifecycle
from .http.state import AppState
from .imaging import formats
from .inference import model
from .monitoring import logs
from .monitoring.merged_metrics import MetricsFolder
from .scheduling.predictor import Predictor
from .settings import Settings


class ModelLoader:
    """Prepares this process for one model, and loads it."""

    def __init__(self, app_state: AppState) -> None:
        self._app_state = app_state
        self._imported = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts to load. Runs in the main thread, before anything that takes long; later calls do nothing."""
        if self._thread:
            return
        logs.configure()
        with lifecycle.ends_service_on_failure():
            lifecycle.die_with_parent()
            workers = lifecycle.take_share()
            lifecycle.tune_malloc()
            faulthandler.enable()  # the stack of a crash, and of a worker that the supervisor ends because it hangs
            settings = Settings.from_environment(os.environ)
            n_connections = lifecycle.allow_connections(settings.max_connections)
            self._app_state.configure(settings.model_copy(update={"max_connections": n_connections}))
            if workers.n > 1:
                self._app_state.metrics.share(MetricsFolder(Path(workers.metrics)))
            self._is_alone = workers.n == 1
            url = lifecycle.listening_url()
            self._thread = threading.Thread(target=self._load, args=[url], name="loader", daemon=True)
            self._thread.start()

    def finish_start(self) -> None:
        """Says that everything is imported. One of several workers waits until it can answer: the others can already."""
        self.start()
        logs.never_wait()  # the loggers of what has been imported since
        self._imported.set()
        if self._thread and not self._is_alone:
            self._thread.join()

    def _load(self, url: str | None) -> None:
        """Verifies the package, warms up the network, and starts to accept requests; or ends the service with the reason."""
        with lifecycle.ends_service_on_failure():
            lifecycle.lower_priority()
            settings = self._app_state.settings
            artifact = lifecycle.open_package(settings)
            lifecycle.resolve_worker_device(settings.device)
            loaded = model.load(artifact, settings.device, settings.image_limits, lifecycle.precision_to_load(settings))
            predictor = Predictor(loaded, settings, self._app_state.metrics)
            self._imported.wait()
            self._app_state.predictor = predictor
            # All objects so far are permanent. If the garbage collector scanned them, each scan would pause requests for 0.1 s.
            gc.collect()
            gc.freeze()
            _warn_about_formats(predictor.queue.formats, loaded.manifest.formats)
            manifest, engine = loaded.manifest, loaded.engine
            fields = {"model": manifest.name, "sha256": manifest.sha256, "device": engine.device, "precision": engine.precision}
            fields["decoders"] = ", ".join(predictor.queue.decoder_restrictions) or "not confined"
            logs.logger.info("ready", extra={"fields": fields})
            lifecycle.announce_ready(url, engine.precision)
            loaded.compile_for_latency()  # now, because it is not needed to answer


def _warn_about_formats(accepted: tuple[str, ...], trained: tuple[str, ...]) -> None:
    if refused := formats.labels(set(trained) - set(accepted)):
        logs.logger.warning(
            f"the training images include {' and '.join(refused)}, which this service refuses: see GRAFT_FORMATS"
        )

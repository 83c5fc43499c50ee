"""The service with a GPU that fails: as soon as the file FAIL_GPU exists, every call in this process raises CUDA's error."""

import os
from pathlib import Path
from typing import Any, cast

os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # as `app` does, which is imported too late here

import bentoml

from graft.service.http import middleware
from graft.service.inference import model
from graft.service.inference.engine import Engine, Outputs, Pixels

load = model.load


class AcceleratorError(RuntimeError):
    """torch's, by name."""


class FailingGpu:
    """The CPU engine as if it were a GPU."""

    device, streams, max_batch = "cuda", 2, 64

    def __init__(self, engine: Engine) -> None:
        self._engine, self.precision = engine, engine.precision
        self._has_failed = False

    def __call__(self, batch: Pixels) -> Outputs:
        self._has_failed = self._has_failed or Path(os.environ["FAIL_GPU"]).exists()
        if self._has_failed:  # until the process ends
            raise AcceleratorError("CUDA error: an illegal memory access was encountered\nCompile with `TORCH_USE_CUDA_DSA`.")
        return self._engine(batch)


def load_on_gpu(*arguments: Any, **options: Any) -> model.Model:
    """The model, with the engine that may fail."""
    loaded = load(*arguments, **options)
    loaded.engine = cast(Engine, FailingGpu(loaded.engine))
    return loaded


model.load = load_on_gpu  # before the import that starts to load
from graft.service import app  # noqa: E402


@bentoml.service(name="graft", workers=1, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class FailingGpuService(app.Graft.inner):  # type: ignore[name-defined, misc]
    """The service under another name, so that BentoML's worker finds it in this module."""


cast(bentoml.Service[Any], FailingGpuService).add_asgi_middleware(
    middleware.Middleware, app_state=app.app_state, routes=app.routes
)

"""The service on a machine with two GPUs, each with the CPU behind it."""

import os
from typing import Any, cast

os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # as `app` does, which is imported too late here

import bentoml

from graft.service import lifecycle
from graft.service.inference import model
from graft.service.inference.cuda_check import CudaCheck
from graft.service.inference.engine import Engine, Outputs, Pixels

lifecycle.check_cuda = lambda: CudaCheck(n_devices=2, name="NVIDIA L4", capability="8.9")
lifecycle.resolve_device = lambda setting, warn=None: "cuda"
load = model.load


class FakeGpu:
    """The CPU engine as if it were the GPU that this process sees."""

    device, streams, max_batch = "cuda", 1, 4

    def __init__(self, engine: Engine) -> None:
        self._engine, self.precision = engine, engine.precision

    def __call__(self, batch: Pixels) -> Outputs:
        return self._engine(batch)


def load_on_gpu(artifact: Any, device: Any, *arguments: Any) -> model.Model:
    """The model, on a card; says on which."""
    loaded = load(artifact, "cpu", *arguments)
    loaded.engine = cast(Engine, FakeGpu(loaded.engine))
    print(f"worker {os.getpid()} has GPU {os.environ.get('CUDA_VISIBLE_DEVICES')}", flush=True)
    return loaded


model.load = load_on_gpu
from graft.service import app  # noqa: E402 - it starts to load

TwoGpus = bentoml.service(**app.CONFIG)(app.GraftService)
app.add_middleware(TwoGpus)

"""An expert's server with OpenVINO: Starlette, a pool of threads, and the package's own `model.onnx`.

    export PEER_PACKAGE=... PEER_PARALLEL=2 PEER_STREAMS=2 PEER_THREADS=2
    .bench/bin/python benchmarks/peers/serve_openvino.py --port 3005

PEER_PARALLEL images at a time per worker, in PEER_STREAMS streams that share PEER_THREADS threads. The performance hint is
THROUGHPUT with several streams and LATENCY with one. Each thread has its own inference request; only the logits are computed,
for batches of one, in OpenVINO's default precision, or PEER_PRECISION if it is set (f32 or bf16).
"""

import os
import threading
from pathlib import Path

import numpy as np
import openvino
from expert import Infer, serve
from expert import application as expert_application
from starlette.applications import Starlette


def load(package: Path) -> Infer:
    core, streams = openvino.Core(), int(os.environ["PEER_STREAMS"])
    model = core.read_model(package / "model.onnx")
    side = model.input(0).get_partial_shape()[1].get_length()
    model.reshape([1, side, side, 3])
    for output in model.outputs:
        if output.get_any_name() != "logits":
            model.remove_result(output.get_node())
    hint = "THROUGHPUT" if streams > 1 else "LATENCY"
    settings = {"PERFORMANCE_HINT": hint, "NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": int(os.environ["PEER_THREADS"])}
    if precision := os.environ.get("PEER_PRECISION"):
        settings["INFERENCE_PRECISION_HINT"] = precision
    compiled, local = core.compile_model(model, "CPU", settings), threading.local()

    def infer(pixels: np.ndarray) -> np.ndarray:
        if not hasattr(local, "request"):
            local.request = compiled.create_infer_request()
        return local.request.infer([pixels], share_inputs=True)[0]

    infer(np.zeros((1, side, side, 3), np.uint8))  # first in one thread: two first inferences at once can block each other
    return infer


def application() -> Starlette:
    """Application factory; uvicorn calls it in each worker."""
    return expert_application(load)


if __name__ == "__main__":
    serve("serve_openvino", __doc__ or "")

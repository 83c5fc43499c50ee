"""An expert's server with ONNX Runtime: Starlette, a pool of threads, and the package's own `model.onnx`.

    PEER_PACKAGE=... PEER_PARALLEL=2 PEER_THREADS=1 .bench/bin/python benchmarks/peers/serve_onnxruntime.py --port 3004

PEER_PARALLEL images at a time per worker, each with PEER_THREADS threads in its forward pass. One session serves all threads of
a worker, as ONNX Runtime's documentation advises; it computes only the logits.
"""

import os
from pathlib import Path

import onnxruntime
from expert import Infer, serve
from expert import application as expert_application
from starlette.applications import Starlette


def load(package: Path) -> Infer:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["PEER_THREADS"])
    session = onnxruntime.InferenceSession(package / "model.onnx", options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["logits"], {"pixels": pixels})[0]


def application() -> Starlette:
    """Application factory; uvicorn calls it in each worker."""
    return expert_application(load)


if __name__ == "__main__":
    serve("serve_onnxruntime", __doc__ or "")

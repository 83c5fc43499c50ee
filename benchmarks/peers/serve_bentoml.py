"""BentoML and torch, as its documentation shows: adaptive batching over `PIL.Image`, or without it, one image at a time.

    PEER_PACKAGE=... .bench/bin/python benchmarks/peers/serve_bentoml.py --port 3003 [--workers 1] [--batch 32]

`--batch 1` serves `Plain`, whose API takes one image. Otherwise `Batched` serves `@bentoml.api(batchable=True)` with batches of
at most `--batch` images and `max_latency_ms` at BentoML's default. The log of requests is off, everything else a default.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import bentoml
from PIL import Image

SETTINGS: dict[str, Any] = {
    "workers": int(os.environ.get("PEER_WORKERS", "1")),
    "traffic": {"timeout": 300},  # the default of 60 s is too short for a large photo on a busy machine
    "logging": {"access": {"enabled": False}},
}


@bentoml.service(**SETTINGS)
class Plain:
    """One classifier per worker, one image at a time."""

    def __init__(self) -> None:
        from network import from_environment

        self.classifier = from_environment()

    @bentoml.api
    def predict(self, image: Image.Image) -> dict[str, Any]:
        return self.classifier.to_response(self.classifier.probabilities(self.classifier.preprocess(image)[None])[0])


@bentoml.service(**SETTINGS)
class Batched:
    """One classifier per worker, with adaptive batching."""

    def __init__(self) -> None:
        import torch
        from network import from_environment

        self.classifier, self.stack = from_environment(), torch.stack

    @bentoml.api(batchable=True, max_batch_size=int(os.environ.get("PEER_BATCH", "32")))
    def predict(self, image: list[Image.Image]) -> list[dict[str, Any]]:
        rows = self.classifier.probabilities(self.stack([self.classifier.preprocess(item) for item in image]))
        return [self.classifier.to_response(row) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()
    os.environ |= {"PEER_WORKERS": str(arguments.workers), "BENTOML_DO_NOT_TRACK": "True"}
    service = "Plain" if arguments.batch == 1 else "Batched"
    if service == "Batched":
        os.environ["PEER_BATCH"] = str(arguments.batch)
    os.chdir(Path(__file__).parent)
    command = [sys.executable, "-m", "bentoml", "serve", f"serve_bentoml:{service}", "--host", "127.0.0.1"]
    os.execv(sys.executable, [*command, "--port", str(arguments.port)])


if __name__ == "__main__":
    main()

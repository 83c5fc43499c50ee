"""BentoML with adaptive batching and torch: `@bentoml.api(batchable=True)` over `PIL.Image`, as its documentation shows.

    PEER_PACKAGE=... .bench/bin/python benchmarks/peers/serve_bentoml.py --port 3003 [--workers 1] [--batch 32]

Batches of at most `--batch` images.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import bentoml
from PIL.Image import Image


@bentoml.service(
    workers=int(os.environ.get("PEER_WORKERS", "1")),
    traffic={"timeout": 300},
    logging={"access": {"enabled": False}},
)
class Peer:
    """One classifier per worker."""

    def __init__(self) -> None:
        import torch
        from network import from_environment

        self.classifier, self.stack = from_environment(), torch.stack

    @bentoml.api(batchable=True, max_batch_size=int(os.environ.get("PEER_BATCH", "32")), max_latency_ms=60_000)
    def predict(self, image: list[Image]) -> list[dict[str, Any]]:
        rows = self.classifier.probabilities(self.stack([self.classifier.preprocess(item) for item in image]))
        return [self.classifier.to_response(row) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()
    os.environ |= {"PEER_WORKERS": str(arguments.workers), "PEER_BATCH": str(arguments.batch), "BENTOML_DO_NOT_TRACK": "True"}
    os.chdir(Path(__file__).parent)
    command = [sys.executable, "-m", "bentoml", "serve", "serve_bentoml:Peer", "--host", "127.0.0.1"]
    os.execv(sys.executable, [*command, "--port", str(arguments.port)])


if __name__ == "__main__":
    main()

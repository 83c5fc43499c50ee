"""LitServe and torch: `decode_request`, `predict`, `encode_response`, with batching as in its documentation.

    PEER_PACKAGE=... .bench/bin/python benchmarks/peers/serve_litserve.py --port 3002 [--workers 1] [--batch 1]

No request times out, a batch waits for at most 10 ms, and only warnings are logged; all other settings are LitServe's defaults.
Images are sent as a multipart form.
"""

import argparse
from typing import Any

import litserve
import torch
from fastapi import Request


class Api(litserve.LitAPI):
    """One classifier per worker."""

    def setup(self, device: str) -> None:
        from network import from_environment

        self.classifier = from_environment()

    def decode_request(self, request: Request) -> torch.Tensor:
        from PIL import Image

        with Image.open(request["image"].file) as opened:
            return self.classifier.preprocess(opened)

    def batch(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(inputs)

    def predict(self, pixels: torch.Tensor) -> torch.Tensor:
        if pixels.ndim == 3:  # without batching, a single image without a batch dimension
            return self.classifier.probabilities(pixels[None])[0]
        return self.classifier.probabilities(pixels)

    def unbatch(self, output: torch.Tensor) -> list[torch.Tensor]:
        return list(output)

    def encode_response(self, output: torch.Tensor) -> dict[str, Any]:
        return self.classifier.to_response(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    arguments = parser.parse_args()
    api = Api(max_batch_size=arguments.batch, batch_timeout=0.01 if arguments.batch > 1 else 0.0)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=arguments.workers, timeout=False)
    server.run(host="127.0.0.1", port=arguments.port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()

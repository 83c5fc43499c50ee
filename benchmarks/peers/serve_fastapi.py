"""FastAPI and torch, as in FastAPI's documentation: `UploadFile` and a plain `def` endpoint, which runs in the thread pool.

    PEER_PACKAGE=... .bench/bin/python benchmarks/peers/serve_fastapi.py --port 3001 [--workers 1]

Served by uvicorn with uvloop and httptools (`uvicorn[standard]`), without the access log.
"""

import argparse
import os
import sys
from pathlib import Path

from fastapi import FastAPI, UploadFile


def application() -> FastAPI:
    """Application factory; uvicorn calls it in each worker."""
    from network import from_environment
    from PIL import Image

    app, classifier = FastAPI(), from_environment()

    @app.post("/predict")
    def predict(image: UploadFile) -> dict[str, object]:
        with Image.open(image.file) as opened:
            pixels = classifier.preprocess(opened)
        return classifier.to_response(classifier.probabilities(pixels[None])[0])

    @app.get("/health")
    def health() -> str:
        return "ok"

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "uvicorn", "serve_fastapi:application", "--factory", "--no-access-log"]
    command += ["--app-dir", str(Path(__file__).parent), "--port", str(arguments.port), "--workers", str(arguments.workers)]
    # On a busy machine, importing torch takes longer than the default of 5 seconds, after which uvicorn restarts a worker.
    command += ["--timeout-worker-healthcheck", "120"]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()

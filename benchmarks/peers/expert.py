"""What an expert would write around any inference engine: Starlette, Pillow with `draft`, and a pool of threads.

Shared by serve_onnxruntime.py and serve_openvino.py. Depends only on two files of the package, `manifest.json` and
`model.onnx`; must not import Graft. The network takes uint8 pixels: mean and standard deviation are part of `model.onnx`.
Bare Starlette, because FastAPI around the same functions took as much CPU time per request, or up to 12 % more.
"""

import argparse
import asyncio
import io
import json
import math
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

Infer = Callable[[np.ndarray], np.ndarray]  # uint8 (1, S, S, 3) -> logits, float32 (1, C)


def preprocess(encoded: bytes, preprocessing: dict[str, Any]) -> np.ndarray:
    """Pixels of an encoded image, uint8 (S, S, 3), RGB. A large JPEG is decoded at a fraction of its size."""
    crop, resize = preprocessing["crop"], preprocessing["resize"]
    image = Image.open(io.BytesIO(encoded))
    scale = 2 * resize / min(image.size)
    if scale < 1:
        image.draft("RGB", (math.ceil(image.width * scale), math.ceil(image.height * scale)))
    image = ImageOps.exif_transpose(image).convert("RGB")
    side = min(image.size) * crop / resize
    left, top = (image.width - side) / 2, (image.height - side) / 2
    resampling = Image.Resampling[preprocessing["interpolation"].upper()]
    return np.asarray(image.resize((crop, crop), resampling, box=(left, top, left + side, top + side)))


def application(load: Callable[[Path], Infer]) -> Starlette:
    """The application of one worker. POST /predict takes a form with the file `image`, or the image as the body.

    Args:
        load: loads the network of a package.
    """
    package = Path(os.environ["PEER_PACKAGE"])
    manifest = json.loads((package / "manifest.json").read_text(encoding="utf-8"))
    infer, threads = load(package), ThreadPoolExecutor(int(os.environ["PEER_PARALLEL"]))

    def classify(encoded: bytes) -> dict[str, Any]:
        logits = infer(preprocess(encoded, manifest["preprocessing"])[None])[0].astype(np.float64) / manifest["temperature"]
        exponentials = np.exp(logits - logits.max())
        probabilities = (exponentials / exponentials.sum()).tolist()
        ranked = sorted(zip(manifest["labels"], probabilities, strict=True), key=lambda pair: -pair[1])
        return {"predictions": [{"label": label, "probability": probability} for label, probability in ranked]}

    async def predict(request: Request) -> JSONResponse:
        if request.headers["content-type"].startswith("multipart/"):
            async with request.form() as form:
                encoded = await form["image"].read()
        else:
            encoded = await request.body()
        return JSONResponse(await asyncio.get_running_loop().run_in_executor(threads, classify, encoded))

    async def health(_: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    return Starlette(routes=[Route("/predict", predict, methods=["POST"]), Route("/health", health)])


def serve(module: str, description: str) -> None:
    """Replace this process by uvicorn with uvloop and httptools; each worker calls `application` of the module."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "uvicorn", f"{module}:application", "--factory", "--loop", "uvloop", "--http", "httptools"]
    command += ["--no-access-log", "--app-dir", str(Path(__file__).parent)]
    os.execv(sys.executable, [*command, "--port", str(arguments.port), "--workers", str(arguments.workers)])

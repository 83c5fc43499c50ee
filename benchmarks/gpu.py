"""The CUDA engine against a bare torch.compile loop in fp16 over tensors that are on the card already, and against f32.

    .venv/bin/python benchmarks/gpu.py PACKAGE [--batch 64] [--rounds 9] [--json]

The engine gets uint8 images from the processor's memory and gives logits back, as it does when it serves, from as many
threads as it has lanes; the loop copies nothing. So the ratio is what the road to the card and back costs. In turns, medians.
Needs a CUDA device; without one it says so and ends with 2.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from graft.service.artifact import Artifact, read
from graft.service.inference import devices

GOAL = 0.9
CALLS = 50  # of a round
SETTLING = 5  # calls before any is timed


def per_second(call: Callable[[], object], lanes: int, n_images: int) -> float:
    """Images a second, from so many threads."""
    with ThreadPoolExecutor(lanes) as pool:
        list(pool.map(lambda _: call(), range(SETTLING * lanes)))
        begun = time.perf_counter()
        list(pool.map(lambda _: call(), range(CALLS)))
        return CALLS * n_images / (time.perf_counter() - begun)


def bare(artifact: Artifact, batch: np.ndarray[Any, np.dtype[np.uint8]]) -> Callable[[], object]:
    """The same network, compiled, in fp16, over a batch that is on the card."""
    import torch

    from graft.service.networks import network

    compiled = torch.compile(network.load(artifact).eval().to("cuda").to(memory_format=torch.channels_last))
    images = torch.from_numpy(batch).to("cuda")

    def call() -> None:
        with torch.inference_mode(), torch.autocast("cuda", torch.float16):
            compiled(images)
        torch.cuda.synchronize()

    return call


def measure(artifact: Artifact, n_images: int, rounds: int) -> dict[str, float]:
    """Median images a second of each."""
    from graft.service.inference import cuda

    side = artifact.manifest.preprocessing.crop
    batch = np.random.default_rng(0).integers(0, 256, (n_images, side, side, 3), dtype=np.uint8)
    ways: dict[str, tuple[Callable[[], object], int]] = {"torch.compile, fp16, no copies": (bare(artifact, batch), 1)}
    for precision in cuda.native():
        running = cuda.CudaEngine(artifact, precision)
        ways[f"engine, {precision}"] = (lambda running=running: running(batch)), running.lanes
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (call, lanes) in ways.items():
            found[name].append(per_second(call, lanes, n_images))
    return {name: statistics.median(values) for name, values in found.items()}


def table(found: dict[str, float]) -> str:
    base = next(iter(found.values()))
    lines = ["| what | of the bare loop | images/s |", "|---|---|---|"]
    return "\n".join(lines + [f"| {name} | {speed / base:.2f} | {speed:,.0f} |" for name, speed in found.items()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("package", type=Path)
    parser.add_argument("--batch", type=int, default=64, help="images of one call (default: 64, the engine's own most)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not devices.cuda_devices():
        print("error: there is no CUDA device here, so nothing can be measured.", file=sys.stderr)
        raise SystemExit(2)
    found = measure(read(arguments.package), arguments.batch, arguments.rounds)
    print(json.dumps(found) if arguments.json else table(found))
    best = max(speed for name, speed in found.items() if name.startswith("engine"))
    raise SystemExit(best < GOAL * next(iter(found.values())))


if __name__ == "__main__":
    main()

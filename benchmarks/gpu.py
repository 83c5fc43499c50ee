"""Throughput of the CUDA engine compared with a plain torch.compile loop in fp16 over tensors already on the GPU.

    .venv/bin/python benchmarks/gpu.py PACKAGE [--batch 64] [--rounds 9] [--json]

The engine receives uint8 images in host memory and returns logits, as in serving, from as many threads as it has streams. The
loop copies nothing, so the ratio shows the cost of the transfers. Both alternate and medians are reported. Needs a CUDA
device; without one, it exits with code 2.
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

MIN_RATIO = 0.9
CALLS_PER_ROUND = 50  # per round
WARM_UP_CALLS = 5  # warm-up calls per thread, not timed


def images_per_second(call: Callable[[], object], n_threads: int, n_images: int) -> float:
    """Images per second, called from `n_threads` threads."""
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(lambda _: call(), range(WARM_UP_CALLS * n_threads)))
        started = time.perf_counter()
        list(pool.map(lambda _: call(), range(CALLS_PER_ROUND)))
        return CALLS_PER_ROUND * n_images / (time.perf_counter() - started)


def compiled_baseline(artifact: Artifact, batch: np.ndarray[Any, np.dtype[np.uint8]]) -> Callable[[], object]:
    """The same network, compiled, in fp16, over a batch that is already on the GPU."""
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
    """Median images per second of each engine and of the baseline."""
    from graft.service.inference import cuda

    side = artifact.manifest.preprocessing.crop
    batch = np.random.default_rng(0).integers(0, 256, (n_images, side, side, 3), dtype=np.uint8)
    candidates: dict[str, tuple[Callable[[], object], int]] = {
        "torch.compile, fp16, no copies": (compiled_baseline(artifact, batch), 1)
    }
    for precision in cuda.supported_precisions():
        engine = cuda.CudaEngine(artifact, precision)
        candidates[f"engine, {precision}"] = (lambda engine=engine: engine(batch)), engine.streams
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, (call, n_threads) in candidates.items():
            rates[name].append(images_per_second(call, n_threads, n_images))
    return {name: statistics.median(values) for name, values in rates.items()}


def table(rates: dict[str, float]) -> str:
    baseline = next(iter(rates.values()))
    lines = ["| engine | ratio to plain loop | images/s |", "|---|---|---|"]
    return "\n".join(lines + [f"| {name} | {rate / baseline:.2f} | {rate:,.0f} |" for name, rate in rates.items()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("package", type=Path)
    parser.add_argument("--batch", type=int, default=64, help="images per call (default: 64, the engine's maximum)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not devices.cuda_device_count():
        print("error: no CUDA device found.", file=sys.stderr)
        raise SystemExit(2)
    rates = measure(read(arguments.package), arguments.batch, arguments.rounds)
    print(json.dumps(rates) if arguments.json else table(rates))
    best = max(rate for name, rate in rates.items() if name.startswith("engine"))
    raise SystemExit(best < MIN_RATIO * next(iter(rates.values())))


if __name__ == "__main__":
    main()

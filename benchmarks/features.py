"""Feature extraction against bare threads: `graft.training.features.extraction` over decode and engine in one loop for each core.

    .venv/bin/python benchmarks/features.py [DATA] [--rounds 3] [--json]

DATA is hymenoptera.zip unless given. Both load the same exported graph and look at every image once, from the archive; ours
also handles what cannot be read, keeps order, and turns what it finds into rows. Nothing comes from the cache of features.
In turns, medians, the ratio first.
"""

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from measuring.pictures import HYMENOPTERA
from measuring.tables import ratio

from graft.service.imaging.preprocess import decode
from graft.service.inference.devices import cores
from graft.service.inference.engine import VECTORS
from graft.service.inference.openvino import Graph
from graft.training.backbones import onnx_cache, registry
from graft.training.backbones.onnx_cache import STAGES, Exported
from graft.training.data.dataset import Dataset, scan
from graft.training.features.extraction import View, on_cpu


def ours(dataset: Dataset, exported: Exported) -> float:
    """Images a second."""
    begun = time.perf_counter()
    n_rows = sum(1 for _ in on_cpu(dataset, [View(sample) for sample in dataset.samples], exported))
    return n_rows / (time.perf_counter() - begun)


def bare(dataset: Dataset, exported: Exported) -> float:
    """Images a second of threads that do nothing else."""
    begun = time.perf_counter()
    graph = Graph(exported.graph, wanted=(STAGES, VECTORS))

    def look(first: int) -> None:
        for sample in dataset.samples[first :: cores()]:
            graph(decode(dataset.read(sample), exported.preprocessing).pixels[None])

    with ThreadPoolExecutor(cores()) as threads:
        list(threads.map(look, range(cores())))
    return len(dataset.samples) / (time.perf_counter() - begun)


def measure(data: Path, rounds: int) -> dict[str, list[float]]:
    """Images a second of both, round by round; the first round, in which files come from the disk, does not count."""
    dataset = scan(data)
    exported = onnx_cache.export(registry.choose("tf_efficientnet_lite0"), 224, 0, "crop")
    found: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(rounds + 1):
        found["ours"].append(ours(dataset, exported))
        found["bare"].append(bare(dataset, exported))
    return {way: rates[1:] for way, rates in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path, nargs="?", default=HYMENOPTERA)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.data, arguments.rounds)
    if arguments.json:
        print(json.dumps(found))
        return
    print("| features over bare threads | features, images/s | bare threads, images/s |\n|---|---|---|")
    print(f"| **{ratio(found['ours'], found['bare']):.3f}** | {median(found['ours']):.0f} | {median(found['bare']):.0f} |")


if __name__ == "__main__":
    main()

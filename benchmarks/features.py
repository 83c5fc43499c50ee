"""Feature extraction (`graft.training.features.extraction`) compared with plain threads that decode and infer, one per core.

    .venv/bin/python benchmarks/features.py [DATA] [--rounds 3] [--json]

DATA is hymenoptera.zip by default. Both load the same exported graph and process every image once, from the archive. Graft
also handles unreadable files, keeps the order, and returns feature rows. The feature cache is not used. Both alternate;
medians are reported, the ratio first.
"""

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from measuring.pictures import HYMENOPTERA
from measuring.tables import median_ratio

from graft.service.imaging.preprocess import decode
from graft.service.inference.devices import available_cpus
from graft.service.inference.engine import VECTORS
from graft.service.inference.openvino import OpenVinoModel
from graft.training.backbones import onnx_cache, registry
from graft.training.backbones.onnx_cache import STAGES, ExportedBackbone
from graft.training.data.dataset import Dataset, scan
from graft.training.features.extraction import View, extract_on_cpu


def graft_rate(dataset: Dataset, exported: ExportedBackbone) -> float:
    """Images per second of Graft's feature extraction."""
    started = time.perf_counter()
    n_rows = sum(1 for _ in extract_on_cpu(dataset, [View(sample) for sample in dataset.samples], exported))
    return n_rows / (time.perf_counter() - started)


def thread_rate(dataset: Dataset, exported: ExportedBackbone) -> float:
    """Images per second of plain threads."""
    started = time.perf_counter()
    engine = OpenVinoModel(exported.graph, output_names=(STAGES, VECTORS))

    def run_thread(first: int) -> None:
        for sample in dataset.samples[first :: available_cpus()]:
            engine(decode(dataset.read(sample), exported.preprocessing).pixels[None])

    with ThreadPoolExecutor(available_cpus()) as threads:
        list(threads.map(run_thread, range(available_cpus())))
    return len(dataset.samples) / (time.perf_counter() - started)


def measure(data: Path, rounds: int) -> dict[str, list[float]]:
    """Images per second of both in each round, without the first round, which reads the files from disk."""
    dataset = scan(data)
    exported = onnx_cache.load_or_export(registry.resolve("tf_efficientnet_lite0"), 224, 0, "crop")
    rates: dict[str, list[float]] = {"graft": [], "threads": []}
    for _ in range(rounds + 1):
        rates["graft"].append(graft_rate(dataset, exported))
        rates["threads"].append(thread_rate(dataset, exported))
    return {name: values[1:] for name, values in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path, nargs="?", default=HYMENOPTERA)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rates = measure(arguments.data, arguments.rounds)
    if arguments.json:
        print(json.dumps(rates))
        return
    graft, threads = rates["graft"], rates["threads"]
    print("| ratio to plain threads | feature extraction, images/s | plain threads, images/s |\n|---|---|---|")
    print(f"| **{median_ratio(graft, threads):.3f}** | {median(graft):.0f} | {median(threads):.0f} |")


if __name__ == "__main__":
    main()

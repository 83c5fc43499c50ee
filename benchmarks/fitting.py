"""Training time and accuracy compared with a linear probe in scikit-learn, fastai, the PyTorch tutorial and timm's components.

    .venv/bin/python benchmarks/fitting.py [--minutes 10] [--quick] [--json]

`make bench` creates the environment of the peers. All tools start from the same weights file of tf_efficientnet_lite0, train on
the same folders and are evaluated on the same held-out images. Graft does not use these images for early stopping or model
selection; for a peer, the best epoch on these images counts, which favors the peer. The strongest peer does what the probe
does: features of the frozen network in timm, then LogisticRegression; it runs as often. The time is that of the whole command,
imports included, until a package (Graft) or a weights file (peers) is written. hymenoptera has 244 training photos and 153
held-out ones, at 224 pixels; cifar10-6k has 5,000 and 1,000 images of 32x32, at 128 pixels, the size that Graft selects. A
peer that would take too long gets fewer epochs than its documentation suggests; the table shows how many. Afterwards, feature
extraction is compared with plain threads (benchmarks/features.py) and fine-tuning with a plain torch loop
(benchmarks/epoch.py).
"""

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from measuring import peers
from measuring.pictures import CIFAR, HYMENOPTERA
from measuring.tables import Report, Table, Target, log, median_ratio, to_markdown

ROOT = Path(__file__).parent.parent
MIN_SPEEDUP, MIN_PLAIN_RATIO = 20.0, 0.9
MIN_SKLEARN_SPEEDUP = 1.0
TIMEOUT_S = 480.0  # for one command
PROBE, FIRST_RUN, CACHED = "graft fit --strategy probe", "probe, first run (exports the backbone)", "probe, cached features"
FASTAI, SKLEARN = "fastai fine_tune", "timm features + LogisticRegression"
SAVE_WEIGHTS = """
import sys
from safetensors.torch import save_file
from graft.training.backbones import pretrained, registry as backbones
network = pretrained.load(backbones.resolve("tf_efficientnet_lite0"))
save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, sys.argv[1])
"""


@dataclass(frozen=True)
class FitResult:
    """Results of one command.

    Attributes:
        who: name of the tool and its settings.
        seconds: wall-clock time of the whole command.
        processor_s: CPU time of all its processes.
        accuracies: on the held-out images; after each epoch for peers, only at the end for Graft.
        images_s: training images times epochs per second, imports not counted; NaN for Graft.
        finished: whether it finished within `TIMEOUT_S`.
    """

    who: str
    seconds: float
    processor_s: float
    accuracies: tuple[float, ...]
    images_s: float
    finished: bool

    @property
    def best(self) -> float:
        return max(self.accuracies, default=math.nan)


def run_fit(name: str, command: Sequence[str], environment: Mapping[str, str]) -> FitResult:
    """Run and measure one command that prints a JSON object as its last line."""
    log(name)
    started, usage_before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    finished, output = _run_to_end(command, environment)
    seconds, usage_after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = usage_after.ru_utime + usage_after.ru_stime - usage_before.ru_utime - usage_before.ru_stime
    if not finished:
        return FitResult(name, seconds, cpu_s, (), math.nan, finished=False)
    record = json.loads(output.strip().splitlines()[-1])
    if "accuracies" in record:
        return FitResult(
            name, seconds, cpu_s, tuple(record["accuracies"]), record["images_learned"] / record["learning_s"], True
        )
    return FitResult(name, seconds, cpu_s, (record["test"]["accuracy"],), math.nan, finished=True)


def _run_to_end(command: Sequence[str], environment: Mapping[str, str]) -> tuple[bool, str]:
    """Run a command; return whether it finished in time, and its output. Raises RuntimeError if it failed."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            output, _ = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.communicate()
            return False, ""
        if process.returncode != 0:
            errors.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{errors.read()[-2000:]}")
    return True, output


class DatasetBenchmark:
    """Measurements of all tools on one dataset.

    Args:
        folder: contains `train` and one held-out split, each with a folder per label.
        weights: weights of the backbone and its classifier, with timm's parameter names.
        scratch: folder for temporary files.
        size: input size of the network in pixels.
    """

    def __init__(self, folder: Path, weights: Path, scratch: Path, size: int) -> None:
        self.folder, self.weights, self.from_scratch, self.size = folder, weights, scratch, size
        self.cache = scratch / "cache"
        self.results: list[FitResult] = []

    def run_peer(self, name: str, script: str, *flags: str) -> None:
        command = [str(peers.PYTHON), str(peers.SCRIPTS / script), str(self.folder), str(self.weights)]
        command += [str(self.from_scratch / "peer.model"), "--size", str(self.size), *flags]
        self.results.append(run_fit(name, command, {}))

    def run_graft(self, name: str, *flags: str, clear_cache: str = "") -> None:
        """Run `graft fit` once, after clearing part of the cache: "" for nothing, "features", or "." for everything."""
        if clear_cache:
            shutil.rmtree(self.cache / clear_cache, ignore_errors=True)
        out = self.from_scratch / "run"
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, "-m", "graft", "fit", str(self.folder), "--json", "--out", str(out), *flags]
        self.results.append(run_fit(name, command, {"GRAFT_CACHE": str(self.cache), "PYTHONPATH": str(ROOT)}))

    def results_of(self, name: str) -> list[FitResult]:
        return [fit for fit in self.results if fit.who == name]

    def median_seconds(self, name: str) -> float:
        return median(fit.seconds for fit in self.results_of(name))

    def table(self, title: str) -> Table:
        """One row per tool with medians and the ratio to the probe's time; the strongest peer first, right after the probe."""
        names = list(dict.fromkeys(result.who for result in self.results))
        first = [name for name in (PROBE, FIRST_RUN, CACHED, SKLEARN) if name in names]
        names = [*first, *(name for name in names if name not in first)]
        rows = []
        for name in names:
            results = self.results_of(name)
            note = "" if all(result.finished for result in results) else f" (stopped after {TIMEOUT_S:.0f} s)"
            medians = [
                median(getattr(result, key) for result in results) for key in ("seconds", "processor_s", "best", "images_s")
            ]
            rows.append((name + note, medians[0] / self.median_seconds(PROBE), *medians))
        columns = ("tool", "ratio to probe", "seconds", "CPU seconds", "accuracy", "training images/s")
        return Table(title, columns, tuple(rows))


def measure_hymenoptera(benchmark: DatasetBenchmark, quick: bool) -> None:
    """Measure on hymenoptera: the probe several times, alternating with the other tools."""
    n_epochs = 1 if quick else 4
    benchmark.run_graft(FIRST_RUN, "--strategy", "probe", clear_cache=".")
    epochs = ("--epochs", str(n_epochs))
    peer_runs = (
        lambda: benchmark.run_peer(f"{FASTAI}({n_epochs})", "train_fastai.py", *epochs),
        lambda: benchmark.run_peer(f"timm components, {n_epochs} epochs", "train_timm.py", *epochs),
        lambda: benchmark.run_peer(
            f"PyTorch tutorial, head only, {n_epochs} of 25 epochs", "train_tutorial.py", *epochs, "--frozen"
        ),
        lambda: benchmark.run_graft(f"graft fit --strategy finetune, {n_epochs} epochs", "--strategy", "finetune", *epochs),
    )
    for run_peer in peer_runs[:1] if quick else peer_runs:
        benchmark.run_graft(PROBE, "--strategy", "probe", clear_cache="features")
        benchmark.run_peer(SKLEARN, "train_sklearn.py")
        benchmark.run_graft(CACHED, "--strategy", "probe")
        run_peer()


def measure_cifar(benchmark: DatasetBenchmark) -> None:
    """Measure on CIFAR-10. The first run exports the backbone at this input size."""
    benchmark.run_graft(FIRST_RUN, "--strategy", "probe", clear_cache="features")
    benchmark.run_peer(SKLEARN, "train_sklearn.py")
    benchmark.run_peer(f"{FASTAI}(1)", "train_fastai.py", "--epochs", "1")
    benchmark.run_graft(PROBE, "--strategy", "probe", clear_cache="features")


def measure_optional(large: DatasetBenchmark, small: DatasetBenchmark, end: float) -> None:
    """Optional measurements, most informative first, until the time limit."""
    optional_runs = (
        lambda: small.run_graft("graft fit --strategy finetune, 1 epoch", "--strategy", "finetune", "--epochs", "1"),
        lambda: small.run_peer("timm components, 1 epoch", "train_timm.py", "--epochs", "1"),
        lambda: large.run_peer("PyTorch tutorial, 4 of 25 epochs", "train_tutorial.py", "--epochs", "4"),
        lambda: small.run_peer("PyTorch tutorial, head only, 1 of 25 epochs", "train_tutorial.py", "--epochs", "1", "--frozen"),
    )
    for run_once in optional_runs:
        if time.monotonic() < end:
            run_once()


def extraction_ratios(quick: bool, cache: Path) -> list[float]:
    """Ratios of the throughput of feature extraction to that of plain threads."""
    rates = _run_script("features.py", ["--rounds", "1" if quick else "5"], cache)
    return [graft_rate / thread_rate for graft_rate, thread_rate in zip(rates["graft"], rates["threads"], strict=True)]


def epoch_rates(quick: bool, cache: Path) -> dict[str, list[float]]:
    """Images per second of fine-tuning epochs and of a plain torch loop, alternating."""
    flags = ["--batches", "2", "--epochs", "2"] if quick else ["--batches", "8", "--epochs", "3"]
    record = _run_script("epoch.py", flags, cache)
    return {name: [record["n_images"] / seconds for seconds in record[name]] for name in ("graft", "plain")}


def _run_script(name: str, flags: Sequence[str], cache: Path) -> dict[str, list[float]]:
    log(name)
    command = [sys.executable, str(ROOT / "benchmarks" / name), "--json", *flags]
    environment = {**os.environ, "GRAFT_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{name} ended with {result.returncode}:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def measure(minutes: float, quick: bool) -> Report:
    """Run all measurements; the optional ones only until the time limit."""
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        weights = scratch / "weights.safetensors"
        subprocess.run([sys.executable, "-c", SAVE_WEIGHTS, str(weights)], cwd=ROOT, check=True)
        large = DatasetBenchmark(unpack(HYMENOPTERA, scratch), weights, scratch, 224)
        measure_hymenoptera(large, quick)
        ratios, rates = extraction_ratios(quick, large.cache), epoch_rates(quick, large.cache)
        small = DatasetBenchmark(unpack(CIFAR, scratch), weights, scratch, 128)
        if not quick:
            measure_cifar(small)
            measure_optional(large, small, end)
    return report([("hymenoptera, 224 pixels", large), ("cifar10-6k, 128 pixels", small)], ratios, rates)


def unpack(archive: Path, scratch: Path) -> Path:
    """Unpack an archive and return the single folder in it."""
    folder = scratch / archive.stem
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    [content] = folder.iterdir()
    return content


def report(
    benchmarks: Sequence[tuple[str, DatasetBenchmark]], ratios: Sequence[float], rates: Mapping[str, Sequence[float]]
) -> Report:
    result = Report("fitting", "Training: comparison with other tools and with plain loops")
    [first, *_] = (benchmark for _, benchmark in benchmarks)
    result.promises = targets(first.results, ratios)
    result.tables = [benchmark.table(title) for title, benchmark in benchmarks if benchmark.results]
    epoch_ratio = median_ratio(rates["graft"], rates["plain"])
    rows = (
        ("feature extraction / plain threads with decoding and inference", median(ratios)),
        ("fine-tuning epoch / plain torch loop over preloaded tensors", epoch_ratio),
    )
    result.tables.append(Table("Throughput relative to plain loops", ("what", "ratio"), rows))
    result.notes = [
        "The accuracy of a peer is that of its best epoch on the held-out images; that of Graft is of its final package, which"
        " was selected without these images.",
        "The first run starts with an empty cache and exports the backbone. The other probes extract all features again, except"
        " 'probe, cached features'.",
    ]
    result.measured = {
        "fits": {title: [asdict(fit) for fit in benchmark.results] for title, benchmark in benchmarks},
        "features_over_bare": list(ratios),
        "epochs_images_s": {name: list(values) for name, values in rates.items()},
    }
    return result


def targets(results: Sequence[FitResult], ratios: Sequence[float]) -> list[Target]:
    """Targets of the probe compared with its peers on hymenoptera, with and without an exported backbone in the cache."""
    [fastai] = (fit for fit in results if fit.who.startswith(FASTAI))
    found = {name: [fit for fit in results if fit.who == name] for name in (PROBE, FIRST_RUN, SKLEARN)}
    seconds = {name: median(fit.seconds for fit in fits) for name, fits in found.items()}
    speedups = {name: fastai.seconds / seconds[name] for name in (PROBE, FIRST_RUN)}
    # All are fractions of the same number of images; smaller differences are float32 rounding.
    worst = min(fit.best for fit in found[PROBE])
    gain, sklearn_gain = (round(worst - accuracy, 6) for accuracy in (fastai.best, max(fit.best for fit in found[SKLEARN])))
    return [
        Target(f"{PROBE}: speed-up over {SKLEARN}", seconds[SKLEARN] / seconds[PROBE], MIN_SKLEARN_SPEEDUP),
        Target("the same, first run, over LogisticRegression", seconds[SKLEARN] / seconds[FIRST_RUN], MIN_SKLEARN_SPEEDUP),
        Target("its accuracy minus that of LogisticRegression", sklearn_gain, 0.0),
        Target(f"{PROBE}: speed-up over {fastai.who}", speedups[PROBE], MIN_SPEEDUP),
        Target("the same, first run (exports the backbone)", speedups[FIRST_RUN], MIN_SPEEDUP),
        Target("its accuracy minus that of fastai's best epoch", gain, 0.0),
        Target("feature extraction: ratio to plain threads", median(ratios), MIN_PLAIN_RATIO),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10.0, help="time limit after which optional measurements are skipped")
    parser.add_argument("--quick", action="store_true", help="smoke test with few measurements")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    peers.check_installed()
    started = time.monotonic()
    result = measure(arguments.minutes, arguments.quick)
    result.seconds = time.monotonic() - started
    print(json.dumps(result.to_dict()) if arguments.json else to_markdown(result.to_dict()))


if __name__ == "__main__":
    main()

"""What `graft fit` and other tools make of a time budget: accuracy, balanced accuracy and log-loss on several sets.

    .venv/bin/python benchmarks/accuracy.py [--sets NAME...] [--strategies auto probe] [--peers fastai sklearn] [--budget 600]
                                            [--seeds 1] [--json]

The sets are those of ../shared/data that have a test part, with default flags except that copies across the given parts are
allowed: they are part of these sets. A run is `graft fit` as a user starts it, in a process of its own; the features of a set
are computed by its first run. The peers start from the same weights and see images of the same size. fastai (`fine_tune` with
its augmentations) and timm's components get as many epochs as fit into the budget by a run of one epoch, which is not counted;
scikit-learn learns from features of timm, with its regularization chosen by cross-validation, and needs a minute. Everything
that a peer does not do (calibration, a choice between models, a package that can be served) costs it no time. By default it
takes two hours, and writes benchmarks/results/accuracy.json and accuracy.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from bench import save
from fitting import SAVE_WEIGHTS, unpack
from measuring import peers
from measuring.pictures import DATA
from measuring.tables import Report, Table, log, to_markdown

from graft.training.evaluation.confidence_intervals import wilson

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
SETS = ("hymenoptera", "flowers12", "trashnet", "emoji", "cifar10-6k")
STRATEGIES = ("auto", "probe")
PEERS = {  # the script of each with its flags, and whether it trains for a number of epochs
    "fastai": (("train_fastai.py", "--augment"), True),
    "timm": (("train_timm.py",), True),
    "sklearn": (("train_sklearn.py", "--tune"), False),
}
DEFAULT_PEERS = ("fastai", "sklearn")
BUDGET_S, SEEDS = 600, 1
COLUMNS = ("set", "given", "kept", "accuracy, %", "95 % interval", "balanced, %", "log-loss", "seconds")


@dataclass(frozen=True)
class Outcome:
    """One run.

    Attributes:
        strategy: the one that was asked for, or the peer.
        kept: the one of the package; "" for a peer.
        low, high: 95 % interval of the accuracy on test.
    """

    data: str
    strategy: str
    seed: int
    kept: str
    accuracy: float
    low: float
    high: float
    balanced_accuracy: float
    log_loss: float
    seconds: float


def fit(data: Path, strategy: str, budget_s: int, seed: int, out: Path) -> Outcome:
    """Runs `graft fit`. Raises RuntimeError with its output if it fails."""
    options = ["--strategy", strategy, "--seed", str(seed), "--allow-near-leaks", "--json", "--out", str(out)]
    if strategy != "probe":  # which needs no budget
        options += ["--budget", f"{budget_s}s"]
    started = time.monotonic()
    record = run([sys.executable, "-m", "graft", "fit", str(data), *options])
    test, metrics = record["test"], record["metrics"]
    return Outcome(
        data.stem,
        strategy,
        seed,
        record["strategy"],
        test["accuracy"],
        test["low"],
        test["high"],
        metrics["balanced_accuracy"]["value"],
        metrics["log_loss"]["value"],
        time.monotonic() - started,
    )


def fit_peer(data: Path, peer: str, budget_s: int, scratch: Path) -> Outcome:
    """Runs a peer for as long as the budget allows. Raises RuntimeError with its output if it fails."""
    (script, *flags), has_epochs = PEERS[peer]
    folder = unpack(data, scratch)
    weights, size = scratch / "weights.safetensors", 128 if data.stem.startswith("cifar") else 224
    subprocess.run([sys.executable, "-c", SAVE_WEIGHTS, str(weights)], cwd=ROOT, check=True)
    command = [str(peers.PYTHON), str(peers.SCRIPTS / script), str(folder), str(weights), str(scratch / "peer.model")]
    command += ["--size", str(size), *flags]
    if has_epochs:
        started = time.monotonic()
        learned = run([*command, "--epochs", "1"])["learning_s"]
        imports_s = time.monotonic() - started - learned
        n_trained = 2 if peer == "fastai" else 1  # fastai first trains the head for an epoch
        n_epochs = max(1, int((budget_s - imports_s) / (learned / n_trained)) - n_trained + 1)
        command += ["--epochs", str(n_epochs)]
    started = time.monotonic()
    test = run(command)["test"]
    seconds = time.monotonic() - started
    held_out = next(folder / name for name in ("val", "test") if (folder / name).is_dir())
    low, high = wilson(test["accuracy"], sum(path.is_file() for path in held_out.rglob("*")))
    return Outcome(data.stem, peer, 0, "", test["accuracy"], low, high, test["balanced_accuracy"], test["log_loss"], seconds)


def run(command: Sequence[str]) -> dict[str, Any]:
    """The JSON object that a command prints as its last line. Raises RuntimeError with its output if it fails."""
    result = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr[-2000:]}")
    record: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    return record


def run_all(
    sets: Sequence[str], strategies: Sequence[str], tools: Sequence[str], budget_s: int, seeds: int
) -> Iterator[Outcome]:
    """One run after the other: two would share the processor, and so the budget."""
    for name in sets:
        data = DATA / f"{name}.zip"
        for strategy in strategies:
            for seed in range(seeds):
                log(f"{name}, {strategy}, seed {seed}")
                with tempfile.TemporaryDirectory(prefix="graft-accuracy-") as folder:
                    yield fit(data, strategy, budget_s, seed, Path(folder) / "run")
        for peer in tools:
            log(f"{name}, {peer}")
            with tempfile.TemporaryDirectory(prefix="graft-accuracy-") as folder:
                yield fit_peer(data, peer, budget_s, Path(folder))


def to_rows(outcomes: Sequence[Outcome]) -> list[tuple[str | float, ...]]:
    """A row for each set and strategy: means over the seeds, and the interval of the first."""
    rows: list[tuple[str | float, ...]] = []
    for key in dict.fromkeys((outcome.data, outcome.strategy) for outcome in outcomes):
        found = [outcome for outcome in outcomes if (outcome.data, outcome.strategy) == key]
        rows.append(
            (
                *key,
                ", ".join(sorted({outcome.kept for outcome in found})),
                f"{100 * mean(outcome.accuracy for outcome in found):.1f}",
                f"{100 * found[0].low:.1f} to {100 * found[0].high:.1f}",
                f"{100 * mean(outcome.balanced_accuracy for outcome in found):.1f}",
                mean(outcome.log_loss for outcome in found),
                mean(outcome.seconds for outcome in found),
            )
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sets", nargs="+", default=list(SETS), metavar="NAME", help=f"sets (default: {' '.join(SETS)})")
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), help="strategies (default: auto probe)")
    parser.add_argument("--peers", nargs="*", default=list(DEFAULT_PEERS), choices=PEERS, help="default: fastai sklearn")
    parser.add_argument("--budget", type=int, default=BUDGET_S, help=f"seconds of a run (default: {BUDGET_S})")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="runs of each (default: 1)")
    parser.add_argument("--json", action="store_true", help="print the record as JSON")
    arguments = parser.parse_args()
    started = time.monotonic()
    if arguments.peers:
        peers.check_installed()
    chosen = (arguments.sets, arguments.strategies, arguments.peers, arguments.budget, arguments.seeds)
    outcomes = list(run_all(*chosen))
    report = Report("accuracy", f"Accuracy within {arguments.budget} seconds")
    report.tables = [Table("test parts", COLUMNS, tuple(to_rows(outcomes)))]
    report.notes = [f"Seeds: {arguments.seeds}. Each accuracy is on a test part that no choice has used."]
    report.measured = {"runs": [vars(outcome) for outcome in outcomes]}
    report.seconds = time.monotonic() - started
    record: dict[str, Any] = report.to_dict()
    if chosen == (list(SETS), list(STRATEGIES), list(DEFAULT_PEERS), BUDGET_S, SEEDS):
        save(record, RESULTS)
    print(json.dumps(record) if arguments.json else to_markdown(record))


if __name__ == "__main__":
    main()

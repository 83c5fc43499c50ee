"""What `graft fit` makes of a time budget: accuracy, balanced accuracy and log-loss on the test parts of several sets.

    .venv/bin/python benchmarks/accuracy.py [--sets NAME...] [--strategies auto probe] [--budget 10m] [--seeds 1] [--json]

The sets are those of ../shared/data that have a test part, with default flags except that copies across the given parts are
allowed: they are part of these sets. Each strategy has the same budget. A run is `graft fit` as a user starts it, in a process
of its own; the features of a set are computed by its first run. By default it takes an hour, and writes
benchmarks/results/accuracy.json and accuracy.md.
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
from measuring.tables import Report, Table, log, to_markdown

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
RESULTS = Path(__file__).parent / "results"
SETS = ("hymenoptera", "flowers12", "trashnet", "emoji", "cifar10-6k")
STRATEGIES = ("auto", "probe")
BUDGET, SEEDS = "10m", 1
COLUMNS = ("set", "given", "kept", "accuracy, %", "95 % interval", "balanced, %", "log-loss", "seconds")


@dataclass(frozen=True)
class Outcome:
    """One run.

    Attributes:
        strategy: the one that was asked for.
        kept: the one of the package.
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


def fit(data: Path, strategy: str, budget: str, seed: int, out: Path) -> Outcome:
    """Runs `graft fit`. Raises RuntimeError with its output if it fails."""
    options = ["--strategy", strategy, "--seed", str(seed), "--allow-near-leaks", "--json", "--out", str(out)]
    if strategy != "probe":  # which needs no budget
        options += ["--budget", budget]
    command = [sys.executable, "-m", "graft", "fit", str(data), *options]
    started = time.monotonic()
    result = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr[-2000:]}")
    record = json.loads(result.stdout.strip().splitlines()[-1])
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


def run_all(sets: Sequence[str], strategies: Sequence[str], budget: str, seeds: int) -> Iterator[Outcome]:
    """One run after the other: two would share the processor, and so the budget."""
    for name in sets:
        for strategy in strategies:
            for seed in range(seeds):
                log(f"{name}, {strategy}, seed {seed}")
                with tempfile.TemporaryDirectory(prefix="graft-accuracy-") as folder:
                    yield fit(DATA / f"{name}.zip", strategy, budget, seed, Path(folder) / "run")


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
    parser.add_argument("--budget", default=BUDGET, help=f"of each strategy but probe (default: {BUDGET})")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="runs of each (default: 1)")
    parser.add_argument("--json", action="store_true", help="print the record as JSON")
    arguments = parser.parse_args()
    started = time.monotonic()
    outcomes = list(run_all(arguments.sets, arguments.strategies, arguments.budget, arguments.seeds))
    report = Report("accuracy", f"Accuracy within a budget of {arguments.budget}")
    report.tables = [Table("test parts", COLUMNS, tuple(to_rows(outcomes)))]
    report.notes = [f"Seeds: {arguments.seeds}. Each accuracy is on a test part that no choice has used."]
    report.measured = {"runs": [vars(outcome) for outcome in outcomes]}
    report.seconds = time.monotonic() - started
    record: dict[str, Any] = report.to_dict()
    defaults = (list(SETS), list(STRATEGIES), BUDGET, SEEDS)
    if (arguments.sets, arguments.strategies, arguments.budget, arguments.seeds) == defaults:
        save(record, RESULTS)
    print(json.dumps(record) if arguments.json else to_markdown(record))


if __name__ == "__main__":
    main()

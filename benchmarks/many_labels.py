"""Time of the steps between the features and the package, by number of labels.

    .venv/bin/python benchmarks/many_labels.py [--labels 100 300 1000] [--per-label 10] [--width 1280] [--json]

The features are simulated: one cluster of vectors per label, with a falling spectrum as in the features of a backbone. Three
fifths of the images are for training, one fifth each for validation and test. CPU seconds are reported beside wall-clock
seconds, which mean little on a shared machine. The target: the head of 10,000 images of 1,000 labels, with everything that
follows it, takes less than three minutes on two cores. The exit code is 1 if the largest number of labels takes longer.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from graft.service.inference.head import Head
from graft.service.inference.neighbors import NeighborIndex, l2_normalize
from graft.training.audit import label_errors
from graft.training.evaluation import calibration, metrics
from graft.training.evaluation.calibration import CalibrationSet
from graft.training.evaluation.learning_curve import learning_curve
from graft.training.evaluation.outliers import outlier_scores
from graft.training.evaluation.predictions import Predictions
from graft.training.features import linear_probe, regularization
from graft.training.features.head_trainer import CV_TOLERANCE

N_FOLDS, MAX_S = 3, 180.0

T = TypeVar("T")
Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass
class Stopwatch:
    """Seconds and CPU seconds of each step."""

    steps: dict[str, tuple[float, float]] = field(default_factory=dict)

    def time(self, step: str, work: Callable[[], T]) -> T:
        """Runs a step and records its time."""
        started, cpu_before = time.perf_counter(), _cpu_seconds()
        result = work()
        self.steps[step] = (time.perf_counter() - started, _cpu_seconds() - cpu_before)
        return result


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system


def simulate_features(n_labels: int, per_label: int, width: int, seed: int = 0) -> tuple[Floats, Labels]:
    """Features (N, D) in one cluster per label, and the labels (N,)."""
    random = np.random.default_rng(seed)
    spectrum = np.arange(1, width + 1, dtype=np.float32) ** -0.5
    spectrum /= np.sqrt((spectrum**2).mean())
    labels = np.repeat(np.arange(n_labels), per_label)
    centers = 0.5 * random.standard_normal((n_labels, width), np.float32)
    vectors = (centers[labels] + random.standard_normal((len(labels), width), np.float32)) * spectrum
    return np.maximum(vectors + np.float32(0.3), 0), labels


def measure(n_labels: int, per_label: int, width: int) -> tuple[Stopwatch, float]:
    """Runs every step on simulated features; returns the times and the test accuracy."""
    watch = Stopwatch()
    vectors, labels = simulate_features(n_labels, per_label, width)
    paths, names = [str(row) for row in range(len(labels))], tuple(f"label {number}" for number in range(n_labels))
    watch.time("label issues", lambda: label_errors.rank_labels(vectors, labels, paths, names))
    watch.time("outliers", lambda: label_errors.find_outliers(vectors, labels, paths))
    part = np.arange(len(labels)) % 5
    train, validation, both = part < 3, part == 3, part < 4
    losses = watch.time(
        "regularization", lambda: regularization.cross_validate(vectors[None, train], labels[train], N_FOLDS, seed=0)
    )
    best_C = regularization.one_percent_rule(losses)
    head = watch.time("head on train", lambda: linear_probe.fit(vectors[None, train], labels[train], best_C))
    final = watch.time(
        "head on train and validation", lambda: linear_probe.fit(vectors[None, both], labels[both], best_C, init=head)
    )

    def fit(subset: Floats, targets: Labels) -> Head:
        return linear_probe.fit(subset[None], targets, best_C, tolerance=CV_TOLERANCE)

    logits = head(vectors[validation])
    watch.time(
        "learning curve",
        lambda: learning_curve(vectors[train], labels[train], vectors[validation], labels[validation], fit, logits),
    )
    watch.time("calibration and metrics", lambda: _evaluate(head, final, vectors, labels, names))
    return watch, float((final(vectors[part == 4]).argmax(axis=1) == labels[part == 4]).mean())


def _evaluate(head: Head, final: Head, vectors: Floats, labels: Labels, names: tuple[str, ...]) -> None:
    """Calibrates on validation and computes every metric on test."""
    part = np.arange(len(labels)) % 5
    validation, test = (
        Predictions(
            model(vectors[part == number]),
            vectors[part == number],
            labels[part == number],
            np.arange((part == number).sum()),
        )
        for model, number in ((head, 3), (final, 4))
    )
    neighbors = NeighborIndex(l2_normalize(vectors[part < 3]), tuple((label,) for label in labels[part < 3].tolist()), ())
    temperature = calibration.temperature(validation.logits, validation.targets)
    held_out = CalibrationSet(validation, outlier_scores(neighbors, validation.vectors, 10), 10)
    calibrated = calibration.calibrate(held_out, temperature)
    metrics.evaluate(test, names, temperature, calibrated, neighbors)


def to_table(results: dict[int, tuple[Stopwatch, float]]) -> str:
    """One row per step, one column per number of labels: seconds (CPU seconds)."""
    counts = list(results)
    lines = ["| step | " + " | ".join(f"{count:,} labels" for count in counts) + " |", "|---" * (len(counts) + 1) + "|"]
    steps = list(results[counts[0]][0].steps)
    for step in steps:
        cells = (results[count][0].steps[step] for count in counts)
        lines.append(f"| {step} | " + " | ".join(f"{wall:.1f} s ({cpu:.1f})" for wall, cpu in cells) + " |")
    totals = (np.sum(list(watch.steps.values()), axis=0).tolist() for watch, _ in results.values())
    lines.append("| **all** | " + " | ".join(f"**{wall:.1f} s** ({cpu:.1f})" for wall, cpu in totals) + " |")
    return "\n".join([*lines, "| test accuracy | " + " | ".join(f"{accuracy:.1%}" for _, accuracy in results.values()) + " |"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--labels", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--per-label", type=int, default=10)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = {count: measure(count, arguments.per_label, arguments.width) for count in sorted(arguments.labels)}
    if arguments.json:
        print(json.dumps({count: watch.steps | {"accuracy": accuracy} for count, (watch, accuracy) in results.items()}))
    else:
        print(to_table(results))
    largest, _ = results[max(results)]
    return int(sum(wall for wall, _ in largest.steps.values()) > MAX_S)


if __name__ == "__main__":
    sys.exit(main())

"""Compares training runs: accuracy of each strategy and backbone with intervals, and paired differences. No training here."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graft.training.evaluation.confidence_intervals import clustered_proportion, percentile_interval
from graft.training.results import Estimate, format_points
from graft.training.runtime.spreadsheet import SpreadsheetWriter

N_RESAMPLES = 2_000


@dataclass(frozen=True)
class RunResult:
    """The result of one training run on the test images.

    Attributes:
        scores: by digest of the test image: 1 if predicted correctly, else 0; for multi-label data a score whose mean is mAP.
        seconds: training time, including feature extraction if the features were not cached.
        metric: name of the mean over the images.
    """

    strategy: str
    backbone: str
    seed: int
    seconds: float
    scores: dict[bytes, float] = field(repr=False)
    metric: str = "accuracy"

    @property
    def accuracy(self) -> float:
        return float(np.mean(list(self.scores.values())))


@dataclass(frozen=True)
class StrategySummary:
    """One strategy on one backbone, averaged over its seeds.

    Attributes:
        accuracy: mean over seeds; the interval is over images, with the predictions of all seeds for an image kept together.
        by_seed: accuracy of each run.
        seconds: median training time of the runs.
    """

    strategy: str
    backbone: str
    accuracy: Estimate
    by_seed: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """All strategies, best first, and the paired differences between them with intervals."""

    rows: tuple[StrategySummary, ...]
    differences: tuple[tuple[StrategySummary, StrategySummary, Estimate], ...]
    metric: str = "accuracy"


def compare_runs(runs: Sequence[RunResult], seed: int = 0) -> Comparison:
    """Computes means, intervals and paired differences of all (strategy, backbone) pairs.

    An image that several seeds were tested on is one cluster, so that more seeds do not count as more images: in the Wilson
    interval of an accuracy, and in the bootstrap of the differences (Field & Welsh 2007).
    """
    pairs = list(dict.fromkeys((run.strategy, run.backbone) for run in runs))
    images = sorted({digest for run in runs for digest in run.scores})
    weights = np.random.default_rng(seed).multinomial(len(images), np.full(len(images), 1 / len(images)), size=N_RESAMPLES)
    runs_of = {pair: [run for run in runs if (run.strategy, run.backbone) == pair] for pair in pairs}
    totals = {pair: _per_image_totals(pair_runs, images) for pair, pair_runs in runs_of.items()}
    samples = {pair: (weights @ total) / np.maximum(weights @ count, 1e-9) for pair, (total, count) in totals.items()}
    summaries = []
    for pair, pair_runs in runs_of.items():
        total, count = totals[pair]
        by_seed = tuple(run.accuracy for run in pair_runs)
        seconds = float(np.median([run.seconds for run in pair_runs]))
        estimate = (
            clustered_proportion(total[count > 0], count[count > 0])
            if runs[0].metric == "accuracy"
            else percentile_interval(float(total.sum() / count.sum()), samples[pair])
        )
        summaries.append(StrategySummary(*pair, estimate, by_seed, seconds))
    summaries.sort(key=lambda summary: -summary.accuracy.value)
    return Comparison(tuple(summaries), tuple(_differences(summaries, samples)), runs[0].metric)


def _per_image_totals(runs: Iterable[RunResult], images: Sequence[bytes]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each image the sum of its scores and the number of runs that predicted it: two float64 (M,)."""
    index_of = {digest: index for index, digest in enumerate(images)}
    total, count = np.zeros(len(images)), np.zeros(len(images))
    for run in runs:
        for digest, value in run.scores.items():
            total[index_of[digest]] += value
            count[index_of[digest]] += 1
    return total, count


def _differences(
    summaries: Sequence[StrategySummary], samples: dict[tuple[str, str], NDArray[np.float64]]
) -> Iterable[tuple[StrategySummary, StrategySummary, Estimate]]:
    for better, worse in combinations(summaries, 2):
        gaps = samples[better.strategy, better.backbone] - samples[worse.strategy, worse.backbone]
        yield better, worse, percentile_interval(better.accuracy.value - worse.accuracy.value, gaps)


def write_csv(runs: Sequence[RunResult], path: Path) -> None:
    """Writes one CSV row per run."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = SpreadsheetWriter(file)
        writer.write("strategy", "backbone", "seed", "accuracy", "n_test", "seconds")
        for run in runs:
            writer.write(run.strategy, run.backbone, run.seed, f"{run.accuracy:.6f}", len(run.scores), f"{run.seconds:.2f}")


def differences_text(comparison: Comparison) -> str:
    """For each strategy but the best: by how much the best one beats it, and whether that is significant."""
    lines = []
    for better, worse, gap in comparison.differences:
        if better is comparison.rows[0]:
            verdict = "beats" if gap.low > 0 else "is not shown to beat"
            difference = format_points(gap.value, gap.low, gap.high)
            lines.append(f"{_display_name(better, comparison)} {verdict} {_display_name(worse, comparison)}: {difference}")
    return "\n".join(lines)


def _display_name(summary: StrategySummary, comparison: Comparison) -> str:
    several_backbones = len({other.backbone for other in comparison.rows}) > 1
    return f"{summary.strategy} on {summary.backbone}" if several_backbones else summary.strategy


def grid(strategies: Sequence[str], backbones: Sequence[str], n_seeds: int) -> list[tuple[str, int, str]]:
    """The runs of a comparison as (backbone, seed, strategy); runs that share features are adjacent."""
    return list(product(backbones, range(n_seeds), strategies))

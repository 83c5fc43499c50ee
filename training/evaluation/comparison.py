"""Compares training runs: accuracy of each strategy and backbone with intervals, and paired differences. No training here."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graft.training.evaluation.confidence_intervals import clustered_proportion, percentile_interval
from graft.training.results import Estimate, format_points
from graft.training.runtime.spreadsheet import SpreadsheetWriter

N_RESAMPLES = 2_000


Pair = tuple[str, str]  # strategy and backbone
Totals = tuple[NDArray[np.float64], NDArray[np.float64]]  # sum of the scores and number of predictions of each group


@dataclass(frozen=True)
class RunResult:
    """The result of one training run on the test images.

    Attributes:
        scores: by digest of the test image: 1 if predicted correctly, else 0; or values whose mean is another metric.
        seconds: training time, including feature extraction if the features were not cached.
        metric: name of the mean over the images.
        groups: the group of each test image, by digest; an image without one is its own.
        latency_s: median time of one image in the engine that serves the model on this machine's CPU, in seconds.
    """

    strategy: str
    backbone: str
    seed: int
    seconds: float
    scores: dict[bytes, float] = field(repr=False)
    metric: str = "accuracy"
    groups: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)
    latency_s: float = math.nan

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
        latency_s: median of the runs' latencies, in seconds.
    """

    strategy: str
    backbone: str
    accuracy: Estimate
    by_seed: tuple[float, ...]
    seconds: float
    latency_s: float = math.nan

    @property
    def latency_text(self) -> str:
        """The latency in milliseconds; a dash if it was not measured."""
        return "–" if math.isnan(self.latency_s) else f"{1000 * self.latency_s:.1f}"


@dataclass(frozen=True)
class Comparison:
    """All strategies, best first, and the paired differences between them with intervals.

    Attributes:
        corrected: the score of the best row without what it owes to having been chosen as the largest; None for one row.
    """

    rows: tuple[StrategySummary, ...]
    differences: tuple[tuple[StrategySummary, StrategySummary, Estimate], ...]
    metric: str = "accuracy"
    corrected: Estimate | None = None

    @property
    def correction_text(self) -> str:
        """That the largest of several scores is too high, and by how much, as a sentence; "" for one row."""
        if self.corrected is None:
            return ""
        best, corrected = self.rows[0], self.corrected
        interval = f"{corrected.low:.1%} to {corrected.high:.1%}"
        return (
            f"the largest of {len(self.rows)} scores is partly luck: expect {corrected.value:.1%} ({interval})"
            f" of {_display_name(best, self)} on new images, not {best.accuracy.value:.1%}"
        )


def compare_runs(runs: Sequence[RunResult], seed: int = 0) -> Comparison:
    """Computes means, intervals and paired differences of all (strategy, backbone) pairs.

    An image that several seeds were tested on is one cluster, so that more seeds do not count as more images: in the Wilson
    interval of an accuracy, and in the bootstrap of the differences (Field & Welsh 2007). So is a group of images.
    """
    pairs = list(dict.fromkeys((run.strategy, run.backbone) for run in runs))
    groups = sorted({run.groups.get(digest, digest) for run in runs for digest in run.scores})
    weights = np.random.default_rng(seed).multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=N_RESAMPLES)
    runs_of = {pair: [run for run in runs if (run.strategy, run.backbone) == pair] for pair in pairs}
    totals = {pair: _per_group_totals(pair_runs, groups) for pair, pair_runs in runs_of.items()}
    samples = {pair: (weights @ total) / np.maximum(weights @ count, 1e-9) for pair, (total, count) in totals.items()}
    summaries = []
    for pair, pair_runs in runs_of.items():
        total, count = totals[pair]
        by_seed = tuple(run.accuracy for run in pair_runs)
        seconds, latency_s = (float(np.median([getattr(run, name) for run in pair_runs])) for name in ("seconds", "latency_s"))
        estimate = (
            clustered_proportion(total[count > 0], count[count > 0])
            if runs[0].metric == "accuracy"
            else percentile_interval(float(total.sum() / count.sum()), samples[pair])
        )
        summaries.append(StrategySummary(*pair, estimate, by_seed, seconds, latency_s))
    summaries.sort(key=lambda summary: -summary.accuracy.value)
    corrected = _correct_best(summaries[0].accuracy, weights, totals, samples) if len(summaries) > 1 else None
    return Comparison(tuple(summaries), tuple(_differences(summaries, samples)), runs[0].metric, corrected)


def _correct_best(
    best: Estimate, weights: NDArray[np.int64], totals: dict[Pair, Totals], samples: dict[Pair, NDArray[np.float64]]
) -> Estimate:
    """The best score, corrected for the choice of the largest (the winner's curse; Tibshirani & Tibshirani 2009).

    In each bootstrap sample the best pair is chosen by the images drawn, and scored on those that were not (out of bag), which
    had no part in the choice. Where one pair always wins, nothing changes. The interval is moved by the correction.

    Args:
        weights: how often each of M groups was drawn, (N_RESAMPLES, M).
        totals, samples: of each pair, its scores and counts by group, and its scores in the bootstrap samples.
    """
    left_out = (weights == 0).astype(np.float64)
    out_of_bag = np.stack([(left_out @ total) / np.maximum(left_out @ count, 1e-9) for total, count in totals.values()])
    scored = np.stack([left_out @ count for _, count in totals.values()]).min(axis=0) > 0
    if not scored.any():  # a single group
        return best
    chosen = np.stack(list(samples.values())).argmax(axis=0)
    value = min(best.value, float(out_of_bag[chosen, np.arange(len(chosen))][scored].mean()))
    moved = value - best.value
    return Estimate(value=value, low=max(0.0, best.low + moved), high=best.high + moved)


def _per_group_totals(runs: Iterable[RunResult], groups: Sequence[bytes]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each group the sum of its images' scores and the number of predictions, over all runs: two float64 (M,)."""
    index_of = {group: index for index, group in enumerate(groups)}
    total, count = np.zeros(len(groups)), np.zeros(len(groups))
    for run in runs:
        for digest, value in run.scores.items():
            index = index_of[run.groups.get(digest, digest)]
            total[index] += value
            count[index] += 1
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
        writer.write("strategy", "backbone", "seed", "accuracy", "n_test", "seconds", "latency_ms")
        for run in runs:
            accuracy, latency_ms = f"{run.accuracy:.6f}", f"{1000 * run.latency_s:.2f}"
            writer.write(run.strategy, run.backbone, run.seed, accuracy, len(run.scores), f"{run.seconds:.2f}", latency_ms)


def differences_text(comparison: Comparison) -> str:
    """For each strategy but the best: by how much the best one beats it, and whether that is significant; then its score."""
    lines = []
    for better, worse, gap in comparison.differences:
        if better is comparison.rows[0]:
            verdict = "beats" if gap.low > 0 else "is not shown to beat"
            difference = format_points(gap.value, gap.low, gap.high)
            lines.append(f"{_display_name(better, comparison)} {verdict} {_display_name(worse, comparison)}: {difference}")
    return "\n".join(filter(None, [*lines, comparison.correction_text]))


def _display_name(summary: StrategySummary, comparison: Comparison) -> str:
    several_backbones = len({other.backbone for other in comparison.rows}) > 1
    return f"{summary.strategy} on {summary.backbone}" if several_backbones else summary.strategy


def grid(strategies: Sequence[str], backbones: Sequence[str], n_seeds: int) -> list[tuple[str, int, str]]:
    """The runs of a comparison as (backbone, seed, strategy); runs that share features are adjacent."""
    return list(product(backbones, range(n_seeds), strategies))

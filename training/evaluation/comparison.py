"""The table of the transfer-learning lectures, for a person's own images: strategies against each other, with intervals."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graft.training.evaluation.confidence_intervals import between
from graft.training.results import Estimate, points

DRAWS = 2_000


@dataclass(frozen=True)
class Cell:
    """One network, learned once: what it made of the test images.

    Attributes:
        right: by test image's digest, whether it was answered right; for several labels an image, how well, in [0, 1].
        seconds: that learning took, features included if they were not cached.
        measure: what the mean over the images is called.
    """

    strategy: str
    backbone: str
    seed: int
    seconds: float
    right: dict[bytes, float] = field(repr=False)
    measure: str = "accuracy"

    @property
    def accuracy(self) -> float:
        return float(np.mean(list(self.right.values())))


@dataclass(frozen=True)
class Row:
    """One strategy on one backbone, over all its seeds.

    Attributes:
        accuracy: mean over seeds; the interval is over images, each image's answers of all seeds kept together.
        by_seed: the single runs.
        seconds: median of the runs.
    """

    strategy: str
    backbone: str
    accuracy: Estimate
    by_seed: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class Table:
    """All rows, best first, and which differences between them are beyond chance."""

    rows: tuple[Row, ...]
    differences: tuple[tuple[Row, Row, Estimate], ...]
    measure: str = "accuracy"


def table(cells: Sequence[Cell], seed: int = 0) -> Table:
    """Means, intervals and paired differences of all (strategy, backbone) pairs.

    A cluster bootstrap over images (Field & Welsh 2007): an image that several seeds were tested on is drawn once, with all
    its answers, so that seeds do not pass for images.
    """
    pairs = list(dict.fromkeys((cell.strategy, cell.backbone) for cell in cells))
    images = sorted({digest for cell in cells for digest in cell.right})
    draws = np.random.default_rng(seed).multinomial(len(images), np.full(len(images), 1 / len(images)), size=DRAWS)
    sums = {pair: _sums([cell for cell in cells if (cell.strategy, cell.backbone) == pair], images) for pair in pairs}
    drawn = {pair: (draws @ right) / np.maximum(draws @ count, 1e-9) for pair, (right, count) in sums.items()}
    rows = []
    for pair in pairs:
        own = [cell for cell in cells if (cell.strategy, cell.backbone) == pair]
        right, count = sums[pair]
        by_seed = tuple(cell.accuracy for cell in own)
        seconds = float(np.median([cell.seconds for cell in own]))
        rows.append(Row(*pair, between(float(right.sum() / count.sum()), drawn[pair]), by_seed, seconds))
    rows.sort(key=lambda row: -row.accuracy.value)
    return Table(tuple(rows), tuple(_differences(rows, drawn)), cells[0].measure)


def _sums(cells: Iterable[Cell], images: Sequence[bytes]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each image, how often it was answered right and how often it was asked about: two float64 (M,)."""
    row = {digest: index for index, digest in enumerate(images)}
    right, count = np.zeros(len(images)), np.zeros(len(images))
    for cell in cells:
        for digest, value in cell.right.items():
            right[row[digest]] += value
            count[row[digest]] += 1
    return right, count


def _differences(rows: Sequence[Row], drawn: dict[tuple[str, str], NDArray[np.float64]]) -> Iterable[tuple[Row, Row, Estimate]]:
    for better, worse in combinations(rows, 2):
        draws = drawn[better.strategy, better.backbone] - drawn[worse.strategy, worse.backbone]
        yield better, worse, between(better.accuracy.value - worse.accuracy.value, draws)


def save(cells: Sequence[Cell], path: Path) -> None:
    """Every run as a line of CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["strategy", "backbone", "seed", "accuracy", "n_test", "seconds"])
        for cell in cells:
            row = [cell.strategy, cell.backbone, cell.seed, f"{cell.accuracy:.6f}", len(cell.right), f"{cell.seconds:.2f}"]
            writer.writerow(row)


def text(found: Table) -> str:
    """The table for a terminal."""
    widths = [max(len(row.strategy) for row in found.rows), max(len(row.backbone) for row in found.rows)]
    lines = [f"{'strategy':{widths[0]}}  {'backbone':{widths[1]}}  {found.measure:>8}  95 % interval   by seed"]
    for row in found.rows:
        seeds = " ".join(f"{100 * value:.1f}" for value in row.by_seed)
        interval = f"{100 * row.accuracy.low:.1f} to {100 * row.accuracy.high:.1f}"
        start = f"{row.strategy:{widths[0]}}  {row.backbone:{widths[1]}}"
        lines.append(f"{start}  {100 * row.accuracy.value:8.1f}  {interval:14}  {seeds}  ({row.seconds:.0f} s)")
    best = found.rows[0]
    for better, worse, gap in found.differences:
        if better is best:
            verdict = "beats" if gap.low > 0 else "is not shown to beat"
            numbers = points(gap.value, gap.low, gap.high)
            lines.append(f"{_named(better, found)} {verdict} {_named(worse, found)}: {numbers}")
    return "\n".join(lines)


def _named(row: Row, found: Table) -> str:
    several = len({other.backbone for other in found.rows}) > 1
    return f"{row.strategy} on {row.backbone}" if several else row.strategy


def grid(strategies: Sequence[str], backbones: Sequence[str], n_seeds: int) -> list[tuple[str, int, str]]:
    """What to run, as (backbone, seed, strategy): everything that shares features side by side."""
    return list(product(backbones, range(n_seeds), strategies))

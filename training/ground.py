"""A path -> what every way to learn stands on: data that were checked, splits, a backbone, and what it sees in each image."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from service.preprocess import ImageError, dimensions
from training import backbones, graphs, rungs
from training.audit import settled
from training.dataset import Dataset, DatasetError, describe, digested, scan
from training.features import Features
from training.graphs import Exported
from training.progress import say
from training.recipe import Recipe
from training.splits import Splits, split


@dataclass(frozen=True)
class Ground:
    """What every rung stands on.

    Attributes:
        run: the folder that a rung may write into.
        left_out: why, by path, for the files that nothing is learned from and nothing is judged by.
    """

    dataset: Dataset
    splits: Splits
    exported: Exported
    features: Features
    choices: Recipe
    run: Path
    left_out: dict[str, str]


def prepare(data: Path, run: Path, choices: Recipe) -> Ground:
    """Reads, checks and splits the data, and makes one pass over every image. Writes nothing but the cache.

    Raises:
        BackboneError, DatasetError: with what to do about it.
    """
    choice = backbones.choose(choices.backbone, choices.weights)
    dataset = digested(scan(data))
    say(describe(dataset))
    dataset, dropped = settled(dataset, choices.drop_duplicates)
    splits = split(dataset, choices.seed)
    exported = graphs.export(choice, choices.input_size, _median_side(dataset, splits), choices.fit)
    features, splits, skipped = rungs.readable(dataset, splits, exported, choices)
    say(_plan(splits, exported, features.computed))
    left_out = {path: "duplicate" for finding in dropped for path in finding.drop} | skipped
    return Ground(dataset, splits, exported, features, choices, run, left_out)


def _median_side(dataset: Dataset, splits: Splits) -> int:
    """The typical shorter side, in pixels, of the images to learn from."""
    sides = []
    for sample in splits.train[:101]:
        with suppress(ImageError):  # the pass over all images will name it
            sides.append(min(dimensions(dataset.read(sample))))
    if not sides:
        raise DatasetError("None of the first images can be read. graft fit reads JPEG, PNG, WebP, GIF and BMP.")
    return sorted(sides)[len(sides) // 2]


def _plan(splits: Splits, exported: Exported, computed: int) -> str:
    counts = ", ".join(f"{len(samples):,} {name}" for name, samples in splits.named().items())
    cached = "" if computed else "; features were cached"
    return f"{counts}; {exported.backbone.name} at {exported.preprocessing.crop} pixels{cached}"

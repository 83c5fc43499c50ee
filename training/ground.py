"""A path -> what every way to learn stands on: data that were checked, splits, a backbone, and what it sees in each image."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training import backbones, graphs, rungs
from training.audit import audit, settled, shortened
from training.dataset import Dataset, DatasetError, describe, scan
from training.features import Features
from training.findings import Finding
from training.folder import Folder
from training.graphs import Exported
from training.looks import Looks, examine
from training.progress import say
from training.recipe import Recipe
from training.splits import Splits, grouped, split


@dataclass(frozen=True)
class Ground:
    """What every rung stands on.

    Attributes:
        folder: what a rung may write into, and what was decided before.
        findings: all that the audit found.
        left_out: why, by path, for the files that nothing is learned from and nothing is judged by.
    """

    dataset: Dataset
    splits: Splits
    exported: Exported
    features: Features
    choices: Recipe
    folder: Folder
    findings: tuple[Finding, ...]
    left_out: dict[str, str]


def prepare(data: Path, folder: Folder, choices: Recipe) -> Ground:
    """Reads, checks and splits the data, makes one pass over every image, and records which image went where.

    Raises:
        BackboneError, DatasetError: with what to do about it.
        RunDiffers: if the folder has a record, and the data are not as they were.
    """
    choice = backbones.choose(choices.backbone, choices.weights)
    dataset = scan(data, choices.group_by, choices.follow_links)
    say(describe(dataset))
    if dataset.multilabel:
        raise DatasetError(
            f"{data} gives an image several labels; learning from that is not supported yet, one label an image is."
        )
    dataset, looks = examine(dataset)
    findings = audit(dataset, looks)
    side = _median_side(looks)
    dataset, left_out = settled(dataset, findings, choices.skip_bad, choices.drop_duplicates)
    for finding in shortened([finding for finding in findings if finding.severity == "warning"]):
        say(f"warning: {finding.text}")
    splits = folder.splits(dataset) or split(grouped(dataset, looks.alike), choices.seed)
    exported = graphs.export(choice, choices.input_size, side, choices.fit)
    folder.agree(_facts(dataset, exported))
    features, splits, skipped = rungs.readable(dataset, splits, exported, choices)
    folder.record(dataset, splits, left_out | skipped)
    say(_plan(splits, exported, features.computed))
    return Ground(dataset, splits, exported, features, choices, folder, tuple(findings), left_out | skipped)


def _facts(dataset: Dataset, exported: Exported) -> dict[str, object]:
    """What must not change while a run is interrupted, beside its recipe and its images."""
    return {
        "labels": dataset.labels,
        "backbone": exported.backbone.name,
        "weights": exported.backbone.sha256,
        "input size": exported.preprocessing.crop,
    }


def _median_side(looks: Looks) -> int:
    """The typical shorter side, in pixels, of the images that can be used."""
    usable = looks.columns[looks.usable()]
    if not len(usable):
        raise DatasetError("None of the images can be read. graft fit reads JPEG, PNG, WebP, GIF and BMP.")
    return int(np.median(np.minimum(usable["width"], usable["height"])))


def _plan(splits: Splits, exported: Exported, computed: int) -> str:
    counts = ", ".join(f"{len(samples):,} {name}" for name, samples in splits.named().items())
    cached = "" if computed else "; features were cached"
    return f"{counts}; {exported.backbone.name} at {exported.preprocessing.crop} pixels{cached}"

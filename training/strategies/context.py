"""A path -> what every way to learn stands on: data that were checked, splits, a backbone, and what it sees in each image."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from graft.service.inference.devices import cuda_devices
from graft.training.audit import label_errors as suspects
from graft.training.audit.data_audit import audit, settled, shortened
from graft.training.audit.image_scan import examine, median_side, sizes
from graft.training.backbones import onnx_cache, registry
from graft.training.backbones.onnx_cache import Exported
from graft.training.config import hyperparameters
from graft.training.config.recipe import Recipe
from graft.training.data.cross_validation import Targets
from graft.training.data.dataset import Dataset, DatasetError, Sample, describe, scan
from graft.training.data.findings import Finding, Suspect
from graft.training.data.splits import FEWEST, Splits, grouped, split
from graft.training.evaluation import calibration
from graft.training.features.extraction import Features, Passes, View, extract, on_cpu
from graft.training.features.feature_arrays import Rows
from graft.training.runs.run_folder import Folder
from graft.training.runtime.progress import say

MOST_TOLD = 3  # warnings of a kind; the report has the rest


@dataclass(frozen=True)
class Audited:
    """What the audit said.

    Attributes:
        findings: all of them.
        suspects: the images whose labels are probably wrong, the most certain first.
        left_out: why, by path, for the files that nothing is learned from and nothing is judged by.
        sizes: of the images, in words.
    """

    findings: tuple[Finding, ...] = ()
    suspects: tuple[Suspect, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    sizes: str = ""


@dataclass(frozen=True)
class Ground:
    """What every rung stands on.

    Attributes:
        folder: what a rung may write into, and what was decided before.
        audited: what is known of the data beside the samples.
    """

    dataset: Dataset
    splits: Splits
    exported: Exported
    features: Features
    choices: Recipe
    folder: Folder
    audited: Audited = Audited()

    @property
    def near(self) -> tuple[Sample, ...]:
        """The training images that a package keeps, to compare new ones with."""
        return tuple(calibration.chosen_neighbours(self.splits.train, self.exported.backbone.width))

    def targets(self, samples: Sequence[Sample]) -> Targets:
        """What is true of each image: int64 (N,), or bool (N, C) where images may have several labels."""
        return self.dataset.targets(samples)

    def seen(self, samples: Sequence[Sample]) -> Rows:
        """All that the backbone saw in each image, and in its mirror image if that was looked at: (V, N, W), still unread."""
        # Not asked of the recipe again: files that were left out since may have moved the answer.
        mirrored = View(self.splits.train[0], mirrored=True).key in self.features.rows
        views = (False, True) if mirrored else (False,)
        places = [self.features.rows_of(samples, mirror).places for mirror in views]
        return Rows(self.features.seen, np.stack(places))


def prepare(data: Path, folder: Folder, choices: Recipe) -> Ground:
    """Reads, checks and splits the data, makes one pass over every image, and records which image went where.

    Raises:
        BackboneError, DatasetError: with what to do about it.
        RunDiffers: if the folder has a record, and the data are not as they were.
    """
    choice = registry.choose(choices.backbone, choices.weights)
    dataset = scan(data, choices.group_by, choices.follow_links)
    say(describe(dataset))
    dataset, looks = examine(dataset)
    findings = audit(dataset, looks)
    side = median_side(looks)
    dataset, left_out = settled(dataset, findings, choices.skip_bad, choices.drop_duplicates)
    _warn(findings)
    splits = folder.splits(dataset) or split(grouped(dataset, looks.alike), choices.seed)
    exported = onnx_cache.export(choice, choices.input_size, side, choices.fit)
    folder.agree(_facts(dataset, exported))
    features, splits, skipped = readable(dataset, splits, exported, choices)
    folder.record(dataset, splits, left_out | skipped)
    say(_plan(splits, exported, features.computed))
    samples = [sample for part in splits.named().values() for sample in part]
    wrong, strange = suspects.look(dataset, samples, features.rows_of(samples))
    _warn(doubts := suspects.findings(wrong, strange))
    found = Audited((*findings, *doubts), tuple(wrong), left_out | skipped, sizes(looks))
    return Ground(dataset, splits, exported, features, choices, folder, found)


def _warn(findings: Sequence[Finding]) -> None:
    for finding in shortened([finding for finding in findings if finding.severity == "warning"], MOST_TOLD):
        say(f"warning: {finding.text}")


def readable(dataset: Dataset, splits: Splits, exported: Exported, choices: Recipe) -> tuple[Features, Splits, dict[str, str]]:
    """One pass over every image: the features, and the splits without the files that are no images.

    Raises:
        DatasetError: if files are unreadable and nobody allowed to skip them, or more than 5 % are.
    """
    views = [View(sample) for samples in splits.named().values() for sample in samples]
    if hyperparameters.mirrored(choices.flips, len(splits.train)):
        views += [View(sample, mirrored=True) for sample in (*splits.train, *splits.validation)]
    features = extract(dataset, views, exported, _passes(choices))
    bad = features.unreadable
    if bad and (not choices.skip_bad or len(bad) > 0.05 * len(dataset.samples)):
        shown = "\n".join(f"  {path}: {reason}" for path, reason in sorted(bad.items())[:10])
        way = "That is too many to skip." if choices.skip_bad else "Mend or remove them, or leave them out with --skip-bad."
        raise DatasetError(f"{len(bad)} of {len(dataset.samples):,} files cannot be used:\n{shown}\n{way}")
    kept = [tuple(sample for sample in part if sample.path not in bad) for part in splits.named().values()]
    splits = Splits(*kept)
    counts = zip(dataset.labels, dataset.counts(splits.train), dataset.counts(splits.validation), strict=True)
    for name, n_train, n_validation in counts:
        if n_train < FEWEST or n_validation == 0:
            raise DatasetError(f"Without its unreadable files, the label {name!r} has too few images: {n_train} to learn from.")
    return features, splits, bad


def on_gpu(choices: Recipe) -> bool:
    """Whether a recipe means CUDA on this machine."""
    return choices.accelerator == "gpu" or (choices.accelerator == "auto" and cuda_devices() > 0)


def _passes(choices: Recipe) -> Passes:
    if not on_gpu(choices):
        return on_cpu
    from graft.training.features.lightning_extractor import passes

    return passes


def _facts(dataset: Dataset, exported: Exported) -> dict[str, object]:
    """What must not change while a run is interrupted, beside its recipe and its images."""
    return {
        "labels": dataset.labels,
        "backbone": exported.backbone.name,
        "weights": exported.backbone.sha256,
        "input size": exported.preprocessing.crop,
    }


def _plan(splits: Splits, exported: Exported, computed: int) -> str:
    counts = ", ".join(f"{len(samples):,} {name}" for name, samples in splits.named().items())
    cached = "" if computed else "; features were cached"
    return f"{counts}; {exported.backbone.name} at {exported.preprocessing.crop} pixels{cached}"

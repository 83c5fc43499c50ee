"""Prepares what every strategy needs: the audited dataset, its splits, an exported backbone and the extracted features."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from graft.service.inference.devices import cuda_devices
from graft.training.audit import label_errors
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

MOST_TOLD = 3  # warnings of each kind in the log; the report lists all


@dataclass(frozen=True)
class Audited:
    """Result of the data audit.

    Attributes:
        findings: all issues.
        label_issues: images with a probably wrong label, most certain first.
        excluded: excluded files and the reason, by path; they are in no split.
        image_sizes: summary of the image sizes, as text.
    """

    findings: tuple[Finding, ...] = ()
    suspects: tuple[Suspect, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    sizes: str = ""


@dataclass(frozen=True)
class Ground:
    """Inputs shared by all strategies.

    Attributes:
        folder: the run folder; it stores decisions, so that a resumed run repeats them.
        audit: result of the data audit.
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
        """The training images stored in a package as references for similarity search and outlier detection."""
        return tuple(calibration.chosen_neighbours(self.splits.train, self.exported.backbone.width))

    def targets(self, samples: Sequence[Sample]) -> Targets:
        """Ground-truth labels: int64 (N,), or bool (N, C) for multi-label data."""
        return self.dataset.targets(samples)

    def seen(self, samples: Sequence[Sample]) -> Rows:
        """All features of the samples and, if extracted, of their mirror images: (V, N, W), not loaded yet."""
        # Read from the features, not from the recipe: files excluded since then may have changed the recipe's answer.
        has_mirrored = View(self.splits.train[0], mirrored=True).key in self.features.rows
        views = (False, True) if has_mirrored else (False,)
        indices = [self.features.rows_of(samples, mirrored).places for mirrored in views]
        return Rows(self.features.seen, np.stack(indices))


def prepare(data: Path, folder: Folder, choices: Recipe) -> Ground:
    """Scans, audits and splits the data, extracts features of every image, and records the splits in the run folder.

    Raises:
        BackboneError, DatasetError: with what to do about it.
        RunMismatchError: if the run folder was created from different data.
    """
    spec = registry.choose(choices.backbone, choices.weights)
    dataset = scan(data, choices.group_by, choices.follow_links)
    say(describe(dataset))
    dataset, scan_table = examine(dataset)
    findings = audit(dataset, scan_table)
    side = median_side(scan_table)
    dataset, excluded = settled(dataset, findings, choices.skip_bad, choices.drop_duplicates)
    _warn(findings)
    splits = folder.splits(dataset) or split(grouped(dataset, scan_table.alike), choices.seed)
    exported = onnx_cache.export(spec, choices.input_size, side, choices.fit)
    folder.agree(_facts(dataset, exported))
    features, splits, unreadable = readable(dataset, splits, exported, choices)
    folder.record(dataset, splits, excluded | unreadable)
    say(_plan(splits, exported, features.computed))
    samples = [sample for split_samples in splits.named().values() for sample in split_samples]
    label_issues, outliers = label_errors.look(dataset, samples, features.rows_of(samples))
    _warn(feature_findings := label_errors.findings(label_issues, outliers))
    audit_result = Audited((*findings, *feature_findings), tuple(label_issues), excluded | unreadable, sizes(scan_table))
    return Ground(dataset, splits, exported, features, choices, folder, audit_result)


def _warn(findings: Sequence[Finding]) -> None:
    for finding in shortened([finding for finding in findings if finding.severity == "warning"], MOST_TOLD):
        say(f"warning: {finding.text}")


def readable(dataset: Dataset, splits: Splits, exported: Exported, choices: Recipe) -> tuple[Features, Splits, dict[str, str]]:
    """Extracts the features of every image; returns them, the splits without unreadable files, and those files' errors.

    Raises:
        DatasetError: if files are unreadable and `skip_bad` is off, or if more than 5 % are unreadable.
    """
    views = [View(sample) for samples in splits.named().values() for sample in samples]
    if hyperparameters.mirrored(choices.flips, len(splits.train)):
        views += [View(sample, mirrored=True) for sample in (*splits.train, *splits.validation)]
    features = extract(dataset, views, exported, _passes(choices))
    unreadable = features.unreadable
    if unreadable and (not choices.skip_bad or len(unreadable) > 0.05 * len(dataset.samples)):
        lines = "\n".join(f"  {path}: {reason}" for path, reason in sorted(unreadable.items())[:10])
        remedy = (
            "That is too many to exclude." if choices.skip_bad else "Repair or remove them, or exclude them with --skip-bad."
        )
        raise DatasetError(f"{len(unreadable)} of {len(dataset.samples):,} files cannot be used:\n{lines}\n{remedy}")
    remaining = [tuple(sample for sample in samples if sample.path not in unreadable) for samples in splits.named().values()]
    splits = Splits(*remaining)
    counts = zip(dataset.labels, dataset.counts(splits.train), dataset.counts(splits.validation), strict=True)
    for label, n_train, n_validation in counts:
        if n_train < FEWEST or n_validation == 0:
            raise DatasetError(
                f"Without its unreadable files, the label {label!r} has too few images:"
                f" {n_train} for training, {n_validation} for validation."
            )
    return features, splits, unreadable


def on_gpu(choices: Recipe) -> bool:
    """Whether the recipe's accelerator resolves to CUDA on this machine."""
    return choices.accelerator == "gpu" or (choices.accelerator == "auto" and cuda_devices() > 0)


def _passes(choices: Recipe) -> Passes:
    if not on_gpu(choices):
        return on_cpu
    from graft.training.features.lightning_extractor import passes

    return passes


def _facts(dataset: Dataset, exported: Exported) -> dict[str, object]:
    """What must be the same when a run is resumed, besides its recipe and its images."""
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

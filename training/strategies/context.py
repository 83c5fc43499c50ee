"""Prepares what every strategy needs: the audited dataset, its splits, an exported backbone and the extracted features."""

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graft.service.inference.devices import Device, resolve_device
from graft.training.audit import label_errors
from graft.training.audit.data_audit import (
    GROUP_KINDS,
    MAX_UNUSABLE_FRACTION,
    apply_exclusions,
    read_and_audit,
    truncate_findings,
)
from graft.training.audit.image_groups import BURST_KINDS, find_groups
from graft.training.audit.image_scan import ScanTable, describe_sizes, median_side
from graft.training.backbones import onnx_cache, registry
from graft.training.backbones.onnx_cache import ExportedBackbone
from graft.training.config import finetune_config, hyperparameters
from graft.training.config.recipe import Recipe
from graft.training.data.cross_validation import Targets
from graft.training.data.dataset import Dataset, DatasetError, Sample
from graft.training.data.findings import Finding, LabelIssue
from graft.training.data.seen_images import NO_IMAGES, ImageHashes, SeenImages
from graft.training.data.splits import MIN_TRAIN_IMAGES, Splits, assign_groups, split
from graft.training.evaluation import outliers
from graft.training.evaluation.label_frequencies import training_frequencies
from graft.training.features.extraction import Extractor, Features, View, extract, extract_on_cpu
from graft.training.features.feature_arrays import LazyFeatures
from graft.training.runs.run_folder import RunFolder
from graft.training.runtime.progress import log
from graft.training.strategies.starting_point import StartingPoint

CROPS_DECISION = "crops of each image"
MAX_WARNINGS_PER_KIND = 3  # warnings of each kind in the log; the report lists all


@dataclass(frozen=True)
class AuditResult:
    """Result of the data audit.

    Attributes:
        findings: all issues.
        label_issues: images with a probably wrong label, most certain first.
        excluded: excluded files and the reason, by path; they are in no split.
        image_sizes: summary of the image sizes, as text.
    """

    findings: tuple[Finding, ...] = ()
    label_issues: tuple[LabelIssue, ...] = ()
    excluded: dict[str, str] = field(default_factory=dict)
    image_sizes: str = ""


@dataclass(frozen=True)
class TrainingContext:
    """Inputs shared by all strategies.

    Attributes:
        folder: the run folder; it stores decisions, so that a resumed run repeats them.
        audit: result of the data audit.
        seen: the images that a model of this run has seen, for its package.
        start: the earlier model that training starts from, if any.
    """

    dataset: Dataset
    splits: Splits
    exported: ExportedBackbone
    features: Features
    recipe: Recipe
    folder: RunFolder
    audit: AuditResult = AuditResult()
    seen: SeenImages = NO_IMAGES
    start: StartingPoint | None = None

    @property
    def device(self) -> Device:
        """Where networks are trained."""
        return resolve_device(self.recipe.device)

    @property
    def reference_samples(self) -> tuple[Sample, ...]:
        """The training images stored in a package as references for similarity search and outlier detection."""
        return tuple(outliers.reference_samples(self.splits.train, self.exported.backbone.width))

    def targets(self, samples: Sequence[Sample]) -> Targets:
        """Ground-truth labels: int64 (N,), or bool (N, C) for multi-label data."""
        return self.dataset.targets(samples)

    def training_frequencies(self) -> NDArray[np.float64]:
        """The frequency of each label among the training images, (C,)."""
        return training_frequencies(self.dataset.counts(self.splits.train))

    def view_features(self, samples: Sequence[Sample]) -> LazyFeatures:
        """All features of the samples and, if extracted, of their mirror images: (V, N, W), not loaded yet."""
        # Read from the features, not from the recipe: files excluded since then may have changed the recipe's answer.
        has_mirrored = View(self.splits.train[0], mirrored=True).key in self.features.row_index
        return self.select_views(samples, [(False, 0), (True, 0)] if has_mirrored else [(False, 0)])

    def crop_features(self, samples: Sequence[Sample]) -> LazyFeatures:
        """The same and those of all random crops that were extracted."""
        first, whole = self.splits.train[0], self.view_features(samples)
        crops = hyperparameters.crop_views(self.recipe.flips, len(self.splits.train) + len(self.splits.validation))
        extracted = [view for view in crops if View(first, *view).key in self.features.row_index]
        return LazyFeatures(whole.array, np.concatenate([whole.indices, self.select_views(samples, extracted).indices]))

    def select_views(self, samples: Sequence[Sample], views: Sequence[tuple[bool, int]]) -> LazyFeatures:
        """All features of some views of the samples, (V, N, W), not loaded yet; a view is (mirrored, crop)."""
        indices = [self.features.select(samples, mirrored, crop=crop).indices for mirrored, crop in views]
        return LazyFeatures(self.features.array, np.array(indices, np.intp).reshape(len(views), len(samples)))


def prepare(data: Path, folder: RunFolder, recipe: Recipe, start: StartingPoint | None = None) -> TrainingContext:
    """Scans and audits the data, extracts features of every image, splits them, and records the splits in the run folder.

    The features come before the splits: they show which images are copies of each other, and must stay together.

    Args:
        recipe: of a run from an earlier model, with that model's options.
        start: the earlier model.

    Raises:
        BackboneError, DatasetError: with what to do about it.
        RunMismatchError: if the run folder was created from different data.
        ValueError: if an option does not support multi-label data.
    """
    spec = registry.resolve(recipe.backbone, recipe.weights)
    data_read = _read(data, recipe)
    finetune_config.check_multilabel(recipe, data_read.dataset.multilabel)
    _log_warnings([finding for finding in data_read.findings if finding.kind not in GROUP_KINDS])
    dataset, side = data_read.dataset, median_side(data_read.table)
    folder.load_splits(dataset)  # fails early if the data of a resumed run have changed
    exported = onnx_cache.load_or_export(spec, recipe.input_size, side, recipe.fit, dataset.sample_bits)
    folder.check_fingerprint(_fingerprint(dataset, exported))
    features = _extract(dataset, map(View, dataset.samples), exported, recipe)
    dataset, findings, excluded = _group_images(data_read, features, recipe)
    splits = folder.load_splits(dataset) or split(
        dataset, recipe.seed, recipe.val_share, recipe.test_share, known=start.split_of if start else None
    )
    if hyperparameters.use_mirror_images(recipe.flips, len(splits.train)):
        n_computed = features.n_computed
        features, splits, unreadable = extract_or_exclude(dataset, splits, exported, recipe)
        features, excluded = replace(features, n_computed=features.n_computed + n_computed), excluded | unreadable
    folder.write_splits(dataset, splits, excluded)
    log(_describe_splits(splits, exported, features.n_computed))
    if start and (n_learned := start.count((*splits.validation, *splits.test), "train")):
        log(
            f"warning: the model of --from has learned {n_learned:,} of the validation and test images: the scores are too high"
        )
    samples = [sample for split_samples in splits.to_dict().values() for sample in split_samples]
    ranking, outliers = label_errors.find_issues(dataset, samples, features.select(samples))
    _log_warnings(feature_findings := label_errors.to_findings(ranking.top(), outliers))
    sizes = describe_sizes(data_read.table)
    audit_result = AuditResult((*findings, *feature_findings), tuple(ranking.top()), excluded, sizes)
    seen = SeenImages.of(ImageHashes.of(data_read.scanned.samples, *data_read.table.hashes()), splits)
    return TrainingContext(dataset, splits, exported, features, recipe, folder, audit_result, seen, start)


def _group_images(data: "_Data", features: Features, recipe: Recipe) -> tuple[Dataset, list[Finding], dict[str, str]]:
    """The dataset with the groups of its images, all findings about it, and why files are excluded, by path.

    Raises:
        DatasetError: if copies are in several given splits, unless the recipe allows or excludes them.
    """
    groups = find_groups(data.scanned, data.table, features, data.findings, recipe)
    _log_warnings([finding for finding in groups.findings if finding.kind in GROUP_KINDS | BURST_KINDS])
    for finding in groups.findings:
        if finding.kind in BURST_KINDS and finding.severity == "note":
            log(finding.text)
    _, copies = apply_exclusions(data.scanned, groups.findings, recipe.skip_bad, recipe.drop_duplicates)
    excluded = features.unreadable | copies | data.excluded
    return assign_groups(data.dataset.exclude(excluded), groups.pairs), groups.findings, excluded


def check_unchanged(data: Path, folder: RunFolder, recipe: Recipe) -> None:
    """Reads the data again and compares them with those of a run.

    Raises:
        DatasetError: if they cannot be read.
        RunMismatchError: if an image is missing, new, or has changed or another label.
    """
    folder.load_splits(_read(data, recipe).dataset)


class _Data(NamedTuple):
    """Data that was read and audited.

    Attributes:
        scanned: all images.
        table: their scan.
        dataset: without the excluded images.
        excluded: reasons by path.
    """

    scanned: Dataset
    table: ScanTable
    findings: list[Finding]
    dataset: Dataset
    excluded: dict[str, str]


def _read(data: Path, recipe: Recipe) -> _Data:
    scanned, table, findings = read_and_audit(data, recipe)
    median_side(table)  # raises one error if no image is usable, rather than one for each
    dataset, excluded = apply_exclusions(scanned, findings, recipe.skip_bad, recipe.drop_duplicates)
    return _Data(scanned, table, findings, dataset, excluded)


def _log_warnings(findings: Sequence[Finding]) -> None:
    for finding in truncate_findings([finding for finding in findings if finding.severity == "warning"], MAX_WARNINGS_PER_KIND):
        log(f"warning: {finding.text}")


def extract_or_exclude(
    dataset: Dataset, splits: Splits, exported: ExportedBackbone, recipe: Recipe
) -> tuple[Features, Splits, dict[str, str]]:
    """Extracts the features of the images of the splits, and of the mirror images that the recipe trains on.

    Returns:
        The features, the splits without unreadable files, and those files' errors.

    Raises:
        DatasetError: if files are unreadable and `skip_bad` is off, if too many are, or if too few images of a label remain.
    """
    features = _extract(dataset, whole_views(splits, recipe), exported, recipe)
    unreadable = features.unreadable
    remaining = [tuple(sample for sample in samples if sample.path not in unreadable) for samples in splits.to_dict().values()]
    splits = Splits(*remaining)
    counts = zip(dataset.labels, dataset.counts(splits.train), dataset.counts(splits.validation), strict=True)
    for label, n_train, n_validation in counts:
        if n_train < MIN_TRAIN_IMAGES or n_validation == 0:
            raise DatasetError(
                f"Without its unreadable files, the label {label!r} has too few images:"
                f" {n_train} for training, {n_validation} for validation."
            )
    return features, splits, unreadable


def extract_crops(context: TrainingContext, seconds: float) -> TrainingContext:
    """The context with features of random crops of its training and validation images too.

    The first crop of every image shows how many take at most `seconds` together. This is decided once per run.

    Raises:
        DatasetError: if an image has become unreadable.
    """
    dataset, splits, exported, recipe = context.dataset, context.splits, context.exported, context.recipe
    crops = _crop_views(splits, recipe)

    def extract_in_time() -> int:
        if not crops or seconds <= 0:
            return 0
        started = time.monotonic()
        _extract(dataset, crops[0], exported, recipe)
        return min(len(crops), max(1, int(seconds / max(time.monotonic() - started, 1e-3))))

    n_crops = context.folder.decide_once(CROPS_DECISION, extract_in_time)
    return replace(context, features=extract_readable(context, all_views(context), exported)) if n_crops else context


def all_views(context: TrainingContext) -> list[View]:
    """The views that a kernel machine on frozen features learns from in this run, and the test images."""
    n_crops = context.folder.decide_once(CROPS_DECISION, lambda: 0)
    crops = _crop_views(context.splits, context.recipe)[:n_crops]
    return [*whole_views(context.splits, context.recipe), *itertools.chain(*crops)]


def _crop_views(splits: Splits, recipe: Recipe) -> list[list[View]]:
    """The random crops that the recipe allows: each a view of every training and validation image."""
    samples = (*splits.train, *splits.validation)
    return [[View(sample, *view) for sample in samples] for view in hyperparameters.crop_views(recipe.flips, len(samples))]


def extract_readable(
    context: TrainingContext,
    views: Iterable[View],
    exported: ExportedBackbone,
    cache: Path | None = None,
    extractor: Extractor | None = None,
) -> Features:
    """The features of views of images that were readable before.

    Args:
        cache: as for `extract`.
        extractor: None for that of the device.

    Raises:
        DatasetError: if an image has become unreadable.
    """
    features = extract(context.dataset, views, exported, extractor or select_extractor(context.device), cache)
    for path, reason in features.unreadable.items():
        raise DatasetError(f"{path} has become unreadable: {reason}")
    return features


def whole_views(splits: Splits, recipe: Recipe) -> list[View]:
    """All images of the splits, and the mirror images that the recipe trains on."""
    views = [View(sample) for samples in splits.to_dict().values() for sample in samples]
    if hyperparameters.use_mirror_images(recipe.flips, len(splits.train)):
        views += [View(sample, mirrored=True) for sample in (*splits.train, *splits.validation)]
    return views


def _extract(dataset: Dataset, views: Iterable[View], exported: ExportedBackbone, recipe: Recipe) -> Features:
    """The features of the views of readable files.

    Raises:
        DatasetError: if files are unreadable and `skip_bad` is off, or if more than 5 % are unreadable.
    """
    features = extract(dataset, views, exported, select_extractor(resolve_device(recipe.device)))
    unreadable = features.unreadable
    if unreadable and (not recipe.skip_bad or len(unreadable) > MAX_UNUSABLE_FRACTION * len(dataset.samples)):
        lines = "\n".join(f"  {path}: {reason}" for path, reason in sorted(unreadable.items())[:10])
        remedy = (
            "That is too many to exclude." if recipe.skip_bad else "Repair or remove them, or exclude them with --skip-bad."
        )
        raise DatasetError(f"{len(unreadable)} of {len(dataset.samples):,} files cannot be used:\n{lines}\n{remedy}")
    return features


def select_extractor(device: Device) -> Extractor:
    """The function that extracts features on a device."""
    if device == "cpu":
        return extract_on_cpu
    from graft.training.features.lightning_extractor import extract_on_gpu

    return extract_on_gpu


def _fingerprint(dataset: Dataset, exported: ExportedBackbone) -> dict[str, object]:
    """What must be the same when a run is resumed, besides its recipe and its images."""
    return {
        "labels": dataset.labels,
        "backbone": exported.backbone.name,
        "weights": exported.backbone.sha256,
        "input size": exported.preprocessing.crop,
    }


def _describe_splits(splits: Splits, exported: ExportedBackbone, n_computed: int) -> str:
    counts = ", ".join(f"{len(samples):,} {name}" for name, samples in splits.to_dict().items())
    cached = "" if n_computed else "; features were cached"
    return f"{counts}; {exported.backbone.name} at {exported.preprocessing.crop} pixels{cached}"

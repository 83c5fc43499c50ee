"""Builds a `Dataset` from any supported input. Reads file names only: decodes no image, imports no torch."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path

import numpy as np

from graft.training.data.cross_validation import Targets
from graft.training.data.errors import MAX_FILE_BYTES, DatasetError, ScanIssues, details, printable
from graft.training.data.findings import Finding
from graft.training.data.readers import csv_table, mnist_cifar, parquet
from graft.training.data.readers.class_folders import (
    EXPECTED_LAYOUT,
    Listing,
    group_id,
    list_class_folders,
    suggest_path,
    validate_labels,
)
from graft.training.data.readers.filenames import suffix
from graft.training.data.readers.source import Source
from graft.training.runtime.progress import Progress

__all__ = ["Dataset", "DatasetError", "Sample", "Source", "describe", "scan"]
MAX_OTHER_FILES = 10_000  # non-image paths to keep: if there are no images, they are checked for Parquet, MNIST and CIFAR files


@dataclass(frozen=True, slots=True)
class Sample:
    """One labeled image.

    Attributes:
        path: relative to the data set's root, with forward slashes.
        labels: its label indices, each in [0, C), ascending; exactly one unless the data set is multi-label.
        split: "train", "validation" or "test" if the data set is already split, else "".
        digest: SHA-256 of the encoded image, 32 bytes; b"" until the image has been read.
        group: ID of the group that must stay in one split; b"" if the sample has none.
    """

    path: str
    labels: tuple[int, ...]
    split: str = ""
    digest: bytes = b""
    group: bytes = b""

    @property
    def label(self) -> int:
        """The label of a single-label sample."""
        [label] = self.labels
        return label


@dataclass(frozen=True)
class Dataset:
    """A set of labeled images.

    Attributes:
        labels: the label names in index order, spelled exactly as in the folders.
        multilabel: whether an image can have any number of labels, including none.
        findings: issues with the layout; `graft.training.audit.data_audit` adds more.
        n_ignored: the number of files ignored because they are not images.
    """

    source: Source
    labels: tuple[str, ...]
    samples: tuple[Sample, ...]
    multilabel: bool = False
    findings: tuple[Finding, ...] = ()
    n_ignored: int = 0

    def read(self, sample: Sample) -> bytes:
        """Read one encoded image and verify its digest.

        Raises:
            DatasetError: if it cannot be read or has changed since the scan. A changed image has not been audited, and caches
                use the digest as the key.
        """
        encoded = self.source.read(sample.path)
        if sample.digest and hashlib.sha256(encoded).digest() != sample.digest:
            raise DatasetError(f"{self.source.root / sample.path} cannot be read: it has changed since the data were checked.")
        return encoded

    def targets(self, samples: Sequence[Sample]) -> Targets:
        """Return the targets: int64 (N,) label indices, or bool (N, C) if the data set is multi-label."""
        if not self.multilabel:
            return np.array([sample.label for sample in samples], np.int64)
        targets = np.zeros((len(samples), len(self.labels)), bool)
        for row, sample in zip(targets, samples, strict=True):
            row[list(sample.labels)] = True
        return targets

    def counts(self, samples: Iterable[Sample]) -> tuple[int, ...]:
        """Count the samples of each label."""
        indices = [label for sample in samples for label in sample.labels]
        return tuple(np.bincount(np.array(indices, np.intp), minlength=len(self.labels)).tolist())

    def exclude(self, paths: Iterable[str]) -> "Dataset":
        """Return a copy without the given paths."""
        excluded = set(paths)
        return replace(self, samples=tuple(sample for sample in self.samples if sample.path not in excluded))


def scan(root: Path, group_by: str | None = None, follow_links: bool = False) -> Dataset:
    """List the labeled images in a folder, an archive, a table or a binary file.

    Args:
        root: label folders, optionally inside train/validation/test folders; a .zip or .tar of these; a .csv; .parquet files;
            MNIST or CIFAR files.
        group_by: a table column, or a regular expression on the path. Images with the same value (for an expression: its
            first capture group, or the whole match if it has none) stay in one split.
        follow_links: whether to follow symbolic links out of the root.

    Raises:
        DatasetError: if no data set can be built. Any other issue goes to `Dataset.findings`.
    """
    if not root.exists():
        raise DatasetError(f"{root} does not exist.")
    issues = ScanIssues()
    source, listing, has_group_column = _read_listing(root, group_by, follow_links, issues)
    labels, findings = validate_labels(root, listing, issues)
    if group_by and not has_group_column:
        listing.groups = _groups_from_paths(listing.paths, group_by)
    samples = _build_samples(listing, labels)
    ordered = sorted([*findings, *issues.findings()], key=lambda finding: ("error", "warning", "note").index(finding.severity))
    return Dataset(source, labels, samples, listing.multilabel, tuple(ordered), issues.count("ignored"))


def describe(dataset: Dataset) -> str:
    """Summarize the data set in one line."""
    sizes = Counter(sample.split for sample in dataset.samples)
    validation = f", {sizes['validation']:,} validation" if sizes["validation"] else ""
    splits = f"; {sizes['train']:,} train{validation}, {sizes['test']:,} test" if sizes["test"] else ""
    names = ", ".join(dataset.labels[:6]) + (", …" if len(dataset.labels) > 6 else "")
    multilabel = ", multi-label" if dataset.multilabel else ""
    ignored = f"; {dataset.n_ignored:,} other file{'s' * (dataset.n_ignored > 1)} ignored" if dataset.n_ignored else ""
    return f"{len(dataset.samples):,} images, {len(dataset.labels)} labels ({names}){multilabel}{splits}{ignored}"


def _read_listing(root: Path, group_by: str | None, follow_links: bool, issues: ScanIssues) -> tuple[Source, Listing, bool]:
    """Return the source, the listing, and whether `group_by` is a column of the table."""
    if suffix(root.name) in csv_table.SUFFIXES:
        return csv_table.read_listing(root, group_by, follow_links, issues)
    if suffix(root.name) == parquet.SUFFIX:
        return parquet.read_listing(root, [root.name], group_by, issues)
    source = Source(root)
    paths, others = _find_images(source, follow_links, issues)
    if paths:
        return source, list_class_folders(root, paths, issues), False
    issues.discard("ignored")  # the data may be in some of these files
    if shards := [path for path in others if suffix(path) == parquet.SUFFIX]:
        return parquet.read_listing(root, shards, group_by, issues)
    if result := mnist_cifar.read_listing(source, others):
        return *result, False
    raise DatasetError(f"{root} contains no images.{suggest_path(root, paths)}\n{EXPECTED_LAYOUT}{details(issues)}")


def _find_images(source: Source, follow_links: bool, issues: ScanIssues) -> tuple[list[str], list[str]]:
    """Return the image paths, detected by name or by magic bytes, and the first of the other paths."""
    paths: list[str] = []
    others: list[str] = []
    with Progress("listing", 0, "files") as progress:
        for path, n_bytes in progress.track(source.list_files(issues, follow_links)):
            kind = _file_issue(source, path, n_bytes)
            if kind:
                issues.add(kind, path)
            else:
                paths.append(path)
            if kind == "ignored" and len(others) < MAX_OTHER_FILES:
                others.append(path)
    return paths, others


def _file_issue(source: Source, path: str, n_bytes: int) -> str:
    """Return the kind of issue with a file; "" if its name or its magic bytes are those of an image."""
    try:
        if not source.is_image(path):
            return "ignored"
    except DatasetError:
        return "damaged"
    return "too-large" if n_bytes > MAX_FILE_BYTES else ""


def _groups_from_paths(paths: list[str], pattern: str) -> list[bytes]:
    """Return a group ID for each path: from the pattern's first capture group or whole match; b"" if it does not match."""
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise DatasetError(f"--group-by {pattern} is not a valid regular expression: {error}.") from None
    matches = [search(path) for path in paths]
    if not any(matches):
        reason = f"is not a column and matches none of the {len(paths):,} paths, such as {printable(paths[0])}"
        raise DatasetError(f"--group-by {pattern} {reason}.")
    ids: dict[str, bytes] = {}
    names = [match and (match.group(1 if match.re.groups else 0) or "") for match in matches]
    return [ids.setdefault(name, group_id(name)) if name else b"" for name in names]


def _build_samples(listing: Listing, labels: tuple[str, ...]) -> tuple[Sample, ...]:
    """Build one sample per row; equal label tuples are shared to save memory."""
    index_of = {name: index for index, name in enumerate(labels)}
    indices = {names: tuple(sorted({index_of[name] for name in names})) for names in set(listing.label_names)}
    groups = listing.groups or repeat(b"")
    rows = zip(listing.paths, listing.label_names, listing.splits, groups)  # noqa: B905 - groups may be infinite
    return tuple([Sample(path, indices[names], split, b"", group) for path, names, split, group in rows])

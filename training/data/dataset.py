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
from graft.training.data.errors import MAX_FILE_BYTES, DatasetError, Mishaps, also, plain
from graft.training.data.findings import Finding
from graft.training.data.readers import csv_table, mnist_cifar, parquet
from graft.training.data.readers.class_folders import LAYOUT, Listing, by_folders, group, nearest, understood
from graft.training.data.readers.filenames import suffix
from graft.training.data.readers.source import Source
from graft.training.runtime.progress import Progress

__all__ = ["Dataset", "DatasetError", "Sample", "Source", "describe", "scan"]
MOST_OTHERS = 10_000  # non-image paths to keep: if there are no images, they are checked for Parquet, MNIST and CIFAR files


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image.

    Attributes:
        path: relative to the data set's root, with forward slashes.
        labels: its label indices, each in [0, C), ascending; exactly one unless the data set is multi-label.
        split: "train", "validation" or "test" if the data set is already split, else "".
        digest: SHA-256 of the encoded image, 32 bytes; b"" until the image has been read.
        group: ID of the group that must stay in one split; b"" if the sample has none.
    """

    path: str
    labels: tuple[int, ...]
    part: str = ""
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
    ignored: int = 0

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

    def without(self, paths: Iterable[str]) -> "Dataset":
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
    issues = Mishaps()
    source, listing, has_group_column = _listed(root, group_by, follow_links, issues)
    labels, findings = understood(root, listing, issues)
    if group_by and not has_group_column:
        listing.groups = _groups(listing.paths, group_by)
    samples = _samples(listing, labels)
    ordered = sorted([*findings, *issues.findings()], key=lambda finding: ("error", "warning", "note").index(finding.severity))
    return Dataset(source, labels, samples, listing.multilabel, tuple(ordered), issues.count("ignored"))


def describe(dataset: Dataset) -> str:
    """Summarize the data set in one line."""
    sizes = Counter(sample.part for sample in dataset.samples)
    validation = f", {sizes['validation']:,} validation" if sizes["validation"] else ""
    splits = f"; {sizes['train']:,} train{validation}, {sizes['test']:,} test" if sizes["test"] else ""
    names = ", ".join(dataset.labels[:6]) + (", …" if len(dataset.labels) > 6 else "")
    multilabel = ", multi-label" if dataset.multilabel else ""
    ignored = f"; {dataset.ignored:,} other file{'s' * (dataset.ignored > 1)} ignored" if dataset.ignored else ""
    return f"{len(dataset.samples):,} images, {len(dataset.labels)} labels ({names}){multilabel}{splits}{ignored}"


def _listed(root: Path, group_by: str | None, follow_links: bool, mishaps: Mishaps) -> tuple[Source, Listing, bool]:
    """Return the source, the listing, and whether `group_by` is a column of the table."""
    if suffix(root.name) in csv_table.SUFFIXES:
        return csv_table.listed(root, group_by, follow_links, mishaps)
    if suffix(root.name) == parquet.SUFFIX:
        return parquet.listed(root, [root.name], group_by, mishaps)
    source = Source(root)
    paths, others = _images(source, follow_links, mishaps)
    if paths:
        return source, by_folders(root, paths, mishaps), False
    mishaps.forget("ignored")  # the data may be in some of these files
    if shards := [path for path in others if suffix(path) == parquet.SUFFIX]:
        return parquet.listed(root, shards, group_by, mishaps)
    if result := mnist_cifar.listed(source, others):
        return *result, False
    raise DatasetError(f"{root} contains no images.{nearest(root, paths)}\n{LAYOUT}{also(mishaps)}")


def _images(source: Source, follow_links: bool, mishaps: Mishaps) -> tuple[list[str], list[str]]:
    """Return the image paths, detected by name or by magic bytes, and the first of the other paths."""
    paths: list[str] = []
    others: list[str] = []
    with Progress("listing", 0, "files") as progress:
        for path, n_bytes in progress.each(source.names(mishaps, follow_links)):
            kind = _kind(source, path, n_bytes)
            if kind:
                mishaps.add(kind, path)
            else:
                paths.append(path)
            if kind == "ignored" and len(others) < MOST_OTHERS:
                others.append(path)
    return paths, others


def _kind(source: Source, path: str, n_bytes: int) -> str:
    """Return the kind of issue with a file; "" if its name or its magic bytes are those of an image."""
    try:
        if not source.holds_image(path):
            return "ignored"
    except DatasetError:
        return "damaged"
    return "too-large" if n_bytes > MAX_FILE_BYTES else ""


def _groups(paths: list[str], pattern: str) -> list[bytes]:
    """Return a group ID for each path: from the pattern's first capture group or whole match; b"" if it does not match."""
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise DatasetError(f"--group-by {pattern} is not a valid regular expression: {error}.") from None
    matches = [search(path) for path in paths]
    if not any(matches):
        reason = f"is not a column and matches none of the {len(paths):,} paths, such as {plain(paths[0])}"
        raise DatasetError(f"--group-by {pattern} {reason}.")
    ids: dict[str, bytes] = {}
    names = [match and (match.group(1 if match.re.groups else 0) or "") for match in matches]
    return [ids.setdefault(name, group(name)) if name else b"" for name in names]


def _samples(listing: Listing, labels: tuple[str, ...]) -> tuple[Sample, ...]:
    """Build one sample per row; equal label tuples are shared to save memory."""
    index_of = {name: index for index, name in enumerate(labels)}
    indices = {names: tuple(sorted({index_of[name] for name in names})) for names in set(listing.names)}
    groups = listing.groups or repeat(b"")
    rows = zip(listing.paths, listing.names, listing.parts, groups)  # noqa: B905 - groups may be infinite
    return tuple([Sample(path, indices[names], split, b"", group) for path, names, split, group in rows])

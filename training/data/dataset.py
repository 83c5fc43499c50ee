"""Builds a `Dataset` from any supported input. Reads file names only: decodes no image, imports no torch."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graft.training.config.read_options import ReadOptions
from graft.training.data import wrong_paths
from graft.training.data.cross_validation import Targets
from graft.training.data.errors import MAX_FILE_BYTES, DatasetError, ScanIssues, details, printable
from graft.training.data.findings import Finding
from graft.training.data.folders.class_folders import EXPECTED_LAYOUT, has_generic_labels, list_class_folders, suggest_path
from graft.training.data.label_checks import validate_labels
from graft.training.data.listing import Listing, group_id
from graft.training.data.readers import mnist_cifar
from graft.training.data.readers.filenames import suffix
from graft.training.data.readers.source import Source
from graft.training.data.tables import csv_table, parquet, table_listing
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
        layout: where the labels and splits were found, in one line.
        formats: Pillow's names of the usable images' file formats; () until the images have been read.
        sample_bits: as in `Preprocessing`; None until the images have been read.
    """

    source: Source
    labels: tuple[str, ...]
    samples: tuple[Sample, ...]
    multilabel: bool = False
    findings: tuple[Finding, ...] = ()
    n_ignored: int = 0
    layout: str = ""
    formats: tuple[str, ...] = ()
    sample_bits: int | None = None

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


def digest_prefixes(digests: Iterable[bytes]) -> NDArray[np.uint64]:
    """The first eight bytes of each SHA-256, uint64 (N,).

    They tell a million files apart, and need a fifth of the memory of a set of digests.
    """
    return np.fromiter((int.from_bytes(digest[:8], "big") for digest in digests), np.uint64)


def scan(root: Path, options: ReadOptions | None = None) -> Dataset:
    """List the labeled images in a folder, an archive, a table or a binary file.

    Args:
        root: label folders, optionally inside train/validation/test folders; a folder with tables of image files and labels;
            a .zip or .tar of these; a .csv; .parquet files; MNIST or CIFAR files.
        options: how to read it; None to find everything out. Of `group_by`, images with the same value (for an expression:
            its first capture group, or the whole match if it has none) stay in one split.

    Raises:
        DatasetError: if no data set can be built. Any other issue goes to `Dataset.findings`.
    """
    options = options or ReadOptions()
    wrong_paths.check(root)
    if not root.exists():
        raise DatasetError(f"{root} does not exist.")
    issues = ScanIssues()
    source, listing, has_group_column, paths = _read_listing(root, options, issues)
    labels, findings = validate_labels(root, listing, issues, paths)
    if options.declared_group and not has_group_column:
        listing.groups = _groups_from_paths(listing.paths, options.declared_group)
    samples = _build_samples(listing, labels)
    ordered = sorted([*findings, *issues.findings()], key=lambda finding: ("error", "warning", "note").index(finding.severity))
    n_ignored = issues.count("ignored")
    return Dataset(source, labels, samples, listing.multilabel, tuple(ordered), n_ignored, listing.layout)


def describe(dataset: Dataset) -> str:
    """Summarize the data set in one line."""
    sizes = Counter(sample.split for sample in dataset.samples)
    validation = f", {sizes['validation']:,} validation" if sizes["validation"] else ""
    splits = f"; {sizes['train']:,} train{validation}, {sizes['test']:,} test" if sizes["test"] else ""
    names = ", ".join(dataset.labels[:6]) + (", …" if len(dataset.labels) > 6 else "")
    multilabel = ", multi-label" if dataset.multilabel else ""
    ignored = f"; {dataset.n_ignored:,} other file{'s' * (dataset.n_ignored > 1)} ignored" if dataset.n_ignored else ""
    return f"{len(dataset.samples):,} images, {len(dataset.labels)} labels ({names}){multilabel}{splits}{ignored}"


def _read_listing(root: Path, options: ReadOptions, issues: ScanIssues) -> tuple[Source, Listing, bool, list[str]]:
    """Return the source, the listing, whether `group_by` is a column of the table, and the paths of all images."""
    if suffix(root.name) in csv_table.SUFFIXES:
        source, listing, has_group_column = table_listing.read_table(root, options, issues)
        return source, listing, has_group_column, listing.paths
    if suffix(root.name) == parquet.SUFFIX:
        source, listing, has_group_column = parquet.read_listing(root, [root.name], options, issues)
        return source, listing, has_group_column, listing.paths
    source = Source(root)
    paths, others = _find_images(source, options.follow_links, issues)
    if paths:
        listing, has_group_column = _list_images(source, paths, others, options, issues)
        return source, listing, has_group_column, paths
    issues.discard("ignored")  # the data may be in some of these files
    if shards := [path for path in others if suffix(path) == parquet.SUFFIX]:
        source, listing, has_group_column = parquet.read_listing(root, shards, options, issues)
        return source, listing, has_group_column, listing.paths
    if result := mnist_cifar.read_listing(source, others):
        return *result, False, result[1].paths
    archives = ""
    if issues.count("archive"):
        archives = (
            ", but archives: pass one of them, or extract them" if root.is_dir() else ", but archives: extract them first"
        )
    raise DatasetError(f"{root} contains no images{archives}.{suggest_path(root, paths)}\n{EXPECTED_LAYOUT}{details(issues)}")


def _list_images(
    source: Source, paths: list[str], others: list[str], options: ReadOptions, issues: ScanIssues
) -> tuple[Listing, bool]:
    """Read the labels from the folders; if those are no labels, from tables beside the images."""
    tables = [path for path in others if suffix(path) in csv_table.SUFFIXES]
    folder_issues = ScanIssues()
    folder_issues.empty_folders = issues.empty_folders
    error = None
    try:
        listing = list_class_folders(source.root, paths, options, folder_issues, others)
        has_labels = len(set(listing.label_names)) > 1 and not has_generic_labels(listing)
    except DatasetError as caught:
        error, has_labels = caught, False
    asks_for_folders = options.layout or options.label_regex
    asks_for_table = options.path_column or options.label_column or options.split_column
    if tables and not asks_for_folders and (asks_for_table or not has_labels):
        result = table_listing.read_tables(source, tables, paths, options, issues)
        if result:
            return result
    if error:
        raise error
    issues.update(folder_issues)
    for table in tables:
        issues.add("ignored", table)
    return listing, False


def _find_images(source: Source, follow_links: bool, issues: ScanIssues) -> tuple[list[str], list[str]]:
    """Return the image paths, detected by name or by magic bytes, and the first of the other paths."""
    paths: list[str] = []
    others: list[str] = []
    with Progress("listing", 0, "files") as progress:
        for path, n_bytes in progress.track(source.list_files(issues, follow_links)):
            kind = _file_issue(source, path, n_bytes)
            if not kind:
                paths.append(path)
            elif suffix(path) not in csv_table.SUFFIXES:  # a table may have the labels
                issues.add(kind, path)
            if kind == "ignored" and len(others) < MAX_OTHER_FILES:
                others.append(path)
    return paths, others


def _file_issue(source: Source, path: str, n_bytes: int) -> str:
    """Return the kind of issue with a file; "" if its name or its magic bytes are those of an image."""
    try:
        if not source.is_image(path):
            return "archive" if source.is_archive(path) and not mnist_cifar.is_idx_file(path) else "ignored"
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

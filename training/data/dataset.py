"""Labelled images -> Dataset: what every input becomes. Reads names; reads no image, decodes nothing, imports no torch."""

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
MOST_OTHERS = 10_000  # files that are no images, kept by name to see what they are if there is no image at all


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image.

    Attributes:
        path: below the data set's root, with forward slashes.
        labels: those that are true of it, each in [0, C), ascending; exactly one unless the data set is multi-label.
        part: "train", "validation" or "test" where the data came in parts, else "".
        digest: sha256 of the image's bytes, 32 bytes; b"" until they have been read.
        group: names what must not be torn apart by a split; b"" where nobody said.
    """

    path: str
    labels: tuple[int, ...]
    part: str = ""
    digest: bytes = b""
    group: bytes = b""

    @property
    def label(self) -> int:
        """The one label of an image that has exactly one."""
        [label] = self.labels
        return label


@dataclass(frozen=True)
class Dataset:
    """Labelled images that exist.

    Attributes:
        labels: the class names, in order; kept exactly as the folders spell them.
        multilabel: whether an image may have several labels, or none.
        findings: what was wrong with the layout; more is found by `graft.training.audit.data_audit`.
        ignored: how many files were passed over because they are no images.
    """

    source: Source
    labels: tuple[str, ...]
    samples: tuple[Sample, ...]
    multilabel: bool = False
    findings: tuple[Finding, ...] = ()
    ignored: int = 0

    def read(self, sample: Sample) -> bytes:
        """One image's encoded bytes, the very ones that its digest was taken of.

        Raises:
            DatasetError: if they cannot be read, or have changed since: nobody audited those, and what is kept of an image is
                kept under its digest.
        """
        encoded = self.source.read(sample.path)
        if sample.digest and hashlib.sha256(encoded).digest() != sample.digest:
            raise DatasetError(f"{self.source.root / sample.path} cannot be read: it has changed since the data were checked.")
        return encoded

    def targets(self, samples: Sequence[Sample]) -> Targets:
        """What is true of each sample: int64 (N,), or bool (N, C) where images may have several labels."""
        if not self.multilabel:
            return np.array([sample.label for sample in samples], np.int64)
        targets = np.zeros((len(samples), len(self.labels)), bool)
        for row, sample in zip(targets, samples, strict=True):
            row[list(sample.labels)] = True
        return targets

    def counts(self, samples: Iterable[Sample]) -> tuple[int, ...]:
        """How many of the samples have each label."""
        having = [label for sample in samples for label in sample.labels]
        return tuple(np.bincount(np.array(having, np.intp), minlength=len(self.labels)).tolist())

    def without(self, paths: Iterable[str]) -> "Dataset":
        """The same data, some files left out."""
        out = set(paths)
        return replace(self, samples=tuple(sample for sample in self.samples if sample.path not in out))


def scan(root: Path, group_by: str | None = None, follow_links: bool = False) -> Dataset:
    """The labelled images of a folder, an archive, a table, or a file of many images.

    Args:
        root: class folders, the same in parts, a .zip or .tar of either; a .csv; .parquet files; MNIST's or CIFAR's files.
        group_by: a column of the table, or a regular expression on the path, whose first group (or all of it) names what
            must not be torn apart.
        follow_links: whether links out of the root count as what they lead to.

    Raises:
        DatasetError: if nothing can be understood. What is wrong, yet leaves something, becomes `Dataset.findings`.
    """
    if not root.exists():
        raise DatasetError(f"{root} does not exist.")
    mishaps = Mishaps()
    source, listing, grouped = _listed(root, group_by, follow_links, mishaps)
    labels, findings = understood(root, listing, mishaps)
    if group_by and not grouped:
        listing.groups = _groups(listing.paths, group_by)
    samples = _samples(listing, labels)
    ordered = sorted([*findings, *mishaps.findings()], key=lambda finding: ("error", "warning", "note").index(finding.severity))
    return Dataset(source, labels, samples, listing.multilabel, tuple(ordered), mishaps.count("ignored"))


def describe(dataset: Dataset) -> str:
    """What was understood, in one line for a person."""
    parts = Counter(sample.part for sample in dataset.samples)
    chosen = f", {parts['validation']:,} to choose by" if parts["validation"] else ""
    given = f", {parts['train']:,} to learn from{chosen} and {parts['test']:,} held out" if parts["test"] else ""
    names = ", ".join(dataset.labels[:6]) + (", …" if len(dataset.labels) > 6 else "")
    several = "; an image may have several" if dataset.multilabel else ""
    ignored = f"; {dataset.ignored:,} other file{'s' * (dataset.ignored > 1)} ignored" if dataset.ignored else ""
    return f"{len(dataset.samples):,} images of {len(dataset.labels)} labels ({names}){several}{given}{ignored}"


def _listed(root: Path, group_by: str | None, follow_links: bool, mishaps: Mishaps) -> tuple[Source, Listing, bool]:
    """Where the bytes are, what is there, and whether `group_by` named a column of it."""
    if suffix(root.name) in csv_table.SUFFIXES:
        return csv_table.listed(root, group_by, follow_links, mishaps)
    if suffix(root.name) == parquet.SUFFIX:
        return parquet.listed(root, [root.name], group_by, mishaps)
    source = Source(root)
    paths, others = _images(source, follow_links, mishaps)
    if paths:
        return source, by_folders(root, paths, mishaps), False
    mishaps.forget("ignored")  # among files that are no images are those that hold them
    if shards := [path for path in others if suffix(path) == parquet.SUFFIX]:
        return parquet.listed(root, shards, group_by, mishaps)
    if found := mnist_cifar.listed(source, others):
        return *found, False
    raise DatasetError(f"{root} holds no images.{nearest(root, paths)}\n{LAYOUT}{also(mishaps)}")


def _images(source: Source, follow_links: bool, mishaps: Mishaps) -> tuple[list[str], list[str]]:
    """The paths that are images by name or by their first bytes, and the first of the others."""
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
    """What is amiss with a file, as a kind of mishap; "" if it is an image for all that its name and head tell."""
    try:
        if not source.holds_image(path):
            return "ignored"
    except DatasetError:
        return "damaged"
    return "too-large" if n_bytes > MAX_FILE_BYTES else ""


def _groups(paths: list[str], pattern: str) -> list[bytes]:
    """What each path says of its group: a regular expression's first group or whole match; b"" where it does not match."""
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise DatasetError(f"--group-by {pattern} is no regular expression: {error}.") from None
    found = [search(path) for path in paths]
    if not any(found):
        text = f"--group-by {pattern} names no column, and matches none of {len(paths):,} paths, such as {plain(paths[0])}."
        raise DatasetError(text)
    known: dict[str, bytes] = {}
    texts = [match and (match.group(1 if match.re.groups else 0) or "") for match in found]
    return [known.setdefault(text, group(text)) if text else b"" for text in texts]


def _samples(listing: Listing, labels: tuple[str, ...]) -> tuple[Sample, ...]:
    """One sample for each row; whatever many of them share exists once."""
    number = {name: index for index, name in enumerate(labels)}
    numbers = {names: tuple(sorted({number[name] for name in names})) for names in set(listing.names)}
    groups = listing.groups or repeat(b"")
    rows = zip(listing.paths, listing.names, listing.parts, groups)  # noqa: B905 - groups may be endless
    return tuple([Sample(path, numbers[names], part, b"", group) for path, names, part, group in rows])

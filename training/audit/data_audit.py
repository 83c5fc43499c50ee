"""Data audit: every problem of a data set, reported at once and before training.

Unusable files, leaks, conflicting labels and duplicates, each with its paths, and the checks of
`graft.training.audit.quality_checks`. Works on the scan only and reads no file. What `audit` finds of near copies is less than
what is found with the backbone's features; `audit_again` replaces it.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from graft.training.audit.image_scan import ScanTable, scan_images
from graft.training.audit.quality_checks import check_images, check_labels
from graft.training.config.read_options import ReadOptions
from graft.training.data.dataset import Dataset, DatasetError, Sample, describe, digest_prefixes, scan
from graft.training.data.errors import MAX_EXAMPLES, SKIP_BAD, examples, printable
from graft.training.data.findings import Finding
from graft.training.data.near_duplicates import connected_components
from graft.training.data.splits import assign_groups, too_small_labels
from graft.training.runtime.progress import log, step

MAX_UNUSABLE_FRACTION = 0.05  # of all files; more unusable files than this mean a problem that excluding them would hide
DROP_DUPLICATES, ALLOW_NEAR_LEAKS = "--drop-duplicates", "--allow-near-leaks"
NEAR_LEAK = "near-leak"  # kind of a finding
GROUP_KINDS = {NEAR_LEAK, "near-conflict", "near-duplicate", "too-few"}  # findings that depend on which images are copies
SEVERITIES = ("error", "warning", "note")
SPLIT_PRIORITY = ("test", "validation", "train")  # duplicates across splits are kept in the first of these
FINDING_KINDS = {  # error code of the image -> kind of the finding
    "empty_image": "empty-file",
    "unsupported_format": "unsupported-format",
    "unsupported_mode": "unsupported-format",
    "image_too_large": "over-limits",
    "bad_aspect": "over-limits",
}


def read_and_audit(data: Path, options: ReadOptions) -> tuple[Dataset, ScanTable, list[Finding]]:
    """Lists the images, logs how the data was understood, reads every file, and audits what was found.

    Raises:
        DatasetError: if no data set can be built.
    """
    dataset = scan(data, options)
    log(f"layout: {dataset.layout}")
    log(describe(dataset))
    with step("checking the images"):
        dataset, table = scan_images(dataset)
        return dataset, table, audit(dataset, table, options.allow_near_leaks)


def audit(dataset: Dataset, table: ScanTable, allow_near_leaks: bool = False) -> list[Finding]:
    """Returns all findings about a scanned data set, including those of the listing, most severe first.

    Args:
        allow_near_leaks: near copies across given splits are only a warning.
    """
    unusable = _unusable_files(table)
    findings = [*dataset.findings, *unusable, *_too_many_unusable(dataset, [*dataset.findings, *unusable])]
    readable = dataset.exclude(table.unreadable) if table.unreadable else dataset
    findings += _exact_duplicates(_duplicates_by_digest(readable.samples, ())) + _group_leaks(readable.samples)
    findings += _audit_groups(readable, table.near_duplicates, allow_near_leaks)
    findings += check_labels(dataset, table) + check_images(dataset, table)
    return sort_findings(findings)


def audit_again(
    findings: Iterable[Finding], dataset: Dataset, near_copies: Sequence[tuple[bytes, bytes]], allow_near_leaks: bool
) -> list[Finding]:
    """Replaces the findings about near copies, once the features have shown more of them.

    Args:
        findings: of `audit`.
        dataset: the usable images.
        near_copies: pairs of digests.
    """
    others = [finding for finding in findings if finding.kind not in GROUP_KINDS]
    return sort_findings([*others, *_audit_groups(dataset, near_copies, allow_near_leaks)])


def sort_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Most severe first."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def _audit_groups(dataset: Dataset, near_copies: Sequence[tuple[bytes, bytes]], allow_near_leaks: bool) -> list[Finding]:
    """The findings of GROUP_KINDS."""
    too_small = [Finding("too-few", "error", text) for text in too_small_labels(assign_groups(dataset, near_copies))]
    return _near_copies(_duplicates_by_digest(dataset.samples, near_copies), near_copies, allow_near_leaks) + too_small


def truncate_findings(findings: Sequence[Finding], max_per_kind: int = MAX_EXAMPLES) -> list[Finding]:
    """Keeps the first findings of each kind and replaces the rest of a kind with one finding that gives their number."""
    by_kind: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        by_kind[finding.severity, finding.kind].append(finding)
    truncated = []
    for same_kind in by_kind.values():
        truncated += same_kind[:max_per_kind]
        if rest := same_kind[max_per_kind:]:
            paths = tuple(path for finding in rest for path in finding.paths)
            drop = tuple(path for finding in rest for path in finding.drop)
            first = rest[0]
            text = f"and {len(rest):,} more of this kind"
            truncated.append(Finding(first.kind, first.severity, text, paths, drop, first.flag))
    return truncated


def apply_exclusions(
    dataset: Dataset, findings: Iterable[Finding], skip_bad: bool, drop_duplicates: bool
) -> tuple[Dataset, dict[str, str]]:
    """Excludes the files that the flags allow to exclude.

    Returns:
        The data set without them, and the reason for each excluded path.

    Raises:
        DatasetError: if errors remain that no flag excludes; the text lists them.
    """
    allowed = {SKIP_BAD: skip_bad, DROP_DUPLICATES: drop_duplicates, "": False}
    errors, excluded = [], dict[str, str]()
    for finding in findings:
        if finding.drop and allowed[finding.flag]:
            excluded |= {path: excluded.get(path, finding.kind) for path in finding.drop}
        elif finding.severity == "error":
            errors.append(finding)
    if errors:
        raise DatasetError(_error_message(errors))
    return (dataset.exclude(excluded) if excluded else dataset), excluded


def _error_message(errors: Sequence[Finding]) -> str:
    lines = [f"  {finding.text}" for finding in truncate_findings(errors)]
    flags = " and ".join(sorted({finding.flag for finding in errors if finding.flag}))
    remedy = "Fix the data"
    if flags:
        remedy += f", or exclude these files with {flags}" if all(e.flag for e in errors) else f"; {flags} can exclude the rest"
    if any(error.kind == NEAR_LEAK for error in errors):
        remedy += f"; near-duplicates that are meant as different images stay with {ALLOW_NEAR_LEAKS}"
    count = "One problem stops" if len(errors) == 1 else f"{len(errors):,} problems stop"
    return f"{count} the fit:\n" + "\n".join(lines) + f"\n{remedy}."


def _group_by(samples: Iterable[Sample], key: Callable[[Sample], bytes]) -> dict[bytes, list[Sample]]:
    """Groups samples by a key."""
    groups: dict[bytes, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[key(sample)].append(sample)
    return groups


def _duplicates_by_digest(
    samples: Sequence[Sample], near_duplicates: Iterable[tuple[bytes, bytes]]
) -> dict[bytes, list[Sample]]:
    """Groups by digest the samples that have an exact duplicate or are in one of the near-duplicate pairs."""
    prefixes = digest_prefixes(sample.digest for sample in samples)  # enough to find possible duplicates
    _, inverse, counts = np.unique(prefixes, return_inverse=True, return_counts=True)
    repeated, near = counts[inverse] > 1, {digest for pair in near_duplicates for digest in pair}
    selected = (
        sample for sample, is_repeated in zip(samples, repeated.tolist(), strict=True) if is_repeated or sample.digest in near
    )
    return _group_by(selected, lambda sample: sample.digest)


def _unusable_files(table: ScanTable) -> list[Finding]:
    return [
        Finding(FINDING_KINDS.get(error.code, "unreadable"), "error", _with_path(path, error.text), (path,), (path,), SKIP_BAD)
        for path, error in table.unreadable.items()
    ]


def _with_path(path: str, text: str) -> str:
    return printable(text if path in text else f"{path}: {text}")


def _too_many_unusable(dataset: Dataset, findings: Iterable[Finding]) -> list[Finding]:
    unusable = {path for finding in findings if finding.flag == SKIP_BAD for path in finding.drop}
    n_files = len(dataset.samples) + len(unusable - {sample.path for sample in dataset.samples}) if unusable else 1
    if len(unusable) <= MAX_UNUSABLE_FRACTION * n_files:
        return []
    text = f"{len(unusable):,} of {n_files:,} files cannot be used, more than {MAX_UNUSABLE_FRACTION:.0%}: too many to exclude"
    return [Finding("too-many-bad", "error", text)]


def _exact_duplicates(duplicates: dict[bytes, list[Sample]]) -> list[Finding]:
    """Files with the same bytes: with conflicting labels, across splits, or merely repeated."""
    findings = []
    for samples in duplicates.values():
        if len(samples) == 1:
            continue
        paths = tuple(sample.path for sample in samples)
        if len({sample.labels for sample in samples}) > 1:
            text = f"duplicates with different labels: {examples(paths)}"
            findings.append(Finding("conflict", "error", text, paths, paths, DROP_DUPLICATES))
        elif len({sample.split for sample in samples}) > 1:
            text = f"duplicates across {_split_names(samples)}: {examples(paths)}"
            findings.append(Finding("leak", "error", text, paths, _lower_priority_paths(samples), DROP_DUPLICATES))
        else:
            findings.append(Finding("duplicate", "warning", f"{len(paths)} duplicates: {examples(paths)}", paths))
    return findings


def _split_names(samples: Iterable[Sample]) -> str:
    """The splits of some samples, such as "train and test"."""
    names = {sample.split or "train" for sample in samples}
    return " and ".join(name for name in reversed(SPLIT_PRIORITY) if name in names)


def _lower_priority_paths(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Paths to exclude from duplicates across splits, so that only one split keeps any."""
    names = {sample.split or "train" for sample in samples}
    kept = next(name for name in SPLIT_PRIORITY if name in names)
    return tuple(sample.path for sample in samples if (sample.split or "train") != kept)


def _near_copies(
    duplicates: dict[bytes, list[Sample]], near_copies: Iterable[tuple[bytes, bytes]], allow_leaks: bool
) -> list[Finding]:
    """Copies with different bytes: across splits, with conflicting labels, or merely repeated."""
    findings = []
    for cluster in connected_components(pair for pair in near_copies if pair[0] in duplicates and pair[1] in duplicates):
        samples = [sample for digest in cluster for sample in duplicates[digest]]
        paths = tuple(sample.path for sample in samples)
        shown = examples(paths)
        if is_leak := len({sample.split for sample in samples}) > 1:
            text = f"near-duplicates across {_split_names(samples)}: {shown}"
            if allow_leaks:
                findings.append(Finding(NEAR_LEAK, "warning", text, paths))
            else:
                findings.append(Finding(NEAR_LEAK, "error", text, paths, _lower_priority_paths(samples), DROP_DUPLICATES))
        if len({sample.labels for sample in samples}) > 1:
            findings.append(Finding("near-conflict", "warning", f"near-duplicates with different labels: {shown}", paths))
        elif not is_leak:
            findings.append(Finding("near-duplicate", "warning", f"near-duplicates: {shown}", paths))
    return findings


def _group_leaks(samples: Iterable[Sample]) -> list[Finding]:
    """Groups of `--group-by` that are in more than one split."""
    groups = _group_by((sample for sample in samples if sample.group != sample.digest), lambda sample: sample.group)
    findings = []
    for group in groups.values():
        if len(n_by_split := Counter(sample.split for sample in group)) > 1:
            counts = " and ".join(f"{count:,} in {name}" for name, count in sorted(n_by_split.items(), reverse=True))
            paths = tuple(sample.path for sample in group)
            text = f"one group in several splits ({counts}): {examples(paths)}"
            findings.append(Finding("group-leak", "error", text, paths, _lower_priority_paths(group), DROP_DUPLICATES))
    return findings

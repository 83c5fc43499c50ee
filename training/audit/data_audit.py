"""What is wrong with the data, all of it at once, found before anything is learned from them.

Files that cannot be used, leaks, contradictions and copies, each with its paths; and what `graft.training.audit.quality_checks` sees.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from graft.training.audit.image_scan import Looks
from graft.training.audit.quality_checks import of_images, of_labels
from graft.training.data.dataset import Dataset, DatasetError, Sample
from graft.training.data.errors import SHOWN, SKIP, examples, plain
from graft.training.data.findings import Finding
from graft.training.data.near_duplicates import clusters
from graft.training.data.splits import grouped, shortages

MOST_BAD = 0.05  # of all files; where more cannot be used, something is wrong that leaving them out would hide
DROP_DUPLICATES = "--drop-duplicates"
SEVERITIES = ("error", "warning", "note")
HELD_OUT = ("test", "validation", "train")  # of copies in several parts, those in the first of these are kept
KINDS = {
    "empty_image": "empty-file",
    "unsupported_format": "unsupported-format",
    "unsupported_mode": "unsupported-format",
    "image_too_large": "over-limits",
    "bad_aspect": "over-limits",
}


def audit(dataset: Dataset, looks: Looks) -> list[Finding]:
    """Everything that is wrong with examined data, the gravest first; what the scan found included."""
    bad = _unusable(looks)
    found = [*dataset.findings, *bad, *_too_many_bad(dataset, [*dataset.findings, *bad])]
    good = dataset.without(looks.troubles) if looks.troubles else dataset
    copies = _copies(good.samples, looks.alike)
    found += _exact(copies) + _near(copies, looks.alike) + _torn(good.samples)
    found += _too_few(good, looks) + of_labels(dataset, looks) + of_images(dataset, looks)
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def shortened(findings: Sequence[Finding], most: int = SHOWN) -> list[Finding]:
    """The first few of each kind; the rest of a kind become one finding that says how many they are."""
    kinds: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        kinds[finding.severity, finding.kind].append(finding)
    short = []
    for alike in kinds.values():
        short += alike[:most]
        if rest := alike[most:]:
            paths = tuple(path for finding in rest for path in finding.paths)
            drop = tuple(path for finding in rest for path in finding.drop)
            first = rest[0]
            short.append(Finding(first.kind, first.severity, f"and {len(rest):,} more of this kind", paths, drop, first.flag))
    return short


def settled(
    dataset: Dataset, findings: Iterable[Finding], skip_bad: bool, drop_duplicates: bool
) -> tuple[Dataset, dict[str, str]]:
    """The data that may be learned from, and why each file that was left out was.

    Raises:
        DatasetError: if there are errors that nobody allowed to leave out, or that this does not mend; the text lists them.
    """
    allowed = {SKIP: skip_bad, DROP_DUPLICATES: drop_duplicates, "": False}
    refused, left_out = [], dict[str, str]()
    for finding in findings:
        if finding.drop and allowed[finding.flag]:
            left_out |= {path: left_out.get(path, finding.kind) for path in finding.drop}
        elif finding.severity == "error":
            refused.append(finding)
    if refused:
        raise DatasetError(_refusal(refused))
    return (dataset.without(left_out) if left_out else dataset), left_out


def _refusal(errors: Sequence[Finding]) -> str:
    lines = [f"  {finding.text}" for finding in shortened(errors)]
    flags = " and ".join(sorted({finding.flag for finding in errors if finding.flag}))
    way = "Mend the data"
    if flags:
        way += (
            f", or leave these files out with {flags}" if all(e.flag for e in errors) else f"; {flags} can leave out the rest"
        )
    count = "One problem stops" if len(errors) == 1 else f"{len(errors):,} problems stop"
    return f"{count} the fit:\n" + "\n".join(lines) + f"\n{way}."


def _by(samples: Iterable[Sample], key: Callable[[Sample], bytes]) -> dict[bytes, list[Sample]]:
    """The samples by a key."""
    groups: dict[bytes, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[key(sample)].append(sample)
    return groups


def _copies(samples: Sequence[Sample], alike: Iterable[tuple[bytes, bytes]]) -> dict[bytes, list[Sample]]:
    """By digest, the samples whose bytes occur twice or more, or whose digest is among those that look alike."""
    # Of a million different files no dictionary is made: eight bytes of each digest say which might be repeated.
    starts = np.fromiter((int.from_bytes(sample.digest[:8], "big") for sample in samples), np.uint64, len(samples))
    _, place, counts = np.unique(starts, return_inverse=True, return_counts=True)
    repeated, near = counts[place] > 1, {digest for pair in alike for digest in pair}
    kept = (sample for sample, more in zip(samples, repeated.tolist(), strict=True) if more or sample.digest in near)
    return _by(kept, lambda sample: sample.digest)


def _unusable(looks: Looks) -> list[Finding]:
    return [
        Finding(KINDS.get(trouble.code, "unreadable"), "error", _said(path, trouble.text), (path,), (path,), SKIP)
        for path, trouble in looks.troubles.items()
    ]


def _said(path: str, text: str) -> str:
    return plain(text if path in text else f"{path}: {text}")


def _too_many_bad(dataset: Dataset, findings: Iterable[Finding]) -> list[Finding]:
    bad = {path for finding in findings if finding.flag == SKIP for path in finding.drop}
    n_files = len(dataset.samples) + len(bad - {sample.path for sample in dataset.samples}) if bad else 1
    if len(bad) <= MOST_BAD * n_files:
        return []
    text = f"{len(bad):,} of {n_files:,} files cannot be used, more than {MOST_BAD:.0%}: too many to leave out"
    return [Finding("too-many-bad", "error", text)]


def _exact(copies: dict[bytes, list[Sample]]) -> list[Finding]:
    """The same bytes more than once: under two labels, in two parts, or merely twice."""
    found = []
    for samples in copies.values():
        if len(samples) == 1:
            continue
        paths = tuple(sample.path for sample in samples)
        if len({sample.labels for sample in samples}) > 1:
            text = f"one image under two labels: {examples(paths)}"
            found.append(Finding("conflict", "error", text, paths, paths, DROP_DUPLICATES))
        elif len({sample.part for sample in samples}) > 1:
            text = f"one image to learn from and held out: {examples(paths)}"
            found.append(Finding("leak", "error", text, paths, _learned(samples), DROP_DUPLICATES))
        else:
            found.append(Finding("duplicate", "warning", f"one image {len(paths)} times: {examples(paths)}", paths))
    return found


def _learned(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Of samples in several parts, those that are left out so that only one part keeps any."""
    parts = {sample.part or "train" for sample in samples}
    kept = next(part for part in HELD_OUT if part in parts)
    return tuple(sample.path for sample in samples if (sample.part or "train") != kept)


def _near(copies: dict[bytes, list[Sample]], alike: Iterable[tuple[bytes, bytes]]) -> list[Finding]:
    """Different bytes that show the same. Warnings: a person can tell whether two frames of one film are two images."""
    found = []
    for cluster in clusters(pair for pair in alike if pair[0] in copies and pair[1] in copies):
        samples = [sample for digest in cluster for sample in copies[digest]]
        paths = tuple(sample.path for sample in samples)
        shown = examples(paths)
        if len({sample.labels for sample in samples}) > 1:
            found.append(Finding("near-conflict", "warning", f"nearly one image under different labels: {shown}", paths))
        elif len({sample.part for sample in samples}) > 1:
            found.append(Finding("near-leak", "warning", f"nearly one image to learn from and held out: {shown}", paths))
        else:
            found.append(Finding("near-duplicate", "warning", f"nearly one image: {shown}", paths))
    return found


def _torn(samples: Iterable[Sample]) -> list[Finding]:
    """Groups that a person named, in more than one part."""
    named = _by((sample for sample in samples if sample.group != sample.digest), lambda sample: sample.group)
    found = []
    for group in named.values():
        if len(parts := Counter(sample.part for sample in group)) > 1:
            counts = " and ".join(f"{count:,} in {part}" for part, count in sorted(parts.items(), reverse=True))
            paths = tuple(sample.path for sample in group)
            text = f"one group in several parts ({counts}): {examples(paths)}"
            found.append(Finding("group-leak", "error", text, paths, _learned(group), DROP_DUPLICATES))
    return found


def _too_few(dataset: Dataset, looks: Looks) -> list[Finding]:
    return [Finding("too-few", "error", text) for text in shortages(grouped(dataset, looks.alike))]

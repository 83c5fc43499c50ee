"""Which images belong together, as their features show. A fit and `graft check` both ask here, so that they say the same."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from graft.training.audit.data_audit import audit_again
from graft.training.audit.image_scan import ScanTable
from graft.training.audit.near_copies import DigestPairs, find_near_copies
from graft.training.config.read_options import ReadOptions
from graft.training.data.bursts import Bursts, find_bursts
from graft.training.data.dataset import Dataset, Sample
from graft.training.data.errors import examples
from graft.training.data.findings import Finding
from graft.training.data.splits import assign_groups, too_small_labels
from graft.training.features.extraction import Features, View

BURSTS, BURST_LEAK = "bursts", "burst-leak"  # kinds of findings
BURST_KINDS = {BURSTS, BURST_LEAK}


class ImageGroups(NamedTuple):
    """What belongs together.

    Attributes:
        pairs: of digests of images that must stay in one split.
        findings: all findings, with those about near copies and bursts.
    """

    pairs: DigestPairs
    findings: list[Finding]


def find_groups(
    dataset: Dataset, table: ScanTable, features: Features, findings: Sequence[Finding], options: ReadOptions
) -> ImageGroups:
    """Compares the images of a data set: near copies and, unless groups are declared or turned off, bursts.

    Args:
        dataset: as it was scanned.
        features: of the images that are used.
        findings: of the audit of the scan.
    """
    near_copies = find_near_copies(dataset, table, features)
    usable = dataset.exclude(table.unreadable) if table.unreadable else dataset
    findings = audit_again(findings, usable, near_copies, options.allow_near_leaks)
    samples = [sample for sample in usable.samples if View(sample).key in features.row_index]
    is_declared = any(sample.group != sample.digest for sample in samples)
    bursts = _find_bursts(samples, features) if options.group_by in (None, "auto") and not is_declared else None
    if bursts is None:
        return ImageGroups(near_copies, findings)
    members = [[samples[row] for row in rows] for rows in bursts.rows]
    pairs = (*near_copies, *((one.digest, other.digest) for burst in members for one, other in pairwise(burst)))
    leaks = _burst_leaks(members)
    # What nobody asked for must not make a fit impossible.
    if options.group_by is None and too_small_labels(assign_groups(usable, pairs)):
        text = f"these look like {bursts.describe()}, too few for the splits: ignored, unless --group-by auto is given"
        return ImageGroups(near_copies, [*findings, Finding(BURSTS, "warning", text), *leaks])
    text = f"these look like {bursts.describe()}: images of a burst stay in one split; --group-by none if they should not"
    return ImageGroups(pairs, [*findings, *leaks, Finding(BURSTS, "note", text)])


def _find_bursts(samples: Sequence[Sample], features: Features) -> Bursts | None:
    paths, labels = [sample.path for sample in samples], [sample.labels for sample in samples]
    return find_bursts(paths, labels, lambda rows: features.load(samples[row] for row in rows))


def _burst_leaks(bursts: Sequence[Sequence[Sample]]) -> list[Finding]:
    """One warning if bursts are in several given splits."""
    split = [burst for burst in bursts if len({sample.split for sample in burst}) > 1]
    if not split:
        return []
    paths = tuple(sample.path for burst in split for sample in burst)
    names = Counter(sample.split or "train" for burst in split for sample in burst)
    counts = " and ".join(f"{count:,} images in {name}" for name, count in sorted(names.items(), reverse=True))
    text = f"{len(split):,} bursts are in several splits ({counts}), so the scores are too good: {examples(paths)}"
    return [Finding(BURST_LEAK, "warning", text, paths)]

"""Checks the label names of a `Listing`: enough of them, spelled apart, and known in training. Reads no files."""

import unicodedata
from collections import defaultdict
from pathlib import Path

from graft.service.visible_text import text_problem
from graft.training.data.errors import MAX_EXAMPLES, DatasetError, ScanIssues, details, examples, printable
from graft.training.data.findings import Finding
from graft.training.data.folders.class_folders import EXPECTED_LAYOUT, suggest_path, suggest_regex
from graft.training.data.listing import Listing

MAX_SHOWN = 40  # characters of a label in a message


def validate_labels(
    root: Path, listing: Listing, issues: ScanIssues, paths: list[str]
) -> tuple[tuple[str, ...], list[Finding]]:
    """Return the label names in order and any issues with them.

    Args:
        paths: all images, for a hint where the labels may be.

    Raises:
        DatasetError: if there are fewer than two labels.
    """
    used = {name for names in set(listing.label_names) for name in names}
    labels = tuple(name for name in listing.label_order if name in used) or tuple(sorted(used))
    if len(labels) < 2:
        reason = (
            f"Only one label was found ({printable(labels[0])}); at least two are needed." if labels else "No label was found."
        )
        hint = suggest_path(root, paths) or suggest_regex(paths)
        expected = EXPECTED_LAYOUT if listing.from_folders else f"Read as: {listing.layout}"
        raise DatasetError(f"{root}: {reason}{hint}\n{expected}{details(issues)}")
    findings = _name_collisions(labels) + _unusable_names(labels)
    if unused := [name for name in listing.label_order if name not in used]:
        findings.append(
            Finding("unused-label", "warning", f"labels without images, excluded ({len(unused)}): {examples(unused)}")
        )
    trained = {
        name for names, split in zip(listing.label_names, listing.splits, strict=True) if split != "test" for name in names
    }
    if trained and (missing := sorted(used - trained)):
        text = f"labels with test images but no training images ({len(missing)}): {examples(missing)}"
        findings.append(Finding("unknown-label", "error", text))
    return labels, findings


def _unusable_names(labels: tuple[str, ...]) -> list[Finding]:
    """Labels that a package cannot have; found out now, not after the training."""
    problems = [(name, problem) for name in labels if (problem := text_problem(name))]
    # ascii(), because the characters may be invisible
    shown = ", ".join(f"{name[:MAX_SHOWN]!a} {problem}" for name, problem in problems[:MAX_EXAMPLES])
    return [Finding("label-name", "error", f"labels that cannot be used ({len(problems):,}): {shown}")] if problems else []


def _name_collisions(labels: tuple[str, ...]) -> list[Finding]:
    by_normalized_name = defaultdict(list)
    for name in labels:
        by_normalized_name[unicodedata.normalize("NFC", name).casefold().strip()].append(name)
    # ascii(), because the difference may be invisible
    return [
        Finding("name-collision", "error", f"labels that differ only in spelling: {', '.join(map(ascii, names))}; merge them")
        for names in by_normalized_name.values()
        if len(names) > 1
    ]

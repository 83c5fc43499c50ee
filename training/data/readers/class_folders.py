"""Derives labels from folder names: image paths -> `Listing`. Never opens an image."""

import hashlib
import os
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from graft.training.data.errors import DatasetError, ScanIssues, details, examples, printable
from graft.training.data.findings import Finding
from graft.training.data.readers.filenames import IMAGE_SUFFIXES, is_hidden, suffix

# Folder names of each split. If there are only two splits, the second one is the test set, whatever its name.
TRAIN_NAMES, VALIDATION_NAMES, TEST_NAMES = ("train", "training"), ("val", "valid", "validation", "dev"), ("test", "testing")
EXPECTED_LAYOUT = """Expected one folder of images for each label:
  photos/cat/1.jpg  photos/cat/2.jpg  photos/dog/3.jpg ...
or the same inside photos/train and photos/test, a .zip or .tar of either, or a .csv with the columns path,label."""


@dataclass
class Listing:
    """Image paths and their labels, stored by column: a million row objects would take too much memory.

    Attributes:
        paths: the images.
        label_names: the label names of each image; images with the same labels share one tuple.
        splits: "train", "validation", "test" or "" for each image.
        groups: the group ID of each image, b"" for no group; empty if no image has a group.
        label_order: all label names in the order defined by the data set; empty if it defines none.
        multilabel: whether an image can have any number of labels, including none.
    """

    paths: list[str] = field(default_factory=list)
    label_names: list[tuple[str, ...]] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    groups: list[bytes] = field(default_factory=list)
    label_order: tuple[str, ...] = ()
    multilabel: bool = False


def split_from_name(name: str) -> str:
    """Return the split that a name stands for: "train", "validation" or "test"; "" if it is none of them."""
    names = {"train": TRAIN_NAMES, "validation": VALIDATION_NAMES, "test": TEST_NAMES}
    return next((split for split, aliases in names.items() if name.casefold() in aliases), "")


def group_id(name: str) -> bytes:
    """Hash a group name to the 16-byte ID stored in `Sample.group`."""
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def list_class_folders(root: Path, paths: list[str], issues: ScanIssues) -> Listing:
    """Label each image with the name of its label folder; images in deeper subfolders get the same label.

    Raises:
        DatasetError: if the folders do not form splits and labels.
    """
    prefix = _common_prefix(paths)
    splits = _split_folders(root, paths, prefix)
    listing, stray_folders = Listing(), set()
    label_tuples: dict[str, tuple[str, ...]] = {}  # one tuple per label, shared by all its images
    for path in paths:
        folder, label, file = _split_path(path, prefix, "" not in splits)
        if not file:
            issues.add("unlabeled", path)
        elif folder not in splits:
            stray_folders.add(prefix + folder)
        else:
            listing.paths.append(path)
            listing.label_names.append(label_tuples.setdefault(label, (label,)))
            listing.splits.append(splits[folder])
    for folder in sorted(stray_folders):
        issues.add("stray-folder", folder)
    _report_empty_folders(listing.paths, prefix, splits, issues)
    return listing


def _split_path(path: str, prefix: str, has_splits: bool) -> tuple[str, str, str]:
    """Split a path below `prefix` into (split folder, label, rest); rest is "" if the image is outside a label folder."""
    folder, rest = "", path[len(prefix) :]
    if has_splits:
        folder, _, rest = rest.partition("/")
    label, _, file = rest.partition("/")
    return folder, label, file


def _common_prefix(paths: list[str]) -> str:
    """Return the folders shared by all paths, with a trailing slash: usually the top folder of a zip."""
    first, last = min(paths), max(paths)  # a common prefix of these two is shared by all paths in between
    n_shared = next((index for index, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    prefix = first[: first.rfind("/", 0, n_shared) + 1]
    if any("/" in path[len(prefix) :] for path in paths):
        return prefix
    return prefix[: prefix.rfind("/", 0, -1) + 1]  # no subfolders: the last shared folder is a label


def _split_folders(root: Path, paths: list[str], prefix: str) -> dict[str, str]:
    """Map split folders to split names; {"": ""} if the data set has no split folders."""
    folders, folders_with_images = set(), set()
    for path in paths:
        folder, rest, _ = _split_path(path, prefix, True)
        if rest:
            folders.add(folder)
            if path.count("/", len(prefix)) == 1:
                folders_with_images.add(folder)
    by_split: dict[str, list[str]] = defaultdict(list)
    for folder in sorted(folders):
        by_split[split_from_name(folder)].append(folder)
    train, validation, test = by_split["train"], by_split["validation"], by_split["test"]
    if train and (validation or test):
        held_out = {validation[0]: "validation", test[0]: "test"} if validation and test else {(test or validation)[0]: "test"}
        return {train[0]: "train", **held_out}
    # "train" can be a label, such as a vehicle next to "bus": it is a split only if it has subfolders but no images.
    if len(folders) > 1 and train and train[0] not in folders_with_images:
        others = ", ".join(map(printable, sorted(folders - {train[0]})))
        hint = f"Did you mean {root / prefix / train[0]}?"
        raise DatasetError(f"{root} has {train[0]} and {others}, but no test or validation folder. {hint}\n{EXPECTED_LAYOUT}")
    if len(folders) > 1 and not train and not by_split[""]:
        raise DatasetError(f"{root} has {' and '.join(sorted(folders))}, but no train folder.\n{EXPECTED_LAYOUT}")
    return {"": ""}


def _report_empty_folders(paths: list[str], prefix: str, splits: dict[str, str], issues: ScanIssues) -> None:
    """Report label folders without images."""
    has_splits = "" not in splits
    candidates = [
        _split_path(f"{folder}/.", prefix, has_splits) for folder in issues.empty_folders if folder.startswith(prefix)
    ]
    empty = {(folder, label) for folder, label, file in candidates if file and folder in splits}
    if empty:
        empty -= {_split_path(path, prefix, has_splits)[:2] for path in paths}
    for folder, label in sorted(empty):
        issues.add("empty-folder", prefix + (f"{folder}/{label}" if folder else label))


def validate_labels(root: Path, listing: Listing, issues: ScanIssues) -> tuple[tuple[str, ...], list[Finding]]:
    """Return the label names in order and any issues with them.

    Raises:
        DatasetError: if there are fewer than two labels.
    """
    used = {name for names in set(listing.label_names) for name in names}
    labels = tuple(name for name in listing.label_order if name in used) or tuple(sorted(used))
    if len(labels) < 2:
        reason = (
            f"Only one label was found ({printable(labels[0])}); at least two are needed." if labels else "No label was found."
        )
        raise DatasetError(f"{root}: {reason}{suggest_path(root, listing.paths)}\n{EXPECTED_LAYOUT}{details(issues)}")
    findings = _name_collisions(labels)
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


def suggest_path(root: Path, paths: list[str]) -> str:
    """Return " Did you mean ...?" for a folder below or above the root, or a table in it, with the expected layout; else ""."""
    if not root.is_dir():
        return ""
    children: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        folders = path.split("/")[:-1]
        for depth, folder in enumerate(folders):
            children["/".join(folders[:depth])].add(folder)
    candidates = [folder for folder, names in children.items() if folder and len(names) > 1]
    if candidates:
        return f" Did you mean {root / min(candidates, key=lambda folder: (folder.count('/'), folder))}?"
    tables = sorted(path for path in root.iterdir() if suffix(path.name) in (".csv", ".tsv", ".parquet"))
    if tables:
        return f" Did you mean {tables[0]}?"
    parent = root.resolve().parent
    if sum(map(_contains_image, parent.iterdir())) > 1:
        return f" Did you mean {parent}?"
    return ""


def _contains_image(folder: Path) -> bool:
    """Return whether one of the first 100 entries of a folder has an image suffix."""
    try:
        with os.scandir(folder) as entries:
            return not is_hidden(folder.name) and any(suffix(entry.name) in IMAGE_SUFFIXES for entry in islice(entries, 100))
    except OSError:
        return False

"""`Listing`, the image paths and labels that every reader returns, and `ListingBuilder`, which checks the rows of a table."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from graft.training.data.errors import ScanIssues
from graft.training.data.split_names import UNLABELED, split_from_name


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
        layout: where the labels and splits were found, in one line.
        from_folders: whether the labels were read from folder or file names.
    """

    paths: list[str] = field(default_factory=list)
    label_names: list[tuple[str, ...]] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    groups: list[bytes] = field(default_factory=list)
    label_order: tuple[str, ...] = ()
    multilabel: bool = False
    layout: str = ""
    from_folders: bool = False


class ListingBuilder:
    """Builds a `Listing` from the rows of a table.

    Args:
        allow_unlabeled: whether an image can have no label.
    """

    def __init__(self, allow_unlabeled: bool, issues: ScanIssues) -> None:
        self.listing = Listing()
        self._allow_unlabeled, self._issues = allow_unlabeled, issues
        self._label_tuples: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._group_ids: dict[str, bytes] = {"": b""}

    def add(self, path: str, label_names: tuple[str, ...], split: str, group_name: str, row: str = "") -> None:
        """Add one row, or record an issue if it cannot be used.

        Args:
            split: as in the table, in any spelling.
            row: where the row is, for messages, such as " (line 3)".
        """
        canonical_split = split_from_name(split)
        if not label_names and not self._allow_unlabeled:
            self._issues.add("no-label", path, row)
        elif split and canonical_split in ("", UNLABELED):
            self._issues.add("bad-split", path, f"{row}: {split}" if row else f" ({split})")
        else:
            self.listing.paths.append(path)
            self.listing.label_names.append(self._label_tuples.setdefault(label_names, label_names))
            self.listing.splits.append(canonical_split)
            if group_name not in self._group_ids:
                self._group_ids[group_name] = group_id(group_name)
            self.listing.groups.append(self._group_ids[group_name])

    def build(self) -> Listing:
        """Return the listing without duplicate paths."""
        listing = self.listing
        first: dict[str, int] = {}
        duplicates = [row for row, path in enumerate(listing.paths) if first.setdefault(path, row) != row]
        conflicting = {
            listing.paths[row] for row in duplicates if not _same_labels_and_split(listing, row, first[listing.paths[row]])
        }
        for path in sorted({listing.paths[row] for row in duplicates}):
            self._issues.add("conflicting-rows" if path in conflicting else "duplicate-row", path)
        if duplicates:
            _remove_rows(listing, {*duplicates, *(first[path] for path in conflicting)})
        if any(listing.splits) and (without_split := {row for row, split in enumerate(listing.splits) if not split}):
            for row in sorted(without_split):
                self._issues.add("no-split", listing.paths[row])
            _remove_rows(listing, without_split)
        listing.splits = normalize_splits(listing.splits)
        return listing


def group_id(name: str) -> bytes:
    """Hash a group name to the 16-byte ID stored in `Sample.group`."""
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def normalize_splits(splits: list[str]) -> list[str]:
    """Ignore a single split; of two splits, the second one is the test set, whatever its name."""
    distinct = set(splits)
    if len(distinct) == 1:
        return [""] * len(splits)
    return ["test" if split == "validation" else split for split in splits] if "test" not in distinct else splits


def _remove_rows(listing: Listing, rows: set[int]) -> None:
    columns: tuple[list[Any], ...] = listing.paths, listing.label_names, listing.splits, listing.groups
    for column in columns:
        column[:] = [value for row, value in enumerate(column) if row not in rows]


def _same_labels_and_split(listing: Listing, row: int, other: int) -> bool:
    return (listing.label_names[row], listing.splits[row]) == (listing.label_names[other], listing.splits[other])

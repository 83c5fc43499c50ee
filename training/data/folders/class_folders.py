"""Derives labels from folder names, or from file names by a regular expression: image paths -> `Listing`."""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path

from graft.training.config.read_options import ReadOptions
from graft.training.data.errors import DatasetError, ScanIssues, printable
from graft.training.data.folders.folder_layout import FolderLayout, Place, apply_levels, are_generic, infer_layout
from graft.training.data.folders.folder_tree import build_tree
from graft.training.data.listing import Listing, normalize_splits
from graft.training.data.readers.filenames import IMAGE_SUFFIXES, is_hidden, suffix

EXPECTED_LAYOUT = """Expected one folder of images for each label:
  photos/cat/1.jpg  photos/cat/2.jpg  photos/dog/3.jpg ...
or the same inside photos/train and photos/test, a .zip or .tar of either, or a table with the columns path,label.
If the folders mean something else, say so: --layout split/label, --layout fold/label, --layout label, ..."""
MIN_IMAGES_PER_NAME = 2  # images that share a label in their names, on average, for a suggested --label-regex


def list_class_folders(
    root: Path, paths: list[str], options: ReadOptions, issues: ScanIssues, other_files: Collection[str] = ()
) -> Listing:
    """Label each image by its label folder, or by `options.label_regex`; images in deeper subfolders get the same label.

    Args:
        other_files: files that are no images: a folder with some is not an empty label folder.

    Raises:
        DatasetError: if the folders do not form splits and labels.
    """
    layout = _lay_out(root, paths, options)
    listing = Listing(layout=layout.to_text(), from_folders=True)
    folds: list[int | None] = []
    for path, place, label in _labeled(paths, layout, options.label_regex, issues):
        listing.paths.append(path)
        listing.label_names.append(label)
        listing.splits.append(place.split)
        folds.append(place.fold)
    _apply_folds(root, listing, folds, options.fold)
    listing.splits = normalize_splits(listing.splits)
    _report(layout, issues, other_files)
    return listing


def _lay_out(root: Path, paths: list[str], options: ReadOptions) -> FolderLayout:
    tree = build_tree(paths)
    labels_in_names = options.label_regex is not None
    if options.layout:
        levels = options.layout.split("/")
        if "label" not in levels and not labels_in_names:
            raise DatasetError(f"--layout {options.layout} has no label level; add one, or use --label-regex.")
        return apply_levels(tree, levels, labels_in_names)
    try:
        return infer_layout(root, tree, labels_in_names)
    except DatasetError as error:
        raise DatasetError(f"{root}: {error}{suggest_regex(paths)}\n{EXPECTED_LAYOUT}") from None


def _labeled(
    paths: list[str], layout: FolderLayout, label_regex: str | None, issues: ScanIssues
) -> Iterator[tuple[str, Place, tuple[str, ...]]]:
    """Yield the path, place and label of each image that has them; record the others."""
    search = re.compile(label_regex).search if label_regex else None
    label_tuples: dict[str, tuple[str, ...]] = {}  # one tuple per label, shared by all its images
    places: dict[str, Place | str] = {}  # by folder
    passed_over = dict.fromkeys(layout.unlabeled, "unlabeled-split") | dict.fromkeys(layout.copies, "copied-folder")
    passed_over |= dict.fromkeys(layout.stray, "stray-folder")
    for path in paths:
        folder = path.rpartition("/")[0]
        if folder not in places:
            places[folder] = _find_place(folder, layout.places, passed_over)
        place = places[folder]
        if isinstance(place, str):
            if place == "unlabeled":
                issues.add(place, path)
            continue
        match = search(path) if search else None
        label = (match[1] or "") if match else place.label
        if search and not label:
            issues.add("no-label-in-name", path)
        else:
            yield path, place, label_tuples.setdefault(label, (label,))


def _find_place(folder: str, places: dict[str, Place], passed_over: dict[str, str]) -> Place | str:
    """Return the place of the nearest folder that has one, or the kind of issue with the folder."""
    while True:
        if folder in places:
            return places[folder]
        if folder in passed_over:
            return passed_over[folder]
        if not folder:
            return "unlabeled"
        folder = folder.rpartition("/")[0]


def _apply_folds(root: Path, listing: Listing, folds: list[int | None], selected: int | None) -> None:
    """Make one fold the test set, or, if each fold has its own splits, use only that fold."""
    numbers = sorted({fold for fold in folds if fold is not None})
    if not numbers:
        if selected is not None:
            raise DatasetError(f"--fold {selected}: {root} has no folds.")
        return
    if selected is not None and selected not in numbers:
        raise DatasetError(f"--fold {selected}: {root} has the folds {', '.join(map(str, numbers))}.")
    test_fold = numbers[-1] if selected is None else selected
    if any(listing.splits):
        rows = [row for row, fold in enumerate(folds) if fold == test_fold]
        listing.paths = [listing.paths[row] for row in rows]
        listing.label_names = [listing.label_names[row] for row in rows]
        listing.splits = [listing.splits[row] for row in rows]
        use = f"only fold {test_fold} is used"
    else:
        listing.splits = ["test" if fold == test_fold else "train" for fold in folds]
        use = f"fold {test_fold} is the test set"
    listing.layout += f"; of the folds {', '.join(map(str, numbers))}, {use}; --fold N selects another"


def _report(layout: FolderLayout, issues: ScanIssues, other_files: Collection[str]) -> None:
    """Record folders that are passed over, and label folders without images."""
    for kind, folders in {
        "unlabeled-split": layout.unlabeled,
        "copied-folder": layout.copies,
        "stray-folder": layout.stray,
    }.items():
        for folder in sorted(set(folders)):
            issues.add(kind, folder)
    if layout.warning:
        issues.add("ambiguous-layout", layout.warning)
    understood = _with_parents([*layout.places, *layout.unlabeled, *layout.copies, *layout.stray])
    with_files = _with_parents([path.rpartition("/")[0] for path in other_files])
    for folder in sorted({_label_folder(folder, layout.parents) for folder in issues.empty_folders} - {""} - understood):
        issues.add("folder-without-images" if folder in with_files else "empty-folder", folder)


def _label_folder(folder: str, parents: Collection[str]) -> str:
    """Return the folder itself, or the one above it, that is beside the label folders; "" if none is."""
    while folder and folder.rpartition("/")[0] not in parents:
        folder = folder.rpartition("/")[0]
    return folder


def _with_parents(folders: Iterable[str]) -> set[str]:
    """Return the folders and all folders above them."""
    found: set[str] = set()
    for path in folders:
        folder = path
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found


def has_generic_labels(listing: Listing) -> bool:
    """Return whether the label folders are named like kinds of files, such as images and masks."""
    return are_generic({label for labels in set(listing.label_names) for label in labels})


def suggest_regex(paths: list[str]) -> str:
    """Return " Did you mean --label-regex ...?" if file names look like a label and a number, such as cat.12.jpg; else ""."""
    pattern = r"([^/]*[^/\W\d_])[._ -]*\d+\.\w+$"
    matches = [re.search(pattern, path) for path in paths[:10_000]]
    names = Counter(match[1] for match in matches if match)
    if len(names) < 2 or sum(names.values()) < max(0.5 * len(matches), MIN_IMAGES_PER_NAME * len(names)):
        return ""
    examples = ", ".join(map(printable, list(names)[:3]))
    return f" If the labels are in the file names ({examples}, ...), use --label-regex '{pattern}'."


def suggest_path(root: Path, paths: list[str]) -> str:
    """Return " Did you mean ...?" for a folder below or above the root with the expected layout; else ""."""
    if not root.is_dir():
        return ""
    children: dict[str, set[str]] = {}
    for folder in {path.rpartition("/")[0] for path in paths}:
        names = folder.split("/")
        for depth, name in enumerate(names):
            children.setdefault("/".join(names[:depth]), set()).add(name)
    candidates = [folder for folder, names in children.items() if folder and len(names) > 1]
    if candidates:
        return f" Did you mean {root / min(candidates, key=lambda folder: (folder.count('/'), folder))}?"
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

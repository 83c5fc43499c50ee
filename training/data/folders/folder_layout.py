"""Finds out which folders are splits, folds and labels, from their names and nesting. Never opens a file."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from graft.training.data.errors import DatasetError, printable
from graft.training.data.folders.folder_tree import Branch, Folder, common_names, join, repeated, unwrap
from graft.training.data.folders.split_folders import find_folds, find_splits, splits_below
from graft.training.data.split_names import UNLABELED, fold_from_name, split_from_name

# Names that say nothing about what an image shows: numbers, and folders of a kind of file.
_GENERIC = re.compile(
    r"[\W\d_]*|\d+x|images?|imgs?|pictures?|photos?|masks?|originals?|augmented|left|right|front|back|raw|crops?"
)
# Names of places and times of recording, which are no labels: camera1, site_b, batch-2.
_SOURCE = re.compile(
    r"(?:parts?|sets?|batch(?:es)?|sessions?|sites?|cameras?|cams?|sources?|domains?|subjects?|patients?|users?"
    r"|persons?|days?|runs?|groups?|chunks?|shards?|volumes?|dis[ck]s?)[\W\d_]*[a-z]?"
)
# Names of pieces of one set, which differ only in their number: images_part_1 and images_part_2.
_PIECE = re.compile(r"(?:.*[\W\d_])?(?:part|batch|fold|chunk|shard|subset|split)[\W_]*(?:\d+|[a-z])")
_NUMBER_OR_LETTER = re.compile(r"[\W_]*(?:[a-z]|\d+)")


@dataclass(frozen=True)
class Place:
    """What the folder of an image says about it."""

    label: str
    split: str = ""
    fold: int | None = None


@dataclass
class FolderLayout:
    """How the folders of a data set were understood.

    Attributes:
        levels: the meaning of each level of folders, from the top: "split", "fold", "label" or "*".
        places: label folder -> what it stands for; images in its subfolders are in the same place.
        parents: the folders whose subfolders are labels.
        unlabeled: folders of a split without labels, which are passed over.
        copies: folders that repeat the folders beside them, which are passed over.
        stray: folders beside the splits or folds that are neither.
        names: the names of the folders of each level, except labels, with their meaning, such as "seg_train is train".
        warning: why the labels may be other folders; "" if there is no doubt.
    """

    levels: list[str] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)
    parents: set[str] = field(default_factory=set)
    unlabeled: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    warning: str = ""

    def to_text(self) -> str:
        """Describe the layout in one line."""
        names = ", ".join(map(printable, self.names[:8])) + (f", … ({len(self.names)})" if len(self.names) > 8 else "")
        unused = [*self.unlabeled, *self.copies]
        passed_over = f"; not used: {', '.join(map(printable, unused[:8]))}" if unused else ""
        return f"{'/'.join(self.levels)}{f' ({names})' if names else ''}{passed_over}"


def infer_layout(root: Path, tree: Folder, labels_in_names: bool = False) -> FolderLayout:
    """Find the level of the labels and the levels above it.

    Args:
        root: the data set, for messages.
        labels_in_names: the labels are in the file names, so that the folders hold splits and folds at most.

    Raises:
        DatasetError: if the folders are splits without labels, or splits without a training split.
    """
    layout, branches = FolderLayout(), [Branch("", tree)]
    while True:
        branches = [_without_copies(unwrap(branch), layout) for branch in branches]
        names = sorted({name for branch in branches for name in branch.folder.children})
        if "split" not in layout.levels and (splits := find_splits(root, names, branches)):
            branches = _enter_splits(branches, splits, layout, labels_in_names)
        elif "fold" not in layout.levels and (folds := find_folds(names)):
            branches = _enter_folds(branches, folds, layout, labels_in_names)
        elif labels_in_names:
            layout.places |= {branch.path: Place("", branch.split, branch.fold) for branch in branches}
            return layout
        elif _labels_are_below(branches):
            branches = _enter_sources(branches, layout)
        else:
            _place_labels(root, branches, layout)
            return layout


def apply_levels(tree: Folder, levels: list[str], labels_in_names: bool = False) -> FolderLayout:
    """Lay out the folders as the user says.

    Args:
        levels: the meaning of each level of folders, from the top.
    """
    layout, branches = FolderLayout(levels), [("", Branch("", tree))]
    for level in levels:
        if level == "label":
            layout.parents = {branch.path for _, branch in branches}
        branches = [
            entered
            for label, branch in branches
            for name in sorted(branch.folder.children)
            if (entered := _enter_level(level, label, branch.child(name), name, layout))
        ]
    if labels_in_names or "label" in levels:
        layout.places = {branch.path: Place(label, branch.split, branch.fold) for label, branch in branches}
    return layout


def _enter_level(level: str, label: str, branch: Branch, name: str, layout: FolderLayout) -> tuple[str, Branch] | None:
    if level == "label":
        return name, branch
    split = split_from_name(name) if level == "split" else branch.split
    fold = fold_from_name(name) if level == "fold" else branch.fold
    if level == "fold" and fold is None and name.isdecimal():
        fold = int(name)
    if split == UNLABELED:
        layout.unlabeled.append(branch.path)
    elif (level == "split" and not split) or (level == "fold" and fold is None):
        layout.stray.append(branch.path)
    else:
        return label, replace(branch, split=split, fold=fold)
    return None


def _without_copies(branch: Branch, layout: FolderLayout) -> Branch:
    name = repeated(branch)
    if not name:
        return branch
    layout.copies.append(join(branch.path, name))
    children = {other: folder for other, folder in branch.folder.children.items() if other != name}
    return replace(branch, folder=Folder(branch.folder.n_images, children))


def _enter_splits(
    branches: list[Branch], splits: Mapping[str, str], layout: FolderLayout, labels_in_names: bool
) -> list[Branch]:
    def enter(branch: Branch, name: str) -> Branch | None:
        split = splits.get(name) or split_from_name(name)
        below = _enter_wrapper(unwrap(replace(branch.child(name), split=split)), name)
        if below.folder.is_flat and split and (name not in splits or split == UNLABELED):
            layout.unlabeled.append(branch.child(name).path)
        elif name not in splits or split == UNLABELED:
            layout.stray.append(branch.child(name).path)
        elif below.folder.is_flat and not labels_in_names:
            flat.append(below)
        else:
            return below
        return None

    flat: list[Branch] = []
    entered = _enter_all(branches, enter)
    if not any(branch.split == "train" for branch in entered):
        names = " and ".join(printable(name) for name in splits)
        raise DatasetError(f"{names} are splits by their names, but have no label folders in them.")
    layout.unlabeled += [branch.path for branch in flat]
    layout.levels.append("split")
    layout.names += [f"{name} is {split}" for name, split in splits.items() if split != UNLABELED]
    return entered


def _enter_folds(branches: list[Branch], folds: Mapping[str, int], layout: FolderLayout, labels_in_names: bool) -> list[Branch]:
    def enter(branch: Branch, name: str) -> Branch | None:
        below = _enter_wrapper(unwrap(branch.child(name)), name)
        if name not in folds:
            layout.stray.append(branch.child(name).path)
            return None
        if below.folder.is_flat and not labels_in_names:
            raise DatasetError(f"{printable(name)} is a fold by its name, but has no label folders in it.")
        return replace(below, fold=folds[name])

    entered = _enter_all(branches, enter)
    layout.levels.append("fold")
    return entered


def _enter_wrapper(branch: Branch, name: str) -> Branch:
    """Enter the only folder of a split or fold that has nothing but images, if its name shows that it is no label."""
    names = list(branch.folder.children)
    is_only = len(names) == 1 and branch.folder.n_images == 0 and branch.folder.children[names[0]].is_flat
    repeats = is_only and (
        names[0] == name or _match(_GENERIC, names) or split_from_name(names[0]) in (branch.split, UNLABELED)
    )
    return branch.child(names[0]) if repeats else branch


def _enter_all(branches: list[Branch], enter: Callable[[Branch, str], Branch | None]) -> list[Branch]:
    pairs = ((branch, name) for branch in branches for name in sorted(branch.folder.children))
    return [entered for branch, name in pairs if (entered := enter(branch, name))]


def _labels_are_below(branches: list[Branch]) -> bool:
    """Return whether the subfolders of all folders have the same names: then those are the labels, and the folders are not."""
    outer = [(name, unwrap(branch.child(name)).folder) for branch in branches for name in branch.folder.children]
    if len({name for name, _ in outer}) < 2 or any(folder.is_flat or folder.n_images for _, folder in outer):
        return False
    common = common_names([folder for _, folder in outer])
    if len(common) < 2:
        return False
    inner = [folder.children[name] for _, folder in outer for name in common & folder.children.keys()]
    splits = {split_from_name(name) for name in common}
    if ("train" in splits and len(splits) > 1) or all(fold_from_name(name) is not None for name in common):
        # cat/train/1.jpg has the split below the label; camera1/train/cat/1.jpg does not.
        return not all(folder.is_flat for folder in inner)
    return _match(_SOURCE, [name for name, _ in outer]) or not _match(_GENERIC, common)


def are_generic(names: Collection[str]) -> bool:
    """Return whether folder names say nothing about what an image shows, such as images and masks, or photos1 and photos2."""
    return _match(_GENERIC, names) and not all(map(str.isdecimal, names))


def _match(pattern: re.Pattern[str], names: Collection[str]) -> bool:
    return all(pattern.fullmatch(name.casefold()) for name in names)


def _enter_sources(branches: list[Branch], layout: FolderLayout) -> list[Branch]:
    names = sorted({name for branch in branches for name in branch.folder.children})
    layout.levels.append("*")
    layout.names.append(f"{len(names)} folders with the same subfolders, read as one")
    if not _match(_SOURCE, names) and not _match(_NUMBER_OR_LETTER, names):
        example = ", ".join(map(printable, names[:3]))
        layout.warning = (
            f"folders with the same subfolders ({example}) are not read as labels, their subfolders are;"
            f" if they are the labels, use --layout {'/'.join([*layout.levels[:-1], 'label'])}"
        )
    return [branch.child(name) for branch in branches for name in sorted(branch.folder.children)]


def _refuse_data_sets(root: Path, branches: list[Branch]) -> None:
    """Refuse folders of which one holds a training split with labels: it is a data set, and no label."""
    for branch in branches:
        for name in branch.folder.children:
            below = unwrap(branch.child(name))
            splits = {split_from_name(inner): folder for inner, folder in below.folder.children.items()}
            if "train" in splits and len(splits) > 1 and not splits["train"].is_flat and len(branch.folder.children) > 1:
                others = ", ".join(printable(other) for other in sorted(branch.folder.children) if other != name)
                reason = f"{printable(name)} holds a data set with splits of its own, beside {others}."
                raise DatasetError(f"{reason} Did you mean {root / below.path}?")


def _place_labels(root: Path, branches: list[Branch], layout: FolderLayout) -> None:
    """Read the subfolders as labels, and their subfolders as splits if all are named so."""
    names = {name for branch in branches for name in branch.folder.children}
    if len(names) > 1 and _match(_PIECE, names) and len({re.sub(r"\d+|[a-z]$", "", name.casefold()) for name in names}) == 1:
        raise DatasetError(
            f"{' and '.join(map(printable, sorted(names)[:5]))} are parts by their names, but have no label folders."
        )
    _refuse_data_sets(root, branches)
    layout.levels.append("label")
    layout.parents = {branch.path for branch in branches}
    layout.unlabeled += [branch.path for branch in branches if _is_unlabeled(branch, branches)]
    labels = [
        (name, unwrap(branch.child(name)))
        for branch in branches
        if branch.path not in layout.unlabeled
        for name in sorted(branch.folder.children)
    ]
    splits = splits_below(labels) if "split" not in layout.levels else {}
    if not splits:
        # Not the unwrapped folder: images in cat/ and in cat/a/ are all cats.
        pairs = ((branch, name) for branch in branches for name in sorted(branch.folder.children))
        layout.places |= {
            branch.child(name).path: Place(name, branch.split, branch.fold)
            for branch, name in pairs
            if branch.path not in layout.unlabeled
        }
        return
    layout.levels.append("split")
    layout.names += [f"{name} is {split}" for name, split in splits.items()]
    for label, branch in labels:
        for name in sorted(branch.folder.children):
            layout.places[branch.child(name).path] = Place(label, splits[name], branch.fold)


def _is_unlabeled(branch: Branch, branches: list[Branch]) -> bool:
    """Return whether a test split has one folder that is no label, as in test/unknown/1.jpg."""
    trained = {name for other in branches if other.split == "train" for name in other.folder.children}
    return (
        branch.split not in ("", "train") and len(branch.folder.children) == 1 and not trained & branch.folder.children.keys()
    )

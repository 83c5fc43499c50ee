"""Finds the folders that are splits and folds, by their names and what is in them. Never opens a file."""

from collections import defaultdict
from pathlib import Path

from graft.training.data.errors import DatasetError, printable
from graft.training.data.folders.folder_tree import Branch, common_names, unwrap
from graft.training.data.split_names import UNLABELED, fold_from_name, is_evaluation, split_and_rest, split_from_name


def find_splits(root: Path, names: list[str], branches: list[Branch]) -> dict[str, str]:
    """Return the folders that are splits: for training and another, with names that differ in nothing else; {} if none are.

    Raises:
        DatasetError: if there are splits, but none to train on.
    """
    by_rest: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for name in names:
        split, rest = split_and_rest(name)
        if split:
            by_rest[rest][name] = split
    for rest in list(by_rest):
        by_rest[rest] |= _unnamed_train(rest, by_rest[rest], names, branches)
    # "steam train" and "crash test" differ in more than the split, so that they are labels.
    groups = [group for group in by_rest.values() if "train" in group.values() and len(set(group.values())) > 1]
    if groups:
        return _separate_evaluation(max(groups, key=len))
    found = by_rest.get((), {})
    if len(names) > 1 and len(found) == len(names) and "train" not in found.values():
        raise DatasetError(f"there are {' and '.join(map(printable, names))}, but no train folder.")
    return {} if len(names) < 2 else _lone_train(root, found, names, branches)


def _unnamed_train(rest: tuple[str, ...], group: dict[str, str], names: list[str], branches: list[Branch]) -> dict[str, str]:
    """Return the training split of a pair such as "rps" and "rps-test-set", with the same labels; {} if there is none."""
    if "train" in group.values() or not {"validation", "test"} & set(group.values()):
        return {}
    for name in names:
        if split_and_rest(name) == ("", rest):
            folders = [
                unwrap(branch.child(one)).folder
                for branch in branches
                for one in (name, *group)
                if one in branch.folder.children
            ]
            return {name: "train"} if len(common_names(folders)) > 1 else {}
    return {}


def _lone_train(root: Path, found: dict[str, str], names: list[str], branches: list[Branch]) -> dict[str, str]:
    """Return a training split beside images to predict; {} if "train" is a label, such as a vehicle beside "bus"."""
    trains = [name for name, split in found.items() if split == "train"]
    folders = [branch.folder.children[name] for branch in branches for name in trains if name in branch.folder.children]
    if not folders or any(folder.is_flat or folder.n_images for folder in folders):
        return {}
    others = [name for name in names if name not in trains]
    if all(split_from_name(name) == UNLABELED for name in others):
        return {name: split_from_name(name) for name in names}
    raise DatasetError(
        f"there are {printable(trains[0])} and {', '.join(map(printable, others[:10]))}, but no test or validation folder."
        f" Did you mean {root / branches[0].path / trains[0]}?"
    )


def _separate_evaluation(splits: dict[str, str]) -> dict[str, str]:
    """Beside a test folder, an "eval" folder is the validation split."""
    evaluations = {name for name, split in splits.items() if split == "test" and is_evaluation(name)}
    if "validation" in splits.values() or not {name for name, split in splits.items() if split == "test"} - evaluations:
        return splits
    return splits | dict.fromkeys(evaluations, "validation")


def find_folds(names: list[str]) -> dict[str, int]:
    """Return the numbers of the folders that are folds; {} if there are none."""
    folds = {name: fold for name in names if (fold := fold_from_name(name)) is not None}
    return folds if len(set(folds.values())) > 1 else {}


def splits_below(labels: list[tuple[str, Branch]]) -> dict[str, str]:
    """Return the splits in every label folder, as in cat/train/1.jpg; {} if any folder has anything else."""
    names = sorted({name for _, branch in labels for name in branch.folder.children})
    splits = {name: split_from_name(name) for name in names}
    has_images = any(branch.folder.n_images or branch.folder.is_flat for _, branch in labels)
    is_split = "train" in splits.values() and len(set(splits.values())) > 1 and not {"", UNLABELED} & set(splits.values())
    return _separate_evaluation(splits) if is_split and not has_images else {}

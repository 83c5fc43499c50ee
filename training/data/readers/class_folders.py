"""Which folder means which label: the paths of images -> a Listing. Looks at names only."""

import hashlib
import os
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from graft.training.data.errors import DatasetError, Mishaps, also, examples, plain
from graft.training.data.findings import Finding
from graft.training.data.readers.filenames import SUFFIXES, hidden, suffix

# What a part may be called. Where data come in two parts, the second is held out, whatever it is called.
TRAIN, VALIDATION, TEST = ("train", "training"), ("val", "valid", "validation", "dev"), ("test", "testing")
LAYOUT = """Expected a folder with one folder of images for each label:
  photos/cat/1.jpg  photos/cat/2.jpg  photos/dog/3.jpg ...
or the same below photos/train and photos/test, a .zip or .tar of either, or a .csv with the columns path,label."""


@dataclass
class Listing:
    """What there is to learn from, a column each: a million records of their own would not be small.

    Attributes:
        paths: the images.
        names: each image's label names, one tuple for all images that have the same.
        parts: "train", "validation" or "test", or "".
        groups: what must not be torn apart, b"" where nothing was said; empty if nothing was said at all.
        order: all label names in the order that the data gave them; empty if it gave none.
        multilabel: whether an image may have several labels, or none.
    """

    paths: list[str] = field(default_factory=list)
    names: list[tuple[str, ...]] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    groups: list[bytes] = field(default_factory=list)
    order: tuple[str, ...] = ()
    multilabel: bool = False


def part_called(name: str) -> str:
    """The part that a word means: "train", "validation" or "test"; "" if it means none."""
    parts = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    return next((part for part, words in parts.items() if name.casefold() in words), "")


def group(text: str) -> bytes:
    """What stands for a group's name in a Sample, 16 bytes."""
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def by_folders(root: Path, paths: list[str], mishaps: Mishaps) -> Listing:
    """Images whose label is the name of the folder that they lie in; anything deeper belongs to that label.

    Raises:
        DatasetError: if the folders cannot be parts and labels.
    """
    top = _wrapping(paths)
    known = _parts(root, paths, top)
    listing, stray = Listing(), set()
    own: dict[str, tuple[str, ...]] = {}  # one tuple a label, shared by all its images
    for path in paths:
        folder, label, file = _split(path, top, "" not in known)
        if not file:
            mishaps.add("unlabelled", path)
        elif folder not in known:
            stray.add(top + folder)
        else:
            listing.paths.append(path)
            listing.names.append(own.setdefault(label, (label,)))
            listing.parts.append(known[folder])
    for folder in sorted(stray):
        mishaps.add("stray-folder", folder)
    _note_empty(listing.paths, top, known, mishaps)
    return listing


def _split(path: str, top: str, in_parts: bool) -> tuple[str, str, str]:
    """A path below `top` as (part's folder, label, the rest); no rest if it lies in no label's folder."""
    folder, rest = "", path[len(top) :]
    if in_parts:
        folder, _, rest = rest.partition("/")
    label, _, file = rest.partition("/")
    return folder, label, file


def _wrapping(paths: list[str]) -> str:
    """The folders that all images share, with a slash at the end: a zip's own top folder, mostly."""
    first, last = min(paths), max(paths)  # what these two share, all paths between them share
    same = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    shared = first[: first.rfind("/", 0, same) + 1]
    if any("/" in path[len(shared) :] for path in paths):
        return shared
    return shared[: shared.rfind("/", 0, -1) + 1]  # images and nothing else: this is a label, not what wraps them


def _parts(root: Path, paths: list[str], top: str) -> dict[str, str]:
    """From the folders that are parts to the part that each is; {"": ""} if the data came in one."""
    folders, flat = set(), set()
    for path in paths:
        folder, deeper, _ = _split(path, top, True)
        if deeper:
            folders.add(folder)
            if path.count("/", len(top)) == 1:
                flat.add(folder)
    called: dict[str, list[str]] = defaultdict(list)
    for folder in sorted(folders):
        called[part_called(folder)].append(folder)
    train, validation, test = called["train"], called["validation"], called["test"]
    if train and (validation or test):
        held_out = {validation[0]: "validation", test[0]: "test"} if validation and test else {(test or validation)[0]: "test"}
        return {train[0]: "train", **held_out}
    # A vehicle is a label too: "train" beside "bus" is a part only if it holds folders.
    if len(folders) > 1 and train and train[0] not in flat:
        others = ", ".join(map(plain, sorted(folders - {train[0]})))
        fix = f"Did you mean {root / top / train[0]}?"
        raise DatasetError(f"{root} has {train[0]}, no test or validation, and beside it {others}. {fix}\n{LAYOUT}")
    if len(folders) > 1 and not train and not called[""]:
        raise DatasetError(f"{root} has {' and '.join(sorted(folders))}, but no train: nothing to learn from.\n{LAYOUT}")
    return {"": ""}


def _note_empty(paths: list[str], top: str, known: dict[str, str], mishaps: Mishaps) -> None:
    """Folders where a label's would be, without a single image."""
    in_parts = "" not in known
    split = [_split(f"{folder}/.", top, in_parts) for folder in mishaps.barren if folder.startswith(top)]
    empty = {(folder, label) for folder, label, file in split if file and folder in known}
    if empty:
        empty -= {_split(path, top, in_parts)[:2] for path in paths}
    for folder, label in sorted(empty):
        mishaps.add("empty-folder", top + (f"{folder}/{label}" if folder else label))


def understood(root: Path, listing: Listing, mishaps: Mishaps) -> tuple[tuple[str, ...], list[Finding]]:
    """The label names in order, and what is wrong with them.

    Raises:
        DatasetError: if there are fewer than two.
    """
    used = {name for names in set(listing.names) for name in names}
    labels = tuple(name for name in listing.order if name in used) or tuple(sorted(used))
    if len(labels) < 2:
        found = (
            f"Only one label was found ({plain(labels[0])}); it takes two to tell apart." if labels else "No label was found."
        )
        raise DatasetError(f"{root}: {found}{nearest(root, listing.paths)}\n{LAYOUT}{also(mishaps)}")
    findings = _collisions(labels)
    if unused := [name for name in listing.order if name not in used]:
        findings.append(
            Finding("unused-label", "warning", f"labels that no image has, left out ({len(unused)}): {examples(unused)}")
        )
    learned = {name for names, part in zip(listing.names, listing.parts, strict=True) if part != "test" for name in names}
    if learned and (missing := sorted(used - learned)):
        text = f"labels with test images but none to learn from ({len(missing)}): {examples(missing)}"
        findings.append(Finding("unknown-label", "error", text))
    return labels, findings


def _collisions(labels: tuple[str, ...]) -> list[Finding]:
    alike = defaultdict(list)
    for name in labels:
        alike[unicodedata.normalize("NFC", name).casefold().strip()].append(name)
    # ascii, because the difference may be one that nobody can see
    return [
        Finding(
            "name-collision", "error", f"labels that differ only in spelling: {', '.join(map(ascii, names))}; make them one"
        )
        for names in alike.values()
        if len(names) > 1
    ]


def nearest(root: Path, paths: list[str]) -> str:
    """ " Did you mean ...?", if a folder below or above the root, or a table in it, looks like what is expected."""
    if not root.is_dir():
        return ""
    children: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        folders = path.split("/")[:-1]
        for depth, folder in enumerate(folders):
            children["/".join(folders[:depth])].add(folder)
    good = [folder for folder, names in children.items() if folder and len(names) > 1]
    if good:
        return f" Did you mean {root / min(good, key=lambda folder: (folder.count('/'), folder))}?"
    tables = sorted(path for path in root.iterdir() if suffix(path.name) in (".csv", ".tsv", ".parquet"))
    if tables:
        return f" Did you mean {tables[0]}?"
    above = root.resolve().parent
    if sum(map(_holds_an_image, above.iterdir())) > 1:
        return f" Did you mean {above}?"
    return ""


def _holds_an_image(folder: Path) -> bool:
    """Whether one of the first entries of a folder is an image by its name."""
    try:
        with os.scandir(folder) as entries:
            return not hidden(folder.name) and any(suffix(entry.name) in SUFFIXES for entry in islice(entries, 100))
    except OSError:
        return False

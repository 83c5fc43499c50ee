"""The tree of folders behind a list of image paths, and how folders compare. Knows nothing of labels or splits."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace


@dataclass(slots=True)
class Folder:
    """A folder with images somewhere below it.

    Attributes:
        n_images: the number of images directly in it.
    """

    n_images: int = 0
    children: dict[str, "Folder"] = field(default_factory=dict)

    @property
    def is_flat(self) -> bool:
        """Whether it has no subfolders."""
        return not self.children


@dataclass(frozen=True)
class Branch:
    """A folder at its path, and what the folders above it say.

    Attributes:
        path: from the root, without a trailing slash; "" for the root.
        split: "train", "validation", "test" or "".
        fold: the number of its fold, if any.
    """

    path: str
    folder: Folder
    split: str = ""
    fold: int | None = None

    def child(self, name: str) -> "Branch":
        """Return the branch of a subfolder."""
        return replace(self, path=join(self.path, name), folder=self.folder.children[name])


def join(folder: str, name: str) -> str:
    """Join two relative paths; the first may be empty."""
    return f"{folder}/{name}" if folder else name


def build_tree(paths: Iterable[str]) -> Folder:
    """Return the root folder of the given files."""
    root = Folder()
    for path, n_images in Counter(path.rpartition("/")[0] for path in paths).items():
        folder = root
        for name in filter(None, path.split("/")):
            folder = folder.children.setdefault(name, Folder())
        folder.n_images += n_images
    return root


def unwrap(branch: Branch) -> Branch:
    """Go down while a folder has nothing but one subfolder with subfolders, such as the top folder of a zip."""
    while branch.folder.n_images == 0 and len(branch.folder.children) == 1:
        below = branch.child(next(iter(branch.folder.children)))
        if below.folder.is_flat:
            break
        branch = below
    return branch


def same_content(one: Folder, other: Folder) -> bool:
    """Return whether two folders have the same subfolders with the same numbers of images, at any depth."""
    return (
        one.n_images == other.n_images
        and one.children.keys() == other.children.keys()
        and all(same_content(child, other.children[name]) for name, child in one.children.items())
    )


def repeated(branch: Branch) -> str:
    """Return the name of a subfolder that is a copy of all folders beside it, as in some archives; "" if there is none."""
    children = branch.folder.children
    for name in children if len(children) > 2 else ():
        inner = unwrap(branch.child(name)).folder.children
        if all(other in inner and same_content(inner[other], folder) for other, folder in children.items() if other != name):
            return name
    return ""


def common_names(folders: list[Folder], min_overlap: float = 0.6) -> set[str]:
    """Return the names of the subfolders that (nearly) all folders have; empty if the folders differ.

    Args:
        min_overlap: lowest accepted Jaccard index of a folder's subfolders and those that half of the folders have.
    """
    counts = Counter(name for folder in folders for name in folder.children)
    common = {name for name, count in counts.items() if 2 * count >= len(folders)}
    overlaps = (len(common & folder.children.keys()) / max(1, len(common | folder.children.keys())) for folder in folders)
    return common if all(overlap >= min_overlap for overlap in overlaps) else set()

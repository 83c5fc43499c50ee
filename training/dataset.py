"""A folder or zip of labelled images -> Dataset. Reads names and bytes; decodes nothing, imports no torch.

A zip is read in place: nothing is unpacked, so no member can be written outside of anything.
"""

import hashlib
import os
import threading
import unicodedata
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from service.engine import cores
from service.preprocess import looks_like_image
from training.findings import Finding
from training.progress import Progress

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
TRAIN, HELD_OUT = {"train", "training"}, ("test", "val", "valid", "validation")
MAX_FILE_BYTES = 256 * 2**20
LAYOUT = """Expected a folder with one folder of images for each label:
  photos/cat/1.jpg  photos/cat/2.jpg  photos/dog/3.jpg ...
or the same below photos/train and photos/test, or a .zip of either."""


class DatasetError(ValueError):
    """The data cannot be used. The text says what was found, and what would be right."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image.

    Attributes:
        path: below the data set's root, with forward slashes.
        labels: those that are true of it, each in [0, C), ascending; exactly one unless the data set is multi-label.
        part: "train", "validation" or "test" where the data came in parts, else "".
        digest: sha256 of the file's bytes, 32 bytes.
        group: what must not be torn apart by a split; the digest unless a person said otherwise.
    """

    path: str
    labels: tuple[int, ...]
    part: str = ""
    digest: bytes = b""
    group: bytes = b""

    @property
    def label(self) -> int:
        """The one label of an image that has exactly one."""
        [label] = self.labels
        return label


@dataclass(frozen=True)
class Source:
    """Where the bytes are: a folder or a zip."""

    root: Path
    _local: threading.local = field(default_factory=threading.local, repr=False, compare=False)

    @property
    def zipped(self) -> bool:
        return self.root.is_file()

    def read(self, path: str) -> bytes:
        """The bytes of one file below the root. Safe in several threads and processes.

        Raises:
            DatasetError: if it vanished or cannot be read since it was listed; the text names it.
        """
        return self._read(path, -1)

    def head(self, path: str) -> bytes:
        """The first 16 bytes of one file, without reading the rest. Raises DatasetError, as `read` does."""
        return self._read(path, 16)

    def _read(self, path: str, n_bytes: int) -> bytes:
        try:
            with self._archive().open(path) if self.zipped else (self.root / path).open("rb") as file:
                content: bytes = file.read(n_bytes)
                return content
        except (OSError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
            raise DatasetError(f"{self.root / path} cannot be read: {error}") from None

    def holds_image(self, path: str) -> bool:
        """Whether a file is an image by its name or by its first bytes, and not hidden."""
        named = PurePosixPath(path)
        if any(hidden(part) for part in named.parts):
            return False
        return named.suffix.lower() in SUFFIXES or looks_like_image(self.head(path))

    def names(self) -> Iterator[tuple[str, int]]:
        """Every file's path below the root, and its size in bytes where that is free to know, else 0."""
        if self.zipped:
            yield from ((info.filename, info.file_size) for info in self._archive().infolist() if not info.is_dir())
        else:
            yield from _walk(self.root, PurePosixPath(), set())

    def _archive(self) -> zipfile.ZipFile:
        # A handle for each thread: they would fight over one file position. A forked worker is a thread of its own too.
        key = f"archive_{os.getpid()}"
        archive = getattr(self._local, key, None)
        if archive is None:
            try:
                archive = zipfile.ZipFile(self.root)
            except (OSError, zipfile.BadZipFile) as error:
                raise DatasetError(f"{self.root} is neither a folder nor a readable .zip: {error}") from None
            setattr(self._local, key, archive)
        return archive

    def __reduce__(self) -> tuple[type["Source"], tuple[Path]]:
        return Source, (self.root,)


def _walk(root: Path, below: PurePosixPath, seen: set[tuple[int, int]]) -> Iterator[tuple[str, int]]:
    folder = root / below
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:  # a mount or link that leads back up
        return
    seen.add((status.st_dev, status.st_ino))
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DatasetError(f"{folder} cannot be read: {error.strerror}.") from None
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if not hidden(entry.name):
                yield from _walk(root, below / entry.name, seen)
        elif entry.is_file():
            yield str(below / entry.name), 0


@dataclass(frozen=True)
class Dataset:
    """Labelled images that exist and have been read once.

    Attributes:
        labels: the class names, in order; kept exactly as the folders spell them.
        multilabel: whether an image may have several labels, or none.
        findings: what was wrong with the layout; more is found by `training.audit`.
        ignored: how many files were passed over because they are no images.
    """

    source: Source
    labels: tuple[str, ...]
    samples: tuple[Sample, ...]
    multilabel: bool = False
    findings: tuple[Finding, ...] = ()
    ignored: int = 0

    def read(self, sample: Sample) -> bytes:
        """One image's encoded bytes."""
        return self.source.read(sample.path)

    def without(self, paths: Iterable[str]) -> "Dataset":
        """The same data, some files left out."""
        out = set(paths)
        return replace(self, samples=tuple(sample for sample in self.samples if sample.path not in out))


def scan(root: Path) -> Dataset:
    """The labelled images below a folder or in a zip.

    Raises:
        DatasetError: if this is no readable layout of at least two labels.
    """
    if not root.exists():
        raise DatasetError(f"{root} does not exist.")
    source = Source(root)
    paths, ignored = _images(source)
    labels, samples = _understood(root, paths)
    return Dataset(source, labels, _digested(source, samples), ignored=ignored)


def describe(dataset: Dataset) -> str:
    """What was understood, in one line for a person."""
    parts = Counter(sample.part for sample in dataset.samples)
    given = f", {parts['train']:,} to learn from and {parts['test']:,} held out" if parts["test"] else ""
    names = ", ".join(dataset.labels[:6]) + (", …" if len(dataset.labels) > 6 else "")
    ignored = f"; {dataset.ignored:,} other files ignored" if dataset.ignored else ""
    return f"{len(dataset.samples):,} images of {len(dataset.labels)} labels ({names}){given}{ignored}"


def hidden(name: str) -> bool:
    """Whether a file or folder is an operating system's or a tool's, never a person's."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db")


def _images(source: Source) -> tuple[list[PurePosixPath], int]:
    """The paths that are images by name or by their first bytes, and how many others there were."""
    paths, ignored = [], 0
    for name, n_bytes in source.names():
        if n_bytes > MAX_FILE_BYTES:
            raise DatasetError(f"{name} in {source.root} would unpack to {n_bytes:,} bytes; an image has less.")
        if source.holds_image(name):
            paths.append(PurePosixPath(name))
        else:
            ignored += 1
    if not paths:
        raise DatasetError(f"{source.root} holds no images.\n{LAYOUT}")
    return paths, ignored


def _understood(root: Path, paths: list[PurePosixPath]) -> tuple[tuple[str, ...], list[Sample]]:
    depth = _wrapping(paths)
    folders = {path.parts[depth] for path in paths if len(path.parts) > depth + 1}
    parts = {folder.casefold(): folder for folder in folders}
    learn = next((parts[name] for name in parts if name in TRAIN), None)
    held_out = next((parts[name] for name in HELD_OUT if name in parts), None)
    if learn and held_out:
        if others := sorted(folders - {learn, held_out}):
            raise DatasetError(f"{root} has {learn} and {held_out}, and beside them {', '.join(others)}: move it away.")
        return _labelled(root, [(learn, "train"), (held_out, "test")], paths, depth + 1)
    return _labelled(root, [("", "")], paths, depth)


def _wrapping(paths: list[PurePosixPath]) -> int:
    """How many folders all images share above the level that tells them apart: a zip's own top folder, mostly."""
    common = os.path.commonpath([str(path.parent) for path in paths])
    return len(PurePosixPath(common).parts) if common else 0


def _labelled(
    root: Path, parts: list[tuple[str, str]], paths: list[PurePosixPath], depth: int
) -> tuple[tuple[str, ...], list[Sample]]:
    """Samples whose label is the folder at `depth`; anything deeper belongs to that label."""
    named: list[tuple[str, str, str]] = []
    for path in paths:
        if len(path.parts) < depth + 2:
            raise DatasetError(f"{path} in {root} lies in no label's folder.\n{LAYOUT}")
        part = next(part for folder, part in parts if not folder or path.parts[depth - 1] == folder)
        named.append((str(path), path.parts[depth], part))
    labels = _labels({name for _, name, _ in named})
    if missing := {name for _, name, part in named if part == "test"} - {n for _, n, p in named if p != "test"}:
        raise DatasetError(f"Labels with test images but none to learn from: {', '.join(sorted(missing))}.")
    index = {name: number for number, name in enumerate(labels)}
    return labels, [Sample(path, (index[name],), part) for path, name, part in named]


def _labels(names: set[str]) -> tuple[str, ...]:
    if len(names) < 2:
        raise DatasetError(f"Only one label was found ({', '.join(names)}); it takes two to tell apart.\n{LAYOUT}")
    alike = defaultdict(list)
    for name in sorted(names):
        alike[unicodedata.normalize("NFC", name).casefold().strip()].append(name)
    for spellings in alike.values():
        if len(spellings) > 1:
            raise DatasetError(f"Label folders that differ only in spelling: {', '.join(map(repr, spellings))}.")
    return tuple(sorted(names))


def _digested(source: Source, samples: list[Sample]) -> tuple[Sample, ...]:
    """The same samples with the digest of their bytes."""

    def digested(sample: Sample) -> Sample:
        digest = hashlib.sha256(source.read(sample.path)).digest()
        return replace(sample, digest=digest, group=digest)

    with ThreadPoolExecutor(cores()) as pool, Progress("reading", len(samples), "images") as progress:
        return tuple(progress.each(pool.map(digested, samples)))

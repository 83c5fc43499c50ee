"""The verifying reader of packages. A package is one directory that holds only data, with every file's SHA-256 in its manifest.

It checks the manifest (`graft.service.manifest`) and every byte. What is inside the files is checked by
`graft.service.package_arrays`, when a model is loaded. Import only pydantic and the standard library here, so that a damaged
package is rejected within milliseconds.
"""

import hashlib
import json
import os
import reprlib
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from pydantic import ValidationError

from .held_files import HeldFiles, NotRegularFile
from .manifest import (
    F32_NAMES,
    FILES,
    FORMAT_VERSION,
    GOLDEN,
    GRAPH,
    HEAD,
    INT8_FILES,
    INT8_NAMES,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    MODEL_CARD,
    NEIGHBORS,
    PACKAGE,
    SEEN_IMAGES,
    THUMBNAILS,
    WEIGHTS,
    FileRecord,
    Manifest,
)
from .remote_paths import rejection
from .validation_errors import reason as reason_of
from .visible_text import MAX_TEXT

_PACKAGE_FILES = FILES | INT8_FILES | {MANIFEST}


MAX_NAMES = 1000  # entries of a folder that are looked at; a package has at most eleven


class _DuplicateKey(ValueError):
    """The argument is the key."""


class ArtifactError(Exception):
    """The package is invalid. The message names the file, the actual and the expected value, and the remedy."""


@dataclass(frozen=True)
class Artifact:
    """A verified package. Its files are held open: replacing, moving or deleting the folder does not change it.

    The paths of its files are valid in this process, as long as this object lives. They raise ArtifactError if the file was
    overwritten after it was verified.

    Attributes:
        is_int8: whether `manifest` and the paths are those of the package's int8 model, from `int8_model`.
    """

    path: Path
    manifest: Manifest
    files: HeldFiles
    is_int8: bool = False

    def require_sha256(self, expected: str | None) -> "Artifact":
        """This package, if the digest of its manifest is the expected one; None accepts any. Else raises ArtifactError."""
        if expected is not None and self.manifest.sha256 != expected:
            raise ArtifactError(
                f"{self.path / MANIFEST} has sha256 {self.manifest.sha256}, but GRAFT_PACKAGE_SHA256 is {expected}."
                " This is another package than the one that you trust."
            )
        return self

    def int8_model(self) -> "Artifact":
        """The same package with its int8 model in place of the f32 model. Raises ArtifactError if it has none."""
        if self.manifest.int8 is None:
            raise ArtifactError(f"{self.path} has no int8 model. Create one with: graft fit DIR --int8")
        return replace(self, manifest=self.manifest.for_int8(), is_int8=True)

    def location(self, name: str) -> Path:
        """Where a file of this model is in the package, for messages.

        Args:
            name: that of the f32 model, or HEAD.
        """
        return self.path / (INT8_NAMES if self.is_int8 else F32_NAMES).get(name, name)

    @property
    def graph(self) -> Path:
        return self._verified(GRAPH)

    @property
    def head(self) -> Path:
        return self._verified(HEAD)

    @property
    def weights(self) -> Path:
        return self._verified(WEIGHTS)

    @property
    def golden(self) -> Path:
        return self._verified(GOLDEN)

    @property
    def neighbors(self) -> Path:
        return self._verified(NEIGHBORS)

    @property
    def thumbnails(self) -> Path:
        return self._verified(THUMBNAILS)

    @property
    def seen_images(self) -> Path:
        return self._verified(SEEN_IMAGES)

    def _verified(self, name: str) -> Path:
        location = self.location(name)
        _check_file(location, self.files, self.manifest.files[location.name])
        return self.files.path(location.name)


def file_record(path: Path) -> FileRecord:
    """The digest and size of one file, read in chunks."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return FileRecord(sha256=digest.hexdigest(), bytes=file.tell())


def package_folder(path: Path) -> Path:
    """The package that a path stands for: the path itself, or the `package` folder of a run."""
    is_run = not (path / MANIFEST).exists() and (path / PACKAGE / MANIFEST).exists()
    return path / PACKAGE if is_run else path


def read(path: Path) -> Artifact:
    """Opens a package directory and verifies every byte.

    Args:
        path: a package, or the folder of a finished run.

    Raises:
        ArtifactError: if a file is missing, extra or altered, or the format version differs; the message names the file.
    """
    if reason := rejection(path):
        raise ArtifactError(reason)
    path = package_folder(path)
    if not path.is_dir():
        found = "it is a file, and a package is a folder" if path.exists() else "no such directory"
        raise ArtifactError(f"{path} is not a package: {found}. Make one with: graft fit DIR")
    folder = Path(os.path.realpath(path))  # once: a link such as runs/latest may move while the files are opened
    names = _list_names(folder, path)
    files = _hold(folder, path, sorted(names & _PACKAGE_FILES))
    manifest = _read_manifest(path / MANIFEST, files)
    _check_names(path, names, manifest)
    return _verify(path, manifest, files)


def adopt(path: Path, files: HeldFiles) -> Artifact:
    """Verifies every byte of a package that another process has opened. Raises ArtifactError if it was overwritten since.

    Args:
        path: the directory that the files were opened in, for messages.
    """
    return _verify(path, _read_manifest(path / MANIFEST, files), files)


def _verify(path: Path, manifest: Manifest, files: HeldFiles) -> Artifact:
    for name, expected in manifest.files.items():
        _check_file(path / name, files, expected)
    return Artifact(path, manifest, files)


def _hold(folder: Path, path: Path, names: list[str]) -> HeldFiles:
    try:
        return HeldFiles.open(folder, names)
    except NotRegularFile as error:
        raise ArtifactError(
            f"{path / error.filename} is not a regular file. A package may not contain links; copy the target file."
        ) from None
    except OSError as error:
        raise ArtifactError(f"{path / error.filename} cannot be read: {error.strerror}.") from None


def _list_names(folder: Path, path: Path) -> set[str]:
    """The names in a package's folder. Raises ArtifactError if it has no manifest, or too many files for a package."""
    if not os.path.lexists(folder / MANIFEST):
        if not any((folder / name).exists() for name in FILES - {MODEL_CARD}):
            raise ArtifactError(f"{path} is not a package, and not a run with one: it has no {MANIFEST}.")
        raise ArtifactError(f"{path / MANIFEST} is missing, so {path} is not a complete package. Create it again.")
    try:
        with os.scandir(folder) as entries:
            names = {entry.name for entry in islice(entries, MAX_NAMES)}
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from None
    if len(names) == MAX_NAMES:
        raise ArtifactError(f"{path} has {MAX_NAMES:,} files or more: a package has at most eleven. Copy it again.")
    return names


def _read_manifest(path: Path, files: HeldFiles) -> Manifest:
    try:
        n_bytes = files.size(MANIFEST)
        if n_bytes > MAX_MANIFEST_BYTES:
            raise ArtifactError(f"{path} has {n_bytes:,} bytes; a manifest has at most {MAX_MANIFEST_BYTES:,}.")
        content = files.path(MANIFEST).read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from None
    return _parse_manifest(path, content)


def _parse_manifest(path: Path, content: bytes) -> Manifest:
    try:
        fields = json.loads(content, object_pairs_hook=_refuse_duplicates)
        version = fields["format"]
    except _DuplicateKey as error:
        raise ArtifactError(f"{path} lists {_shown(error.args[0])} twice. Copy the package again from the original.") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ArtifactError(f"{path} is not a Graft manifest. Copy the package again from the original.") from None
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format {reprlib.repr(version)}; this Graft reads format {FORMAT_VERSION}."
            " Install a matching Graft version."
        )
    try:
        manifest = Manifest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        location = _shown(".".join(map(str, first["loc"])))
        reason = f"{location + ': ' if location else ''}{reason_of(first)}"
        raise ArtifactError(f"{path}: {reason}. Copy the package again.") from None
    if manifest.with_digest().to_bytes() != content:
        raise ArtifactError(f"{path} was altered after it was written: its sha256 does not match. Copy it again.")
    return manifest


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object. Readers disagree on which of two values with the same key holds."""
    fields: dict[str, object] = {}
    for key, value in pairs:
        if key in fields:
            raise _DuplicateKey(key)
        fields[key] = value
    return fields


def _check_names(path: Path, actual: set[str], manifest: Manifest) -> None:
    listed, actual = set(manifest.files), actual - {MANIFEST}
    # Only fixed names are allowed, so a manifest cannot point outside its directory.
    expected = FILES | INT8_FILES if manifest.int8 else FILES
    if wrong := listed ^ expected:
        raise ArtifactError(
            f"{path / MANIFEST} lists the wrong files ({', '.join(sorted(map(_shown, wrong)))}). Copy it again."
        )
    if missing := listed - actual:
        raise ArtifactError(f"{path / min(missing)} is missing. Copy the package again from the original.")
    if extra := actual - listed:
        raise ArtifactError(
            f"{path / _shown(min(extra))} is not in the manifest. Remove it: a package may not contain other files."
        )


def _shown(name: str) -> str:
    """A name from outside, fit for one line of a message."""
    short = name if len(name) <= MAX_TEXT else f"{name[:MAX_TEXT]}…"
    return short if short.isprintable() else ascii(short)


def _check_file(path: Path, files: HeldFiles, expected: FileRecord) -> None:
    try:
        # First: the manifest bounds the size, so a file of terabytes is not read.
        n_bytes = files.size(path.name)
        sha256, n_bytes = files.digest(path.name) if n_bytes == expected.bytes else ("", n_bytes)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from None
    if n_bytes != expected.bytes:
        raise ArtifactError(f"{path} has {n_bytes:,} bytes; the manifest lists {expected.bytes:,}. Copy it again.")
    if sha256 != expected.sha256:
        raise ArtifactError(
            f"{path} has sha256 {sha256[:12]}…, but the manifest lists {expected.sha256[:12]}…."
            " The file was altered; copy it again from the original package."
        )

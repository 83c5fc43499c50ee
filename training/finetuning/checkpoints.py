"""Checkpoints: whole or not there, each with its sha256 beside it, verified before it is believed. Data only, no code is run.

`epoch-0003.ckpt` holds all that is needed to go on after epoch 3; epoch 0 is the start, and holds the weights alone.
`best.ckpt` is written last, and means that learning has ended.
"""

import hashlib
import pickle
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from graft.training.runtime import atomic_files
from graft.training.runtime.progress import say

BEST = "best.ckpt"
State = dict[str, Any]


class CorruptCheckpoint(ValueError):
    """A checkpoint is not what was written."""


def path_of(folder: Path, epoch: int) -> Path:
    """Where the state after an epoch is kept."""
    return folder / f"epoch-{epoch:04d}.ckpt"


def save(state: State, path: Path) -> None:
    """Writes a checkpoint, whole or not at all.

    Raises:
        OSError: with the bytes needed and free where the disk is full.
    """
    with atomic_files.whole(path, _n_bytes(state)) as file:
        hashed = _Hashed(file)
        try:
            torch.save(state, cast(BinaryIO, hashed))  # it only ever writes
        except RuntimeError:
            raise hashed.failed or RuntimeError(f"{path} could not be written.") from None  # torch hides the reason
        # First, so that a checkpoint under its final name is never without it.
        atomic_files.write(_digest_file(path), f"{hashed.digest.hexdigest()}  {path.name}\n")


def load(path: Path) -> State:
    """A checkpoint's content.

    Raises:
        CorruptCheckpoint: if it is not byte for byte what was written, or holds anything but data.
    """
    verify(path)
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CorruptCheckpoint(f"{path} is no checkpoint of ours: {reason}") from None
    return state


def verify(path: Path) -> None:
    """Raises CorruptCheckpoint if a file is not byte for byte what was written."""
    try:
        [promised, _] = _digest_file(path).read_text(encoding="ascii").split()
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise CorruptCheckpoint(f"{path} or its .sha256 cannot be read: {error}.") from None
    if found != promised:
        raise CorruptCheckpoint(f"{path} has sha256 {found[:12]}…, but {promised[:12]}… was written: it is damaged.")


def newest(folder: Path) -> State | None:
    """The newest checkpoint that is good, and whose best epoch's is too; None where there never was one.

    Bad ones newer than it are removed, with a warning.

    Raises:
        CorruptCheckpoint: if there are some and none is good; they stay, so that nothing begins anew unless a person says so.
    """
    atomic_files.remove_unfinished(folder)
    bad: list[Path] = []
    for path in sorted(folder.glob("epoch-*.ckpt"), reverse=True):
        try:
            state = load(path)
            verify(path_of(folder, state["best"]))
        except CorruptCheckpoint as error:
            say(f"warning: {error} Going back to the one before.")
            bad.append(path)
        else:
            for later in bad:
                remove(later)
            return state
    if bad:
        raise CorruptCheckpoint(f"No checkpoint in {folder} is good. Remove that folder to learn again from the start.")
    return None


def ended(folder: Path) -> State | None:
    """The best epoch's weights if learning has ended here, else None.

    Raises:
        CorruptCheckpoint: if they are damaged, and there is nothing left to learn them from again.
    """
    best = folder / BEST
    if not best.exists():
        return None
    try:
        return load(best)
    except CorruptCheckpoint as error:
        if not any(folder.glob("epoch-*.ckpt")):
            raise CorruptCheckpoint(f"{error} Remove {folder} to learn again from the start.") from None
        say(f"warning: {error} Going back to the last epoch.")
        remove(best)
        return None


def remove(path: Path) -> None:
    """Removes a checkpoint and its digest; the digest last, so that no checkpoint is without it."""
    path.unlink(missing_ok=True)
    _digest_file(path).unlink(missing_ok=True)


def keep_only(folder: Path, epochs: set[int]) -> None:
    """Removes every other epoch's checkpoint."""
    kept = {path_of(folder, epoch) for epoch in epochs}
    for path in folder.glob("epoch-*.ckpt"):
        if path not in kept:
            remove(path)
    for digest in folder.glob("epoch-*.ckpt.sha256"):  # of a checkpoint whose writing was interrupted
        if not digest.with_suffix("").exists():
            digest.unlink(missing_ok=True)


class Files(CheckpointIO):
    """Lightning's reading and writing of checkpoints, done here."""

    def save_checkpoint(self, checkpoint: State, path: Any, storage_options: Any = None) -> None:
        save(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> State:
        return load(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        remove(Path(path))


class _Hashed:
    """A file that counts its sha256 while it is written, and remembers why a write failed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.failed: OSError | None = None

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        try:
            return self._file.write(content)
        except OSError as error:
            self.failed = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _digest_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _n_bytes(state: object) -> int:
    """How large a checkpoint will be, roughly: its tensors."""
    if isinstance(state, torch.Tensor):
        return state.nbytes
    values = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return sum(_n_bytes(value) for value in values)

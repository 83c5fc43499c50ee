"""Training checkpoints: written atomically, each with a sha256 file, and verified on load. Loading runs no code.

`epoch-0003.ckpt` holds everything to resume after epoch 3. Epoch 0 is the state before training and holds only weights.
`best.ckpt` is written last and marks the end of training.
"""

import hashlib
import pickle
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from graft.training.runtime import atomic_files
from graft.training.runtime.progress import log

BEST = "best.ckpt"
State = dict[str, Any]


class CorruptCheckpoint(ValueError):
    """A checkpoint does not match its checksum or cannot be read."""


def checkpoint_path(folder: Path, epoch: int) -> Path:
    """Path of the checkpoint of an epoch."""
    return folder / f"epoch-{epoch:04d}.ckpt"


def save(state: State, path: Path) -> None:
    """Writes a checkpoint atomically.

    Raises:
        OSError: if the disk is full, with the bytes needed and free.
    """
    with atomic_files.atomic_write(path, _n_bytes(state)) as file:
        hashed = _HashingWriter(file)
        try:
            torch.save(state, cast(BinaryIO, hashed))  # torch only writes to it
        except RuntimeError:
            raise hashed.error or RuntimeError(f"{path} could not be written.") from None  # torch hides the cause
        # Written before the rename, so that a checkpoint always has its checksum.
        atomic_files.write_text(_digest_file(path), f"{hashed.digest.hexdigest()}  {path.name}\n")


def load(path: Path) -> State:
    """Loads and verifies a checkpoint.

    Raises:
        CorruptCheckpoint: if its checksum differs, or if it contains anything but plain data.
    """
    verify(path)
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CorruptCheckpoint(f"{path} is not a Graft checkpoint: {reason}") from None
    return state


def verify(path: Path) -> None:
    """Raises CorruptCheckpoint if the checksum of a file differs."""
    try:
        [expected, _] = _digest_file(path).read_text(encoding="ascii").split()
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise CorruptCheckpoint(f"{path} or its .sha256 cannot be read: {error}.") from None
    if actual != expected:
        raise CorruptCheckpoint(f"{path} has sha256 {actual[:12]}…, expected {expected[:12]}…: the file is corrupt.")


def load_newest(folder: Path) -> State | None:
    """Newest valid checkpoint with a valid checkpoint of its best epoch; None if there are no checkpoints.

    Corrupt newer ones are removed, with a warning.

    Raises:
        CorruptCheckpoint: if all are corrupt. They are kept, so that training never restarts without the user's consent.
    """
    atomic_files.remove_temp_files(folder)
    corrupt: list[Path] = []
    for path in sorted(folder.glob("epoch-*.ckpt"), reverse=True):
        try:
            state = load(path)
            verify(checkpoint_path(folder, state["best"]))
        except CorruptCheckpoint as error:
            log(f"warning: {error} Falling back to the previous checkpoint.")
            corrupt.append(path)
        else:
            for newer in corrupt:
                remove(newer)
            return state
    if corrupt:
        raise CorruptCheckpoint(f"All checkpoints in {folder} are corrupt. Remove this folder to restart the training.")
    return None


def load_best(folder: Path) -> State | None:
    """Weights of the best epoch if training is complete, else None.

    Raises:
        CorruptCheckpoint: if they are corrupt and no epoch checkpoint is left to resume from.
    """
    best = folder / BEST
    if not best.exists():
        return None
    try:
        return load(best)
    except CorruptCheckpoint as error:
        if not any(folder.glob("epoch-*.ckpt")):
            raise CorruptCheckpoint(f"{error} Remove {folder} to restart the training.") from None
        log(f"warning: {error} Falling back to the last epoch.")
        remove(best)
        return None


def remove(path: Path) -> None:
    """Removes a checkpoint, then its checksum file, so that a checkpoint always has its checksum."""
    path.unlink(missing_ok=True)
    _digest_file(path).unlink(missing_ok=True)


def keep_only(folder: Path, epochs: set[int]) -> None:
    """Removes the checkpoints of all other epochs."""
    kept = {checkpoint_path(folder, epoch) for epoch in epochs}
    for path in folder.glob("epoch-*.ckpt"):
        if path not in kept:
            remove(path)
    for digest in folder.glob("epoch-*.ckpt.sha256"):  # left over from an interrupted write
        if not digest.with_suffix("").exists():
            digest.unlink(missing_ok=True)


class VerifiedCheckpointIO(CheckpointIO):
    """Lightning plugin that reads and writes checkpoints with this module."""

    def save_checkpoint(self, checkpoint: State, path: Any, storage_options: Any = None) -> None:
        save(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> State:
        return load(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        remove(Path(path))


class _HashingWriter:
    """File wrapper that computes the sha256 of the written bytes and keeps the error of a failed write."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        try:
            return self._file.write(content)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _digest_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _n_bytes(state: object) -> int:
    """Approximate size of a checkpoint: the bytes of its tensors."""
    if isinstance(state, torch.Tensor):
        return state.nbytes
    values = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return sum(_n_bytes(value) for value in values)

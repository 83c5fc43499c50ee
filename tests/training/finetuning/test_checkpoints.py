"""Checkpoints are verified on load, with the previous one as a fallback."""

import hashlib
import os
import pickle
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import file_size_limit

from graft.training.finetuning import checkpoints
from graft.training.finetuning.checkpoints import CorruptCheckpoint, checkpoint_path


def state(epoch: int, best: int = 0) -> checkpoints.State:
    return {"state_dict": {"weight": torch.full((100,), float(epoch))}, "best": best, "epoch": epoch}


def begun(folder: Path, *epochs: int, best: int = 0) -> Path:
    for epoch in epochs:
        checkpoints.save(state(epoch, best), checkpoint_path(folder, epoch))
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def altered(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def appended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def without_digest(path: Path) -> None:
    path.with_name(f"{path.name}.sha256").unlink()


def other_digest(path: Path) -> None:
    path.with_name(f"{path.name}.sha256").write_text(f"{'0' * 64}  {path.name}\n")


def nonsense_digest(path: Path) -> None:
    path.with_name(f"{path.name}.sha256").write_bytes(b"\xff\xfe")


def vanished(path: Path) -> None:
    path.unlink()


HARM = [cut, altered, appended, emptied, without_digest, other_digest, nonsense_digest]


def test_save_and_load_round_trip(tmp_path: Path):
    checkpoints.save(state(3), checkpoint_path(tmp_path, 3))
    loaded = checkpoints.load(checkpoint_path(tmp_path, 3))
    assert (loaded["epoch"], loaded["state_dict"]["weight"].tolist()) == (3, [3.0] * 100)
    assert names(tmp_path) == {"epoch-0003.ckpt", "epoch-0003.ckpt.sha256"}


def test_checksum_file_has_the_format_of_sha256sum(tmp_path: Path):
    begun(tmp_path, 1)
    subprocess.run(["sha256sum", "--check", "--status", "epoch-0001.ckpt.sha256"], cwd=tmp_path, check=True)


@pytest.mark.parametrize("corrupt", [*HARM, vanished])
def test_corrupt_checkpoint_is_rejected_by_name(tmp_path: Path, corrupt: Callable[[Path], None]):
    corrupt(checkpoint_path(begun(tmp_path, 1), 1))
    with pytest.raises(CorruptCheckpoint, match=r"epoch-0001\.ckpt"):
        checkpoints.load(checkpoint_path(tmp_path, 1))


@pytest.mark.parametrize("corrupt", HARM)
def test_corrupt_checkpoint_falls_back_to_the_previous_one_with_a_warning(
    tmp_path: Path, corrupt: Callable[[Path], None], capsys
):
    corrupt(checkpoint_path(begun(tmp_path, 0, 1, 2), 2))
    assert checkpoints.load_newest(tmp_path)["epoch"] == 1
    output = capsys.readouterr().err
    assert output.startswith(f"warning: {checkpoint_path(tmp_path, 2)}")
    assert output.endswith("Falling back to the previous checkpoint.\n")
    assert names(tmp_path) == {f"epoch-000{epoch}.ckpt{end}" for epoch in (0, 1) for end in ("", ".sha256")}


def test_checkpoint_with_a_corrupt_best_epoch_falls_back_too(tmp_path: Path, capsys):
    begun(tmp_path, 0, 1)
    begun(tmp_path, 2, 3, best=2)
    altered(checkpoint_path(tmp_path, 2))
    assert checkpoints.load_newest(tmp_path)["epoch"] == 1
    assert capsys.readouterr().err.count("warning: ") == 2


def test_training_does_not_restart_silently_if_all_are_corrupt(tmp_path: Path):
    begun(tmp_path, 0, 1)
    for epoch in (0, 1):
        cut(checkpoint_path(tmp_path, epoch))
    for _ in range(2):  # also on the second call
        with pytest.raises(CorruptCheckpoint, match=rf"All checkpoints in {tmp_path} are corrupt\. Remove this folder"):
            checkpoints.load_newest(tmp_path)


def test_empty_folder_has_no_checkpoint(tmp_path: Path):
    assert checkpoints.load_newest(tmp_path) is None
    assert checkpoints.load_best(tmp_path) is None


def test_unfinished_files_of_a_killed_process_are_removed(tmp_path: Path):
    begun(tmp_path, 0, 1)
    (tmp_path / ".epoch-0002.ckpt.999.tmp").write_bytes(b"half")
    (tmp_path / "epoch-0002.ckpt.sha256").write_text(f"{'0' * 64}  epoch-0002.ckpt\n")
    assert checkpoints.load_newest(tmp_path)["epoch"] == 1
    checkpoints.keep_only(tmp_path, {1})
    assert names(tmp_path) == {"epoch-0001.ckpt", "epoch-0001.ckpt.sha256"}


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self):
        return Path.touch, (self._marker,)


def pickled(trap: Trap, path: Path) -> None:
    path.write_bytes(pickle.dumps(trap))


def saved_by_torch(trap: Trap, path: Path) -> None:
    torch.save({"state_dict": {}, "best": 0, "hyper_parameters": trap}, path)


def saved_as_torch_once_did(trap: Trap, path: Path) -> None:
    torch.save(trap, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("made", [pickled, saved_by_torch, saved_as_torch_once_did])
@pytest.mark.parametrize(
    "load", [checkpoints.load, lambda path: checkpoints.VerifiedCheckpointIO().load_checkpoint(path, weights_only=False)]
)
def test_code_in_a_checkpoint_is_not_executed(tmp_path: Path, made: Callable[[Trap, Path], None], load):
    path, marker = checkpoint_path(tmp_path, 1), tmp_path / "marker"
    made(Trap(marker), path)
    with_its_digest(path)
    with pytest.raises(CorruptCheckpoint, match=r"epoch-0001\.ckpt is not a Graft checkpoint"):
        load(path)
    assert not marker.exists()


def with_its_digest(path: Path) -> None:
    path.with_name(f"{path.name}.sha256").write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")


def test_other_zip_file_is_rejected(tmp_path: Path):
    with zipfile.ZipFile(checkpoint_path(tmp_path, 1), "w") as archive:
        archive.writestr("notes.txt", "not a tensor")
    with_its_digest(checkpoint_path(tmp_path, 1))
    with pytest.raises(CorruptCheckpoint, match="is not a Graft checkpoint"):
        checkpoints.load(checkpoint_path(tmp_path, 1))


def test_full_disk_error_has_needed_and_free_bytes_and_keeps_older_checkpoints(tmp_path: Path):
    begun(tmp_path, 0, 1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    large = {"state_dict": {"weight": torch.zeros(1_000_000)}, "best": 0}
    message = r"The disk is full: 4,000,000 bytes are needed and [\d,]+ are free; existing files are unchanged"
    with file_size_limit(2**20), pytest.raises(OSError, match=message):
        checkpoints.save(large, checkpoint_path(tmp_path, 2))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_best_checkpoint_marks_the_end_of_training(tmp_path: Path):
    checkpoints.save(state(2), tmp_path / "best.ckpt")
    assert checkpoints.load_best(tmp_path)["epoch"] == 2


def test_corrupt_best_checkpoint_resumes_from_the_last_epoch(tmp_path: Path, capsys):
    begun(tmp_path, 1)
    checkpoints.save(state(1), tmp_path / "best.ckpt")
    altered(tmp_path / "best.ckpt")
    assert checkpoints.load_best(tmp_path) is None
    assert "best.ckpt has sha256" in capsys.readouterr().err
    assert not (tmp_path / "best.ckpt").exists()


def test_corrupt_best_checkpoint_without_epochs_is_rejected(tmp_path: Path):
    checkpoints.save(state(1), tmp_path / "best.ckpt")
    altered(tmp_path / "best.ckpt")
    with pytest.raises(CorruptCheckpoint, match=rf"corrupt\. Remove {tmp_path} to restart"):
        checkpoints.load_best(tmp_path)


def test_only_requested_epochs_are_kept(tmp_path: Path):
    begun(tmp_path, 0, 1, 2, 3)
    checkpoints.keep_only(tmp_path, {1, 3})
    assert {path.name for path in tmp_path.glob("*.ckpt")} == {"epoch-0001.ckpt", "epoch-0003.ckpt"}
    assert len(names(tmp_path)) == 4

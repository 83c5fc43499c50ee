"""A checkpoint is believed only if it is byte for byte what was written; the one before it is the way back."""

import hashlib
import os
import pickle
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import files_of_at_most

from graft.training.finetuning import checkpoints
from graft.training.finetuning.checkpoints import CorruptCheckpoint, path_of


def state(epoch: int, best: int = 0) -> checkpoints.State:
    return {"state_dict": {"weight": torch.full((100,), float(epoch))}, "best": best, "epoch": epoch}


def begun(folder: Path, *epochs: int, best: int = 0) -> Path:
    for epoch in epochs:
        checkpoints.save(state(epoch, best), path_of(folder, epoch))
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


def test_what_was_saved_is_loaded(tmp_path: Path):
    checkpoints.save(state(3), path_of(tmp_path, 3))
    loaded = checkpoints.load(path_of(tmp_path, 3))
    assert (loaded["epoch"], loaded["state_dict"]["weight"].tolist()) == (3, [3.0] * 100)
    assert names(tmp_path) == {"epoch-0003.ckpt", "epoch-0003.ckpt.sha256"}


def test_digest_is_sha256sums_own(tmp_path: Path):
    begun(tmp_path, 1)
    subprocess.run(["sha256sum", "--check", "--status", "epoch-0001.ckpt.sha256"], cwd=tmp_path, check=True)


@pytest.mark.parametrize("harm", [*HARM, vanished])
def test_harmed_checkpoint_is_refused_by_name(tmp_path: Path, harm: Callable[[Path], None]):
    harm(path_of(begun(tmp_path, 1), 1))
    with pytest.raises(CorruptCheckpoint, match=r"epoch-0001\.ckpt"):
        checkpoints.load(path_of(tmp_path, 1))


@pytest.mark.parametrize("harm", HARM)
def test_harmed_checkpoint_gives_way_to_the_one_before_with_a_warning(tmp_path: Path, harm: Callable[[Path], None], capsys):
    harm(path_of(begun(tmp_path, 0, 1, 2), 2))
    assert checkpoints.newest(tmp_path)["epoch"] == 1
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {path_of(tmp_path, 2)}")
    assert said.endswith("Going back to the one before.\n")
    assert names(tmp_path) == {f"epoch-000{epoch}.ckpt{end}" for epoch in (0, 1) for end in ("", ".sha256")}


def test_checkpoint_whose_best_epoch_is_harmed_gives_way_too(tmp_path: Path, capsys):
    begun(tmp_path, 0, 1)
    begun(tmp_path, 2, 3, best=2)
    altered(path_of(tmp_path, 2))
    assert checkpoints.newest(tmp_path)["epoch"] == 1
    assert capsys.readouterr().err.count("warning: ") == 2


def test_where_none_is_good_nothing_is_begun_anew_in_silence(tmp_path: Path):
    begun(tmp_path, 0, 1)
    for epoch in (0, 1):
        cut(path_of(tmp_path, epoch))
    for _ in range(2):  # nor the second time
        with pytest.raises(CorruptCheckpoint, match=rf"No checkpoint in {tmp_path} is good\. Remove that folder"):
            checkpoints.newest(tmp_path)


def test_where_there_never_was_one_there_is_none(tmp_path: Path):
    assert checkpoints.newest(tmp_path) is None
    assert checkpoints.ended(tmp_path) is None


def test_what_a_killed_writer_left_is_removed(tmp_path: Path):
    begun(tmp_path, 0, 1)
    (tmp_path / ".epoch-0002.ckpt.999.tmp").write_bytes(b"half")
    (tmp_path / "epoch-0002.ckpt.sha256").write_text(f"{'0' * 64}  epoch-0002.ckpt\n")
    assert checkpoints.newest(tmp_path)["epoch"] == 1
    checkpoints.keep_only(tmp_path, {1})
    assert names(tmp_path) == {"epoch-0001.ckpt", "epoch-0001.ckpt.sha256"}


class Trap:
    """Whoever unpickles it makes a file."""

    def __init__(self, sprung: Path) -> None:
        self._sprung = sprung

    def __reduce__(self):
        return Path.touch, (self._sprung,)


def pickled(trap: Trap, path: Path) -> None:
    path.write_bytes(pickle.dumps(trap))


def saved_by_torch(trap: Trap, path: Path) -> None:
    torch.save({"state_dict": {}, "best": 0, "hyper_parameters": trap}, path)


def saved_as_torch_once_did(trap: Trap, path: Path) -> None:
    torch.save(trap, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("made", [pickled, saved_by_torch, saved_as_torch_once_did])
@pytest.mark.parametrize("load", [checkpoints.load, lambda path: checkpoints.Files().load_checkpoint(path, weights_only=False)])
def test_code_in_a_checkpoint_is_never_run(tmp_path: Path, made: Callable[[Trap, Path], None], load):
    path, sprung = path_of(tmp_path, 1), tmp_path / "sprung"
    made(Trap(sprung), path)
    with_its_digest(path)
    with pytest.raises(CorruptCheckpoint, match=r"epoch-0001\.ckpt is no checkpoint of ours"):
        load(path)
    assert not sprung.exists()


def with_its_digest(path: Path) -> None:
    path.with_name(f"{path.name}.sha256").write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")


def test_zip_of_something_else_is_no_checkpoint(tmp_path: Path):
    with zipfile.ZipFile(path_of(tmp_path, 1), "w") as archive:
        archive.writestr("notes.txt", "not a tensor")
    with_its_digest(path_of(tmp_path, 1))
    with pytest.raises(CorruptCheckpoint, match="is no checkpoint of ours"):
        checkpoints.load(path_of(tmp_path, 1))


def test_full_disk_says_needed_and_free_and_leaves_older_checkpoints(tmp_path: Path):
    begun(tmp_path, 0, 1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    large = {"state_dict": {"weight": torch.zeros(1_000_000)}, "best": 0}
    said = r"The disk is full: 4,000,000 bytes are needed and [\d,]+ are free; what was there is intact"
    with files_of_at_most(2**20), pytest.raises(OSError, match=said):
        checkpoints.save(large, path_of(tmp_path, 2))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_end_is_known_by_the_best_epochs_weights(tmp_path: Path):
    checkpoints.save(state(2), tmp_path / "best.ckpt")
    assert checkpoints.ended(tmp_path)["epoch"] == 2


def test_harmed_end_is_learned_again_from_the_last_epoch(tmp_path: Path, capsys):
    begun(tmp_path, 1)
    checkpoints.save(state(1), tmp_path / "best.ckpt")
    altered(tmp_path / "best.ckpt")
    assert checkpoints.ended(tmp_path) is None
    assert "best.ckpt has sha256" in capsys.readouterr().err
    assert not (tmp_path / "best.ckpt").exists()


def test_harmed_end_with_nothing_before_it_is_refused(tmp_path: Path):
    checkpoints.save(state(1), tmp_path / "best.ckpt")
    altered(tmp_path / "best.ckpt")
    with pytest.raises(CorruptCheckpoint, match=rf"damaged\. Remove {tmp_path} to learn again"):
        checkpoints.ended(tmp_path)


def test_only_the_wanted_epochs_are_kept(tmp_path: Path):
    begun(tmp_path, 0, 1, 2, 3)
    checkpoints.keep_only(tmp_path, {1, 3})
    assert {path.name for path in tmp_path.glob("*.ckpt")} == {"epoch-0001.ckpt", "epoch-0003.ckpt"}
    assert len(names(tmp_path)) == 4

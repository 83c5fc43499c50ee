"""Atomic writes: a failure keeps the old file, and a full disk is reported with the required space."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import file_size_limit

from graft.training.runtime import atomic_files

ROOT = Path(__file__).parents[3]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_file_appears_only_when_it_is_complete(tmp_path: Path):
    with atomic_files.atomic_write(tmp_path / "a.txt") as file:
        file.write(b"one")
        assert not (tmp_path / "a.txt").exists()
        file.write(b" two")
    assert (tmp_path / "a.txt").read_bytes() == b"one two"
    assert names(tmp_path) == ["a.txt"]


def test_temporary_file_is_in_the_target_folder(tmp_path: Path, monkeypatch):
    # A rename is atomic within one file system only.
    monkeypatch.setenv("TMPDIR", "/dev/shm")
    with atomic_files.atomic_write(tmp_path / "a.txt"):
        [temporary] = tmp_path.iterdir()
    assert temporary.name == f".a.txt.{os.getpid()}.tmp"


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_failure_keeps_only_the_old_file(tmp_path: Path, failure: type[BaseException]):
    (tmp_path / "a.txt").write_text("older")

    def fail_midway() -> None:
        with atomic_files.atomic_write(tmp_path / "a.txt") as file:
            file.write(b"half of the new")
            raise failure

    with pytest.raises(failure):
        fail_midway()
    assert (tmp_path / "a.txt").read_text() == "older"
    assert names(tmp_path) == ["a.txt"]


def test_full_disk_error_has_required_and_free_bytes(tmp_path: Path):
    atomic_files.write_text(tmp_path / "a.txt", "older")
    message = r"The disk is full: 70,000 bytes are needed and [\d,]+ are free; existing files are unchanged"
    with file_size_limit(4096), pytest.raises(OSError, match=message) as error:
        atomic_files.write_text(tmp_path / "a.txt", "x" * 70_000)
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(tmp_path / "a.txt"))
    assert (tmp_path / "a.txt").read_text() == "older"
    assert names(tmp_path) == ["a.txt"]


def test_other_errors_are_unchanged(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        atomic_files.write_text(tmp_path / "nowhere" / "a.txt", "x")
    with pytest.raises(PermissionError), atomic_files.atomic_write(tmp_path / "a.txt"):
        raise PermissionError(errno.EACCES, "no")


def test_disk_space_is_checked_before_writing(tmp_path: Path):
    atomic_files.require_free_bytes(tmp_path, 1)
    with pytest.raises(OSError, match=r"1,000,000,000,000,000,000 bytes are needed"):
        atomic_files.require_free_bytes(tmp_path, 10**18)


def test_disk_that_fills_up_while_writing_is_explained(tmp_path: Path):
    with (
        file_size_limit(4096),
        pytest.raises(OSError, match="8,192 bytes are needed"),
        atomic_files.check_disk_space(tmp_path, 8192),
    ):
        (tmp_path / "a.bin").write_bytes(bytes(8192))
    with pytest.raises(FileNotFoundError), atomic_files.check_disk_space(tmp_path, 1):
        (tmp_path / "nowhere" / "a.bin").write_bytes(b"x")


def test_killed_writer_keeps_the_old_file_and_its_temporary_files_are_removed(tmp_path: Path):
    atomic_files.write_text(tmp_path / "a.txt", "older")
    program = (
        "import os, signal, sys; from pathlib import Path; from graft.training.runtime import atomic_files\n"
        "with atomic_files.atomic_write(Path(sys.argv[1])) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.txt")], cwd=ROOT, check=False)
    assert done.returncode == -9
    assert len(names(tmp_path)) == 2
    (tmp_path / ".package-123").mkdir()
    (tmp_path / ".package-123" / "model.onnx").touch()
    (tmp_path / ".elsewhere.tmp").symlink_to(ROOT, target_is_directory=True)
    atomic_files.remove_temp_files(tmp_path, ".package-*")
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "older"
    assert (ROOT / "README.md").exists()

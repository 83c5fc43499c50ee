"""The cache folder: it works on machines without a home folder, with a read-only or a full one."""

import os
import tempfile
import time
from pathlib import Path

import pytest
from unprivileged import run_unprivileged

from graft.training.runtime import atomic_files, cache_dir


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """No configuration, and a temporary folder of its own."""
    for name in ("GRAFT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    cache_dir._writable.cache_clear()
    cache_dir._remove_leftovers.cache_clear()
    yield
    cache_dir._writable.cache_clear()
    cache_dir._remove_leftovers.cache_clear()


def fallback(tmp_path: Path) -> Path:
    return tmp_path / "tmp" / f"graft-{os.geteuid()}"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("GRAFT_CACHE", "mine", "mine"), ("XDG_CACHE_HOME", "caches", "caches/graft"), ("HOME", "home", "home/.cache/graft")],
)
def test_the_configured_folder_is_made_and_used(tmp_path, monkeypatch, capsys, name, value, expected):
    monkeypatch.setenv(name, str(tmp_path / value))
    assert cache_dir.cache_folder() == tmp_path / expected
    assert (tmp_path / expected).is_dir()
    assert capsys.readouterr().err == ""


def test_a_user_without_a_home_gets_a_private_temporary_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000)  # has no name
    assert cache_dir.configured_cache() is None
    assert cache_dir.cache_folder() == fallback(tmp_path)
    assert fallback(tmp_path).stat().st_mode & 0o777 == 0o700
    assert capsys.readouterr().err.startswith("there is no home folder for the cache: ")


def test_a_folder_that_cannot_be_written_is_replaced_with_one_note(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "file"))
    assert cache_dir.cache_folder() == cache_dir.cache_folder() == fallback(tmp_path)
    note = f"the cache {tmp_path / 'file'} cannot be written (File exists): {fallback(tmp_path)} is used instead."
    assert capsys.readouterr().err == f"{note} {cache_dir.SET_CACHE}.\n"


def test_a_read_only_folder_is_replaced(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir(mode=0o555)
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "locked"))
    (tmp_path / "tmp").chmod(0o777)

    def check() -> None:
        folder = cache_dir.cache_folder()
        assert folder == fallback(tmp_path), folder

    assert run_unprivileged(tmp_path, check) == ""


def test_a_full_disk_is_avoided(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "full"))
    real = cache_dir.shutil.disk_usage
    monkeypatch.setattr("shutil.disk_usage", lambda path: real(path)._replace(free=2**20 if path.name == "full" else 2**30))
    assert cache_dir.cache_folder() == fallback(tmp_path)
    assert f"the disk of the cache {tmp_path / 'full'} is full" in capsys.readouterr().err


def test_a_full_disk_is_used_if_there_is_no_other(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "full"))
    real = cache_dir.shutil.disk_usage
    monkeypatch.setattr("shutil.disk_usage", lambda path: real(path)._replace(free=2**20))
    assert cache_dir.cache_folder() == tmp_path / "full"
    assert capsys.readouterr().err == ""


def test_without_any_folder_the_error_names_the_setting(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(OSError, match="Set GRAFT_CACHE to a folder that can be written"):
        cache_dir.cache_folder()


def test_a_temporary_folder_that_others_can_write_is_not_trusted(tmp_path, monkeypatch):
    fallback(tmp_path).mkdir(mode=0o777)
    fallback(tmp_path).chmod(0o777)
    monkeypatch.setenv("GRAFT_CACHE", "/dev/null/cache")
    assert cache_dir.cache_folder() != fallback(tmp_path)
    assert cache_dir.cache_folder().parent == tmp_path / "tmp"


def test_a_linked_temporary_folder_is_not_trusted(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    fallback(tmp_path).symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("GRAFT_CACHE", "/dev/null/cache")
    assert cache_dir.cache_folder().resolve() != tmp_path / "elsewhere"


def test_a_full_disk_in_the_cache_names_the_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    assert "Set GRAFT_CACHE" in str(atomic_files.disk_full(tmp_path / "cache" / "features", 1))
    assert "GRAFT_CACHE" not in str(atomic_files.disk_full(tmp_path / "runs", 1))


LEFT = ["backbones/.making-abc/model.onnx", "backbones/.net.size.7.tmp", "features/key/.rows.npz.7.tmp", "unpacked/.tar-7.tmp"]
KEPT = ["backbones/net-224/model.onnx", "features/key/rows.npz", "unpacked/tar", "unpacked/.hidden"]


def make_files(folder: Path, age_s: float) -> None:
    for name in LEFT + KEPT:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"partial")
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - age_s,) * 2)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_what_killed_processes_left_is_removed_after_a_day(tmp_path, monkeypatch):
    make_files(tmp_path, 25 * 3600)
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path))
    cache_dir.cache_folder()
    assert files(tmp_path) == sorted(KEPT)


def test_what_may_still_be_written_to_is_kept(tmp_path, monkeypatch):
    make_files(tmp_path, 23 * 3600)
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path))
    cache_dir.cache_folder()
    assert files(tmp_path) == sorted(LEFT + KEPT)


def test_a_folder_with_one_new_file_is_kept(tmp_path, monkeypatch):
    make_files(tmp_path, 25 * 3600)
    os.utime(tmp_path / "backbones/.making-abc/model.onnx")
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path))
    cache_dir.cache_folder()
    assert files(tmp_path) == sorted([LEFT[0], *KEPT])

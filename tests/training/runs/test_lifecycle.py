"""Run folders are locked, cleaned up and validated before anything is computed."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import file_size_limit
from unprivileged import run_unprivileged

from graft.training.config.recipe import Recipe
from graft.training.runs import lifecycle
from graft.training.runs.run_folder import RunError
from graft.training.runtime import gpu
from graft.training.runtime.folder_lock import FolderInUse
from graft.training.runtime.gpu import Card

ROOT = Path(__file__).parents[3]
LOCK_PROGRAM = (
    "import fcntl, os, sys; file = open(sys.argv[1], 'a+'); fcntl.lockf(file, fcntl.LOCK_EX)\n"
    "file.write(f'{os.getpid()}\\n'); file.flush(); print(os.getpid(), flush=True); sys.stdin.read()"
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    return tmp_path


@contextmanager
def locked_by_other(run: Path) -> Iterator[int]:
    """Lets another process lock a run; yields its PID."""
    command = [sys.executable, "-c", LOCK_PROGRAM, str(run / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        yield int(other.stdout.readline())
        other.stdin.close()


def opened(out: str | None = "run", **settings: object):
    return lifecycle.open_run(Path(out) if out else None, Path("photos"), Recipe(), **settings)


def begin(out: str = "run") -> Path:
    """A run that has recorded its splits."""
    with opened(out) as folder:
        (folder.path / "splits.csv").write_text("path,label,split,sha256\n")
    return Path(out)


def test_run_records_its_metadata():
    run = begin()
    metadata = json.loads((run / "run.json").read_text())
    assert (metadata["data"], metadata["like"]) == (str(Path("photos").resolve()), None)
    assert set(metadata["versions"]) == set(lifecycle.LIBRARIES)
    assert Recipe.load(run / "recipe.yaml", {}) == Recipe()
    assert not list(run.glob(".*"))


CARD = Card("NVIDIA L4", "550.54.14", (8, 9), 24 * 2**30)


def test_run_records_its_device(monkeypatch):
    assert json.loads((begin("on-a-cpu") / "run.json").read_text())["machine"] == {"device": "cpu"}
    monkeypatch.setattr(lifecycle, "resolve_device", lambda setting: "cuda")
    monkeypatch.setattr(gpu, "current_card", lambda: CARD)
    machine = json.loads((begin("on-a-gpu") / "run.json").read_text())["machine"]
    assert machine == {"device": "cuda", "card": "NVIDIA L4", "driver": "550.54.14", "compute capability": "8.9"}


def test_run_resumed_on_another_device_says_so(monkeypatch, capsys):
    begin()
    with opened(resume=True):
        assert "started on" not in capsys.readouterr().err
    monkeypatch.setattr(lifecycle, "resolve_device", lambda setting: "cuda")
    monkeypatch.setattr(gpu, "current_card", lambda: CARD)
    with opened(resume=True):
        pass
    warning = (
        "warning: the run was started on a CPU, and goes on on NVIDIA L4 (driver 550.54.14), so results may differ slightly"
    )
    assert warning in capsys.readouterr().err


def test_locked_folder_is_rejected_with_the_pid_of_its_owner():
    run = begin()
    with locked_by_other(run) as pid, pytest.raises(FolderInUse, match=rf"run is in use by process {pid}\."):
        opened(resume=True).__enter__()
    with opened(resume=True):
        pass  # works once the first process has ended


def test_locked_folder_exits_with_the_usage_code(capsys):
    from graft.training.cli.main import main

    run = begin()
    with locked_by_other(run) as pid:
        assert main(["fit", "photos", "--out", "run", "--resume"]) == 2
    assert capsys.readouterr().err.endswith(f"error: run is in use by process {pid}.\n")


def test_stale_lock_file_is_ignored():
    run = begin()
    (run / ".lock").write_text("1\n")  # a living process that does not hold the lock
    with opened(resume=True):
        assert (run / ".lock").read_text() == f"{os.getpid()}\n"
    assert not (run / ".lock").exists()


def test_folder_with_a_run_is_rejected():
    begin()
    with pytest.raises(RunError, match=r"run already contains a run\. Use --resume to continue it, or choose another"):
        opened().__enter__()


@pytest.mark.parametrize("out", ["file", "file/run", "file/deeper/run"])
def test_file_as_run_folder_is_rejected_before_data_is_read(out: str, capsys):
    from graft.training.cli.main import main

    Path("file").write_text("mine")
    assert main(["fit", "nowhere", "--out", out]) == 2
    assert "file: The run folder is not writable" in capsys.readouterr().err
    assert Path("file").read_text() == "mine"


def test_read_only_folder_is_rejected(here: Path):
    locked = here / "locked"
    locked.mkdir(mode=0o555)
    assert run_unprivileged(here, lambda: lifecycle.check_run_folder(locked / "deep" / "run", Path("photos"))).startswith(
        "PermissionError: "
    )
    locked.chmod(0o777)
    assert run_unprivileged(here, lambda: lifecycle.check_run_folder(locked / "deep" / "run", Path("photos"))) == ""


def test_missing_folder_is_created_with_its_parents():
    with opened("a/b/run") as folder:
        assert folder.path.is_dir()


def test_folder_inside_the_data_is_rejected():
    with pytest.raises(RunError, match="is inside the data folder, and Graft never writes there"):
        opened("photos/run").__enter__()
    assert list(Path("photos").iterdir()) == []


def test_current_folder_inside_the_data_is_rejected(monkeypatch):
    monkeypatch.chdir("photos")
    with pytest.raises(RunError, match="is inside the data folder"):
        lifecycle.open_run(None, Path("."), Recipe()).__enter__()


def test_full_disk_at_the_start_leaves_no_folder():
    with file_size_limit(100), pytest.raises(OSError, match="The disk is full"):
        opened().__enter__()
    assert not Path("run").exists()


def test_unfinished_files_of_a_killed_run_are_removed():
    run = begin()
    (run / ".package-abc").mkdir()
    (run / ".package-abc" / "model.onnx").touch()
    (run / ".temporary-abc").mkdir()
    (run / ".decisions.json.123.tmp").touch()
    with opened(resume=True):
        assert {path.name for path in run.glob(".*")} == {".lock"}


def test_package_backup_of_a_killed_run_is_restored():
    run = begin()
    (run / ".package-old-123").mkdir()
    (run / ".package-old-123" / "manifest.json").write_text("{}")
    with opened(resume=True):
        assert (run / "package" / "manifest.json").read_text() == "{}"
    assert not list(run.glob(".*"))


def test_error_before_the_run_starts_leaves_no_folder():
    def fail() -> None:
        with opened(None):
            raise ValueError("no images")

    with pytest.raises(ValueError, match="no images"):
        fail()
    assert not Path("runs").exists()


def test_error_keeps_other_files():
    Path("run").mkdir()
    (Path("run") / "notes.txt").write_text("mine")

    def fail() -> None:
        with opened():
            raise ValueError("no images")

    with pytest.raises(ValueError, match="no images"):
        fail()
    assert [path.name for path in Path("run").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("stopped", [KeyboardInterrupt, SystemExit])
def test_stopped_run_prints_the_resume_command(stopped: type[BaseException], capsys):
    def stop() -> None:
        with lifecycle.open_run(Path("my run"), Path("photos"), Recipe()):
            raise stopped

    with pytest.raises(stopped):
        stop()
    assert capsys.readouterr().err == "resume with: graft fit photos --out 'my run' --resume\n"
    assert Path("my run/run.json").is_file()


def test_newest_unfinished_run_of_the_data_is_resumed():
    for name, begun in (("runs/old", 1), ("runs/new", 3), ("runs/done", 5), ("runs/other", 7)):
        run = begin(name)
        metadata = json.loads((run / "run.json").read_text()) | {"begun": begun}
        if name == "runs/other":
            metadata["data"] = "/elsewhere"
        if name == "runs/done":
            metadata["finished"] = 6
            (run / "package").mkdir()
            (run / "package/manifest.json").touch()
        (run / "run.json").write_text(json.dumps(metadata))
    Path("runs/latest").symlink_to("new")
    assert lifecycle.find_resumable(Path("photos"), None) == Path("runs/new")
    assert lifecycle.find_resumable(Path("photos"), Path("runs/old")) == Path("runs/old")


def test_error_if_there_is_no_run_to_resume():
    with pytest.raises(RunError, match=r"There is no unfinished run of photos in runs/; use --out RUN for another location"):
        lifecycle.find_resumable(Path("photos"), None)


def test_changed_library_versions_cause_a_warning_with_a_table(capsys):
    run = begin()
    metadata = json.loads((run / "run.json").read_text())
    metadata["versions"]["torch"] = "1.0.0"
    (run / "run.json").write_text(json.dumps(metadata))
    with opened(resume=True):
        output = capsys.readouterr().err
    assert output.startswith("warning: library versions have changed since the run started")
    assert output.splitlines()[2].split()[:2] == ["torch", "1.0.0"]


def test_runs_of_the_same_second_get_different_folders():
    names = set()
    for _ in range(3):
        with opened(None) as folder:
            names.add(folder.path)
    assert len(names) == 3

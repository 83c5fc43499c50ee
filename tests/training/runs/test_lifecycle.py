"""A run's folder is one process's own, tidied of what a killed one left, and refused before anything is computed."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import files_of_at_most
from unprivileged import as_nobody

from graft.training.config.recipe import Recipe
from graft.training.runs import lifecycle
from graft.training.runs.run_folder import RunError

ROOT = Path(__file__).parents[3]
HOLDS = (
    "import fcntl, os, sys; file = open(sys.argv[1], 'a+'); fcntl.lockf(file, fcntl.LOCK_EX)\n"
    "file.write(f'{os.getpid()}\\n'); file.flush(); print(os.getpid(), flush=True); sys.stdin.read()"
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    return tmp_path


@contextmanager
def held(run: Path) -> Iterator[int]:
    """Another process at work on a run; its number."""
    command = [sys.executable, "-c", HOLDS, str(run / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        yield int(other.stdout.readline())
        other.stdin.close()


def opened(out: str | None = "run", **settings: object):
    return lifecycle.opened(Path(out) if out else None, Path("photos"), Recipe(), **settings)


def begin(out: str = "run") -> Path:
    """A run that got as far as its splits."""
    with opened(out) as folder:
        (folder.path / "splits.csv").write_text("path,label,split,sha256\n")
    return Path(out)


def test_run_records_what_was_started():
    run = begin()
    began = json.loads((run / "run.json").read_text())
    assert (began["data"], began["like"]) == (str(Path("photos").resolve()), None)
    assert set(began["versions"]) == set(lifecycle.LIBRARIES)
    assert Recipe.load(run / "recipe.yaml", {}) == Recipe()
    assert not list(run.glob(".*"))


def test_second_process_in_one_folder_is_refused_with_the_number_of_the_first():
    run = begin()
    with held(run) as number, pytest.raises(RunError, match=rf"run is being worked on by process {number}\."):
        opened(resume=True).__enter__()
    with opened(resume=True):
        pass  # as soon as the first has ended


def test_second_process_is_the_exit_code_of_wrong_use(capsys):
    from graft.training.cli.main import main

    run = begin()
    with held(run) as number:
        assert main(["fit", "photos", "--out", "run", "--resume"]) == 2
    assert capsys.readouterr().err == f"error: run is being worked on by process {number}.\n"


def test_lock_of_a_process_that_was_killed_holds_nobody_up():
    run = begin()
    (run / ".lock").write_text("1\n")  # a process that is alive, and none of ours
    with opened(resume=True):
        assert (run / ".lock").read_text() == f"{os.getpid()}\n"
    assert not (run / ".lock").exists()


def test_folder_that_holds_a_run_is_not_begun_in_again():
    begin()
    with pytest.raises(RunError, match=r"run holds a run already\. Go on with it by --resume, or choose another"):
        opened().__enter__()


@pytest.mark.parametrize("out", ["file", "file/run", "file/deeper/run"])
def test_file_where_the_folder_should_be_is_refused_before_anything_is_read(out: str, capsys):
    from graft.training.cli.main import main

    Path("file").write_text("mine")
    assert main(["fit", "nowhere", "--out", out]) == 2
    assert "file: The run's folder cannot be written" in capsys.readouterr().err
    assert Path("file").read_text() == "mine"


def test_folder_that_may_not_be_written_is_refused(here: Path):
    locked = here / "locked"
    locked.mkdir(mode=0o555)
    assert as_nobody(here, lambda: lifecycle.check(locked / "deep" / "run", Path("photos"))).startswith("PermissionError: ")
    locked.chmod(0o777)
    assert as_nobody(here, lambda: lifecycle.check(locked / "deep" / "run", Path("photos"))) == ""


def test_missing_folder_is_made_with_all_above_it():
    with opened("a/b/run") as folder:
        assert folder.path.is_dir()


def test_folder_inside_the_data_is_refused():
    with pytest.raises(RunError, match="would lie inside the data, where Graft never writes"):
        opened("photos/run").__enter__()
    assert list(Path("photos").iterdir()) == []


def test_current_folder_inside_the_data_is_refused(monkeypatch):
    monkeypatch.chdir("photos")
    with pytest.raises(RunError, match="would lie inside the data"):
        lifecycle.opened(None, Path("."), Recipe()).__enter__()


def test_full_disk_at_the_start_leaves_no_folder():
    with files_of_at_most(100), pytest.raises(OSError, match="The disk is full"):
        opened().__enter__()
    assert not Path("run").exists()


def test_what_a_killed_run_left_half_done_is_removed():
    run = begin()
    (run / ".package-abc").mkdir()
    (run / ".package-abc" / "model.onnx").touch()
    (run / ".onnx-abc").mkdir()
    (run / ".plan.json.123.tmp").touch()
    with opened(resume=True):
        assert {path.name for path in run.glob(".*")} == {".lock"}


def test_package_that_a_killed_run_had_set_aside_comes_back():
    run = begin()
    (run / ".package-old-123").mkdir()
    (run / ".package-old-123" / "manifest.json").write_text("{}")
    with opened(resume=True):
        assert (run / "package" / "manifest.json").read_text() == "{}"
    assert not list(run.glob(".*"))


def test_error_before_anything_was_begun_leaves_no_folder():
    def fail() -> None:
        with opened(None):
            raise ValueError("no images")

    with pytest.raises(ValueError, match="no images"):
        fail()
    assert not Path("runs").exists()


def test_error_leaves_a_strangers_file_alone():
    Path("run").mkdir()
    (Path("run") / "notes.txt").write_text("mine")

    def fail() -> None:
        with opened():
            raise ValueError("no images")

    with pytest.raises(ValueError, match="no images"):
        fail()
    assert [path.name for path in Path("run").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("stopped", [KeyboardInterrupt, SystemExit])
def test_who_is_stopped_is_told_how_to_go_on(stopped: type[BaseException], capsys):
    def stop() -> None:
        with lifecycle.opened(Path("my run"), Path("photos"), Recipe()):
            raise stopped

    with pytest.raises(stopped):
        stop()
    assert capsys.readouterr().err == "go on with: graft fit photos --out 'my run' --resume\n"
    assert Path("my run/run.json").is_file()


def test_newest_unfinished_run_of_these_data_is_gone_on_with():
    for name, begun in (("runs/old", 1), ("runs/new", 3), ("runs/done", 5), ("runs/other", 7)):
        run = begin(name)
        facts = json.loads((run / "run.json").read_text()) | {"begun": begun}
        if name == "runs/other":
            facts["data"] = "/elsewhere"
        if name == "runs/done":
            facts["finished"] = 6
            (run / "package").mkdir()
            (run / "package/manifest.json").touch()
        (run / "run.json").write_text(json.dumps(facts))
    Path("runs/latest").symlink_to("new")
    assert lifecycle.resumable(Path("photos"), None) == Path("runs/new")
    assert lifecycle.resumable(Path("photos"), Path("runs/old")) == Path("runs/old")


def test_nothing_to_go_on_with_is_said():
    with pytest.raises(RunError, match=r"There is no unfinished run of photos below runs/; --out RUN names one elsewhere"):
        lifecycle.resumable(Path("photos"), None)


def test_other_versions_of_libraries_are_a_warning_with_a_table(capsys):
    run = begin()
    facts = json.loads((run / "run.json").read_text())
    facts["versions"]["torch"] = "1.0.0"
    (run / "run.json").write_text(json.dumps(facts))
    with opened(resume=True):
        said = capsys.readouterr().err
    assert said.startswith("warning: other versions than when the run began")
    assert said.splitlines()[2].split()[:2] == ["torch", "1.0.0"]


def test_two_runs_of_one_second_get_folders_of_their_own():
    names = set()
    for _ in range(3):
        with opened(None) as folder:
            names.add(folder.path)
    assert len(names) == 3

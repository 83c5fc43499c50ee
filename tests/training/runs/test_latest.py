"""`runs/latest` and `runs/latest-package` always lead to a complete, valid package."""

import os
import shutil
import threading
from pathlib import Path

import pytest

from graft.service.artifact import ArtifactError, read
from graft.training.runs import latest


@pytest.fixture
def make_run(fitted, tmp_path, monkeypatch):
    """Creates a run in the current folder that contains only the package of the session."""
    monkeypatch.chdir(tmp_path)

    def made(name: str) -> Path:
        shutil.copytree(fitted.artifact.path, Path(name) / "package")
        return Path(name)

    return made


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_both_paths_lead_to_the_latest_run(make_run):
    for name in ("runs/one", "runs/two"):
        latest.set_latest(make_run(name))
    assert os.readlink("runs/latest") == "two"
    assert content(Path("runs/latest-package")) == content(Path("runs/two/package"))


def test_latest_package_contains_no_symbolic_links(make_run):
    latest.set_latest(make_run("runs/one"))
    package = Path("runs/latest-package")
    assert not package.is_symlink()
    assert [path.name for path in package.iterdir() if path.is_symlink()] == []
    assert read(package).path == package


def test_latest_package_uses_hard_links(make_run):
    latest.set_latest(make_run("runs/one"))
    pairs = [Path(folder, "model.onnx") for folder in ("runs/latest-package", "runs/one/package")]
    assert os.path.samefile(*pairs)


def test_files_are_copied_without_hard_links(make_run, monkeypatch):
    def impossible(*_: object) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr("os.link", impossible)
    latest.set_latest(make_run("runs/one"))
    pairs = [Path(folder, "model.onnx") for folder in ("runs/latest-package", "runs/one/package")]
    assert not os.path.samefile(*pairs)
    assert read(Path("runs/latest-package")).manifest == read(Path("runs/one/package")).manifest


def test_run_in_another_folder_and_the_link_itself_can_be_selected(make_run):
    latest.set_latest(make_run("elsewhere/mine"))
    latest.set_latest(Path("runs/latest"))
    assert os.path.realpath("runs/latest") == os.path.realpath("elsewhere/mine")


@pytest.mark.parametrize("flaw", ["no package", "altered"])
def test_invalid_package_is_not_selected(make_run, flaw):
    good, bad = make_run("runs/good"), make_run("runs/bad")
    latest.set_latest(good)
    if flaw == "altered":
        (bad / "package/model.onnx").write_bytes(b"\0")
    else:
        shutil.rmtree(bad / "package")
    with pytest.raises(ArtifactError, match=r"runs/bad/package"):
        latest.set_latest(bad)
    assert os.readlink("runs/latest") == "good"
    assert read(Path("runs/latest-package")).path == Path("runs/latest-package")


def test_unfinished_files_of_a_killed_process_are_removed(make_run):
    run = make_run("runs/one")
    (Path("runs") / ".latest-123").symlink_to("one")
    shutil.copytree(run / "package", "runs/.latest-new-123")
    latest.set_latest(run)
    assert not list(Path("runs").glob(".*"))


def test_concurrent_calls_leave_one_complete_package(make_run):
    runs = [make_run(f"runs/{number}") for number in range(4)]
    failed: list[BaseException] = []

    def choose(run: Path) -> None:
        try:
            for _ in range(5):
                latest.set_latest(run)
        except BaseException as error:  # noqa: BLE001 - checked below
            failed.append(error)

    threads = [threading.Thread(target=choose, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert read(Path("runs/latest-package")).path == Path("runs/latest-package")
    assert not list(Path("runs").glob(".*"))

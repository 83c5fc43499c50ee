"""Arguments in the wrong order, and paths of the wrong kind."""

import os
from pathlib import Path

import pytest

from graft.service.artifact import ArtifactError
from graft.training.data.dataset import DatasetError, scan
from graft.training.pipelines.arguments import check_order
from graft.training.runs import latest
from graft.training.runs.run_folder import RunError, run_of


def test_package_and_run_are_accepted_as_the_first_argument(fitted, tmp_path: Path):
    check_order(fitted.package, [tmp_path])
    check_order(fitted.run, [tmp_path, fitted.package])


@pytest.mark.parametrize("kind", ["package", "run"])
def test_swapped_arguments_are_named(fitted, tmp_path: Path, kind: str):
    with pytest.raises(ValueError, match=r"is data, and .* is a package: swap them\."):
        check_order(tmp_path, [getattr(fitted, kind)])


def test_two_wrong_arguments_are_left_to_the_reader(tmp_path: Path):
    check_order(tmp_path / "a", [tmp_path / "b"])


def test_unfinished_run_says_how_to_finish_it(tmp_path: Path):
    (tmp_path / "run.json").touch()
    with pytest.raises(ArtifactError, match=r"is an unfinished run\. Finish it with: graft fit DATA --out .* --resume"):
        check_order(tmp_path, [])


def test_package_is_no_data(fitted):
    with pytest.raises(DatasetError, match=r"is a package, not labeled images\. To train it further: graft fit DATA --from "):
        scan(fitted.package)
    with pytest.raises(DatasetError, match=r"is a run, not labeled images"):
        scan(fitted.run)


def test_package_stands_for_its_run(fitted, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_of(fitted.package) == fitted.run
    latest.set_latest(fitted.package)
    assert (tmp_path / "runs" / "latest").resolve() == fitted.run.resolve()


def test_package_without_its_run_cannot_be_selected(fitted, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "package").symlink_to(fitted.package)
    with pytest.raises(RunError, match=r"package is a package without its run\. It can be served with: graft serve package"):
        latest.set_latest(Path("package"))


def test_a_pipe_in_place_of_an_image_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "cat.jpg")
    with pytest.raises(ValueError, match=r"cat\.jpg is a named pipe or a device, not a file or folder"):
        check_order(tmp_path, [tmp_path / "cat.jpg"])

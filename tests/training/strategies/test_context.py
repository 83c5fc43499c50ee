"""What every way to learn stands on is prepared once, and found again."""

from pathlib import Path

import pytest

from graft.training.config.recipe import Recipe
from graft.training.data.dataset import DatasetError
from graft.training.runs.run_folder import Folder, RunDiffers
from graft.training.strategies.context import prepare

CHOICES = Recipe(strategy="probe", input_size=32)


def folder(path: Path) -> Folder:
    path.mkdir(exist_ok=True)
    return Folder(path)


def test_splits_are_recorded_and_used_again(cache, make_folder, tmp_path: Path):
    photos = make_folder({"cat": 12, "dog": 12})
    first = prepare(photos, folder(tmp_path / "run"), CHOICES)
    again = prepare(photos, folder(tmp_path / "run"), CHOICES.model_copy(update={"seed": 7}))
    assert {sample.path for sample in again.splits.test} == {sample.path for sample in first.splits.test}


def test_an_image_that_changed_since_is_named(cache, make_folder, encode, photo, tmp_path: Path):
    photos = make_folder({"cat": 12, "dog": 12})
    prepare(photos, folder(tmp_path / "run"), CHOICES)
    (photos / "cat/003.png").write_bytes(encode(photo))
    with pytest.raises(RunDiffers, match=r"cat/003\.png"):
        prepare(photos, folder(tmp_path / "run"), CHOICES)


def test_an_image_that_was_added_since_is_named(cache, make_folder, encode, photo, tmp_path: Path):
    photos = make_folder({"cat": 12, "dog": 12})
    prepare(photos, folder(tmp_path / "run"), CHOICES)
    (photos / "cat/new.png").write_bytes(encode(photo))
    with pytest.raises(RunDiffers, match=r"cat/new\.png +not there"):
        prepare(photos, folder(tmp_path / "run"), CHOICES)


def test_another_input_size_on_resuming_is_refused(cache, make_folder, tmp_path: Path):
    photos = make_folder({"cat": 12, "dog": 12})
    prepare(photos, folder(tmp_path / "run"), CHOICES)
    with pytest.raises(RunDiffers, match="input size"):
        prepare(photos, folder(tmp_path / "run"), CHOICES.model_copy(update={"input_size": 64}))


def test_what_is_left_out_is_on_record(cache, make_folder, tmp_path: Path):
    photos = make_folder({"cat": 22, "dog": 20})
    (photos / "cat/000.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="--skip-bad"):
        prepare(photos, folder(tmp_path / "one"), CHOICES)
    ground = prepare(photos, folder(tmp_path / "two"), CHOICES.model_copy(update={"skip_bad": True}))
    assert ground.audited.left_out == {"cat/000.png": "empty-file"}
    assert "cat/000.png,,left out: empty-file," in (tmp_path / "two/splits.csv").read_text()


def test_all_views_of_an_image_come_together(cache, make_folder, tmp_path: Path):
    ground = prepare(make_folder({"cat": 12, "dog": 12}), folder(tmp_path / "run"), CHOICES)
    seen = ground.seen(ground.splits.train)
    assert seen.shape == (2, len(ground.splits.train), ground.features.seen.shape[1])
    assert ground.targets(ground.splits.train).tolist() == [sample.label for sample in ground.splits.train]

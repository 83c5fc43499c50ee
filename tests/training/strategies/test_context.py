"""Preparation of a run: splits and decisions are recorded once and reused when the run is resumed."""

from pathlib import Path

import pytest

from graft.training.config.recipe import Recipe
from graft.training.data.dataset import DatasetError
from graft.training.runs.run_folder import RunFolder, RunMismatchError
from graft.training.strategies.context import prepare

RECIPE = Recipe(strategy="probe", input_size=32)


def folder(path: Path) -> RunFolder:
    path.mkdir(exist_ok=True)
    return RunFolder(path)


@pytest.mark.slow
def test_splits_are_recorded_and_reused(cache, make_folder, tmp_path: Path):
    photos = make_folder({"cat": 12, "dog": 12})
    first = prepare(photos, folder(tmp_path / "run"), RECIPE)
    resumed = prepare(photos, folder(tmp_path / "run"), RECIPE.model_copy(update={"seed": 7}))
    assert {sample.path for sample in resumed.splits.test} == {sample.path for sample in first.splits.test}


def test_changed_image_is_named(cache, make_folder, encode, photo, tmp_path: Path):
    photos = make_folder({"cat": 12, "dog": 12})
    prepare(photos, folder(tmp_path / "run"), RECIPE)
    (photos / "cat/003.png").write_bytes(encode(photo))
    with pytest.raises(RunMismatchError, match=r"cat/003\.png"):
        prepare(photos, folder(tmp_path / "run"), RECIPE)


def test_added_image_is_named(cache, make_folder, encode, photo, tmp_path: Path):
    photos = make_folder({"cat": 12, "dog": 12})
    prepare(photos, folder(tmp_path / "run"), RECIPE)
    (photos / "cat/new.png").write_bytes(encode(photo))
    with pytest.raises(RunMismatchError, match=r"cat/new\.png +missing"):
        prepare(photos, folder(tmp_path / "run"), RECIPE)


@pytest.mark.slow
def test_resuming_with_another_input_size_is_rejected(cache, make_folder, tmp_path: Path):
    photos = make_folder({"cat": 12, "dog": 12})
    prepare(photos, folder(tmp_path / "run"), RECIPE)
    with pytest.raises(RunMismatchError, match="input size"):
        prepare(photos, folder(tmp_path / "run"), RECIPE.model_copy(update={"input_size": 64}))


def test_excluded_files_are_recorded(cache, make_folder, tmp_path: Path):
    photos = make_folder({"cat": 22, "dog": 20})
    (photos / "cat/000.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="--skip-bad"):
        prepare(photos, folder(tmp_path / "one"), RECIPE)
    context = prepare(photos, folder(tmp_path / "two"), RECIPE.model_copy(update={"skip_bad": True}))
    assert context.audit.excluded == {"cat/000.png": "empty-file"}
    assert "cat/000.png,,excluded: empty-file," in (tmp_path / "two/splits.csv").read_text()


def test_features_have_one_axis_for_views(cache, make_folder, tmp_path: Path):
    context = prepare(make_folder({"cat": 12, "dog": 12}), folder(tmp_path / "run"), RECIPE)
    features = context.view_features(context.splits.train)
    assert features.shape == (2, len(context.splits.train), context.features.array.shape[1])
    assert context.targets(context.splits.train).tolist() == [sample.label for sample in context.splits.train]

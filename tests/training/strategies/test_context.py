"""Preparation of a run: splits and decisions are recorded once and reused when the run is resumed."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from copied_pictures import COPIES, crop, jpeg, picture

from graft.training.config import hyperparameters
from graft.training.config.recipe import Recipe
from graft.training.data.dataset import DatasetError
from graft.training.pipelines.check import check
from graft.training.runs.run_folder import RunFolder, RunMismatchError
from graft.training.strategies.context import extract_crops, prepare

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


def test_crops_are_features_of_train_and_validation_only(cache, make_folder, tmp_path: Path):
    whole = prepare(make_folder({"cat": 12, "dog": 12}), folder(tmp_path / "run"), RECIPE)
    context = extract_crops(whole, seconds=60)
    splits, width = context.splits, context.features.array.shape[1]
    assert context.crop_features(splits.validation).shape == (8, len(splits.validation), width)
    assert context.view_features(splits.train).shape == (2, len(splits.train), width)
    np.testing.assert_array_equal(context.view_features(splits.train)[:], whole.view_features(splits.train)[:])
    np.testing.assert_array_equal(context.crop_features(splits.train)[:2], whole.view_features(splits.train)[:])
    np.testing.assert_array_equal(context.features.load(splits.test), whole.features.load(splits.test))
    with pytest.raises(KeyError):
        context.select_views(splits.test, [(False, 2)])


@pytest.mark.parametrize(("seconds", "n_views"), [(-1, 2), (0, 2), (1e-9, 3)])
def test_number_of_crops_follows_the_time_and_is_decided_once(cache, make_folder, tmp_path: Path, seconds, n_views):
    context = extract_crops(prepare(make_folder({"cat": 12, "dog": 12}), folder(tmp_path / "run"), RECIPE), seconds)
    assert len(context.crop_features(context.splits.train)) == n_views
    resumed = extract_crops(prepare(context.dataset.source.root, folder(tmp_path / "run"), RECIPE), 1e9)
    assert len(resumed.crop_features(resumed.splits.train)) == n_views


def test_without_flips_no_crop_is_mirrored(cache, make_folder, tmp_path: Path):
    recipe = RECIPE.model_copy(update={"flips": False})
    context = extract_crops(prepare(make_folder({"cat": 12, "dog": 12}), folder(tmp_path / "run"), recipe), 60)
    assert hyperparameters.crop_views(flips=False, n_images=24) == [(False, crop) for crop in range(1, 8)]
    assert len(context.crop_features(context.splits.train)) == 8


def test_image_that_vanishes_before_its_crops_are_extracted_is_named(cache, make_folder, tmp_path: Path):
    context = prepare(make_folder({"cat": 12, "dog": 12}, seed=77), folder(tmp_path / "run"), RECIPE)
    path = context.splits.train[0].path
    (context.dataset.source.root / path).unlink()
    with pytest.raises(DatasetError, match=re.escape(path)):
        extract_crops(context, seconds=60)


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> Path:
    """Two labels of 36 pictures each, and of the first pictures a copy of each kind: `a-003.jpg` and `a-003-copy.jpg`."""
    photos = tmp_path_factory.mktemp("copied")
    for label, first_seed in (("a", 0), ("b", 100)):
        (photos / label).mkdir()
        for number in range(36):
            (photos / label / f"{label}-{number:03}.jpg").write_bytes(jpeg(picture(first_seed + number)))
        for number, copy in enumerate(COPIES.values()):
            (photos / label / f"{label}-{number:03}-copy.jpg").write_bytes(jpeg(copy(picture(first_seed + number))))
    return photos


@pytest.mark.parametrize("seed", [0, 1])
def test_copies_of_every_kind_stay_in_one_split(cache, copied: Path, tmp_path: Path, seed: int):
    splits = prepare(copied, folder(tmp_path / "run"), Recipe(strategy="probe", input_size=64, seed=seed)).splits
    split_of = {Path(sample.path).stem: name for name, samples in splits.to_dict().items() for sample in samples}
    copies = [name for name in split_of if name.endswith("-copy")]
    assert len(copies) == 2 * len(COPIES)
    assert [name for name in copies if split_of[name] != split_of[name.removesuffix("-copy")]] == []
    groups = [sample.group for samples in splits.to_dict().values() for sample in samples]
    assert len(set(groups)) == len(groups) - len(copies)  # and nothing else is a copy


def test_fit_and_check_find_the_same_copies(cache, copied: Path, tmp_path: Path):
    recipe = Recipe(strategy="probe", input_size=64)
    of_fit = prepare(copied, folder(tmp_path / "run"), recipe).audit.findings
    of_check = check(copied, recipe).findings
    pairs = {finding.paths for finding in of_fit if finding.kind == "near-duplicate"}
    assert pairs == {finding.paths for finding in of_check if finding.kind == "near-duplicate"}
    assert len(pairs) == 2 * len(COPIES)


def test_resumed_run_keeps_the_groups(cache, copied: Path, tmp_path: Path):
    recipe = Recipe(strategy="probe", input_size=64)
    first, resumed = (prepare(copied, folder(tmp_path / "run"), recipe).splits for _ in range(2))
    for one, other in zip(first.to_dict().values(), resumed.to_dict().values(), strict=True):
        assert {(sample.path, sample.group) for sample in one} == {(sample.path, sample.group) for sample in other}


@pytest.fixture
def leaking(make_folder) -> Path:
    """Given splits, and a test image that is a cropped training image."""
    photos = make_folder({f"{split}/{label}": 0 for split in ("train", "test") for label in ("a", "b")})
    for seed in range(48):
        name = f"{'train' if seed < 36 else 'test'}/{'ab'[seed % 2]}/{seed:03}.jpg"
        (photos / name).write_bytes(jpeg(picture(200 + seed)))
    (photos / "test/a/copy.jpg").write_bytes(jpeg(COPIES["cropped"](picture(200))))
    return photos


def test_near_copy_across_given_splits_stops_the_run(cache, leaking: Path, tmp_path: Path):
    with pytest.raises(DatasetError, match=r"near-duplicates across train and test: .*copy\.jpg"):
        prepare(leaking, folder(tmp_path / "run"), Recipe(strategy="probe", input_size=64))


def test_near_copy_across_given_splits_is_excluded_from_training_on_request(cache, leaking: Path, tmp_path: Path):
    recipe = Recipe(strategy="probe", input_size=64, drop_duplicates=True)
    context = prepare(leaking, folder(tmp_path / "run"), recipe)
    assert context.audit.excluded == {"train/a/000.jpg": "near-leak"}
    assert "train/a/000.jpg" not in {sample.path for samples in context.splits.to_dict().values() for sample in samples}
    assert prepare(leaking, folder(tmp_path / "run"), recipe).audit.excluded == context.audit.excluded  # resumed


def test_near_copy_across_given_splits_may_be_allowed(cache, leaking: Path, tmp_path: Path):
    recipe = Recipe(strategy="probe", input_size=64, allow_near_leaks=True)
    context = prepare(leaking, folder(tmp_path / "run"), recipe)
    [finding] = [finding for finding in context.audit.findings if finding.kind == "near-leak"]
    assert finding.severity == "warning"
    assert context.audit.excluded == {}


def test_images_of_the_sample_are_no_copies(fitted):
    rows = (fitted.run / "splits.csv").read_text().splitlines()
    assert len(rows) == 1_501
    assert not any("excluded" in row for row in rows)


BURST_SIZES = (3, 4, 5, 3, 6, 4, 3, 5, 4, 3, 4, 5)


@pytest.fixture(scope="module")
def burst_folder(tmp_path_factory) -> Path:
    """Two labels of 12 bursts: one picture from slightly other sides each. Numbers count on through a label."""
    photos = tmp_path_factory.mktemp("bursts")
    random = np.random.default_rng(0)
    for label, first_seed in (("a", 300), ("b", 400)):
        (photos / label).mkdir()
        number = 0
        for burst, size in enumerate(BURST_SIZES):
            for _ in range(size):
                number += 1
                shot = crop(picture(first_seed + burst, 256, 192).rotate(random.uniform(-4, 4)), random.uniform(0.08, 0.14))
                shot = shot.point(lambda value, gain=random.uniform(0.8, 1.2): min(255, int(gain * value)))
                (photos / label / f"IMG_{number:04}.jpg").write_bytes(jpeg(shot))
    return photos


def burst_of(path: str) -> tuple[str, int]:
    """The label and the index of the burst of a photo of `burst_folder`."""
    label, name = path.split("/")[-2:]
    return label, int(np.searchsorted(np.cumsum(BURST_SIZES), int(name[4:8])))


@pytest.mark.parametrize("group_by", [None, "auto"])
def test_no_burst_is_split(cache, burst_folder: Path, tmp_path: Path, capsys, group_by):
    recipe = Recipe(strategy="probe", input_size=64, group_by=group_by)
    context = prepare(burst_folder, folder(tmp_path / "run"), recipe)
    split_of_burst = {}
    for name, samples in context.splits.to_dict().items():
        for sample in samples:
            split_of_burst.setdefault(burst_of(sample.path), set()).add(name)
    assert [burst for burst, names in split_of_burst.items() if len(names) > 1] == []
    assert len(split_of_burst) == 2 * len(BURST_SIZES)


def test_bursts_are_shown_by_fit_and_check(cache, burst_folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("graft.training.audit.image_groups.find_near_copies", lambda *_: ())  # some shots are copies too
    recipe = Recipe(strategy="probe", input_size=64)
    for findings in (
        prepare(burst_folder, folder(tmp_path / "run"), recipe).audit.findings,
        check(burst_folder, recipe).findings,
    ):
        [note] = [finding.text for finding in findings if finding.kind == "bursts"]
        assert re.match(r"these look like 2\d bursts of 3 to \d photos: images of a burst stay in one split", note)


def test_bursts_may_be_ignored(cache, burst_folder: Path, tmp_path: Path):
    recipe = Recipe(strategy="probe", input_size=64, group_by="none")
    context = prepare(burst_folder, folder(tmp_path / "run"), recipe)
    assert "bursts" not in {finding.kind for finding in context.audit.findings}


def test_declared_groups_join_copies_and_replace_bursts(cache, copied: Path, tmp_path: Path):
    recipe = Recipe(strategy="probe", input_size=64, group_by=r"-0(\d)\d")  # ten numbers each
    context = prepare(copied, folder(tmp_path / "run"), recipe)
    splits = context.splits.to_dict()
    split_of = {}
    for name, samples in splits.items():
        for sample in samples:
            split_of.setdefault(Path(sample.path).name[3], set()).add(name)
    assert all(len(names) == 1 for names in split_of.values())
    assert "near-duplicate" in {finding.kind for finding in context.audit.findings}
    assert "bursts" not in {finding.kind for finding in context.audit.findings}


def test_burst_across_given_splits_is_a_warning(cache, burst_folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("graft.training.audit.image_groups.find_near_copies", lambda *_: ())
    photos = tmp_path / "photos"
    for path in sorted(burst_folder.rglob("*.jpg")):
        target = photos / ("test" if int(path.stem[4:]) % 3 == 0 else "train") / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    context = prepare(photos, folder(tmp_path / "run"), Recipe(strategy="probe", input_size=64, allow_near_leaks=True))
    [warning] = [finding for finding in context.audit.findings if finding.kind == "burst-leak"]
    assert warning.severity == "warning"
    assert "bursts are in several splits" in warning.text

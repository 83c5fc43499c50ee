"""`graft fit`: its output, the files of a run, and its errors."""

import csv
import dataclasses
import itertools
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from graft.service.inference.neighbors import Thumbnails
from graft.service.manifest import ErrorLevel
from graft.training.audit.image_scan import scan_images
from graft.training.config.recipe import Recipe
from graft.training.data.dataset import DatasetError, scan
from graft.training.data.splits import split
from graft.training.pipelines import fit
from graft.training.results import Estimate, SplitGap
from graft.training.runs.run_folder import RunError
from graft.training.sample import SAMPLE

PROBE = Recipe(strategy="probe", input_size=128)  # the size that the session fixture has already exported


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@contextmanager
def suppress_only_if_named(label: str) -> Iterator[None]:
    """Suppresses a DatasetError that names the label."""
    try:
        yield
    except DatasetError as error:
        if label not in str(error):
            raise


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "splits.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_json_result_has_all_fields(fitted):
    result = fitted.to_dict()
    assert set(result) >= {"run", "package", "report", "strategy", "backbone", "labels", "test", "validation", "seconds"}
    assert set(result["test"]) == {"accuracy", "low", "high", "n", "n_groups"}
    assert set(result["validation"]) == {"accuracy", "n"}


def test_json_result_describes_the_run(fitted, workplace: Path):
    result = fitted.to_dict()
    assert (result["run"], result["package"]) == (str(workplace / "runs/sample"), str(workplace / "runs/sample/package"))
    assert (result["strategy"], result["backbone"]) == ("probe", "tf_efficientnet_lite0")
    assert result["labels"][:2] == ["ankle boot", "bag"]
    assert (result["test"]["n"], result["validation"]["n"]) == (500, 150)


def test_json_result_is_serializable(fitted):
    assert json.loads(json.dumps(fitted.to_dict())) == fitted.to_dict()


def test_sample_accuracy_is_high(fitted):
    assert fitted.to_dict()["test"]["low"] > 0.75


def test_recipe_is_recorded_in_the_run(fitted):
    assert Recipe.load(fitted.run / "recipe.yaml", {}) == Recipe(strategy="probe")


def test_recorded_recipe_reproduces_the_recorded_splits(fitted):
    recipe = Recipe.load(fitted.run / "recipe.yaml", {})
    dataset = scan_images(scan(SAMPLE))[0]
    expected = [
        {"path": sample.path, "label": dataset.labels[sample.label], "split": name, "sha256": sample.digest.hex()}
        for name, samples in split(dataset, recipe.seed).to_dict().items()
        for sample in samples
    ]
    assert rows(fitted.run) == expected


def test_splits_file_lists_every_image_once(fitted):
    recorded = rows(fitted.run)
    assert Counter(row["split"] for row in recorded) == {"train": 850, "validation": 150, "test": 500}
    assert len({row["path"] for row in recorded}) == 1500


def test_latest_links_to_the_run(fitted, workplace: Path):
    latest = workplace / "runs" / "latest"
    assert latest.is_symlink()
    assert latest.resolve() == fitted.run.resolve()


def test_summary_has_score_and_package(fitted):
    text = fit.summary(fitted)
    assert "on 500 held-out test images" in text
    assert str(fitted.artifact.path) in text


def test_folder_without_splits_is_split_in_three(fitted, make_folder):
    result = fit.fit(make_folder({"cat": 20, "dog": 20}), Path("mine"), PROBE)
    assert Counter(row["split"] for row in rows(result.run)) == {"train": 28, "validation": 6, "test": 6}
    assert result.to_dict()["labels"] == ["cat", "dog"]


def test_default_run_folder_is_in_runs(fitted, make_folder):
    result = fit.fit(make_folder({"cat": 20, "dog": 20}), None, PROBE)
    assert result.run.parent == Path("runs")
    assert result.run.name.startswith("photos-2")
    assert Path("runs/latest/package/manifest.json").is_file()


def test_corrupt_image_stops_the_run(fitted, make_folder):
    folder = make_folder({"cat": 20, "dog": 20})
    (folder / "cat/000.png").write_bytes((folder / "cat/000.png").read_bytes()[:-400])
    with pytest.raises(DatasetError, match=r"(?s)One problem stops the fit:.*cat/000\.png: .*truncated.*--skip-bad"):
        fit.fit(folder, Path("mine"), PROBE)
    assert not Path("mine/package").exists()


def test_skip_bad_excludes_and_records_corrupt_images(fitted, make_folder):
    folder = make_folder({"cat": 20, "dog": 20})
    (folder / "cat/000.png").write_bytes((folder / "cat/000.png").read_bytes()[:-400])
    result = fit.fit(folder, Path("mine"), PROBE.model_copy(update={"skip_bad": True}))
    [left_out] = [row for row in rows(result.run) if row["path"] == "cat/000.png"]
    assert left_out["split"].startswith("excluded: ")
    assert len(rows(result.run)) == 40


def test_too_many_corrupt_images_stop_the_run_despite_skip_bad(fitted, make_folder):
    folder = make_folder({"cat": 20, "dog": 20})
    for number in range(3):
        (folder / f"cat/{number:03d}.png").write_bytes(f"no image {number}".encode())
    with pytest.raises(DatasetError, match=r"(?s)3 of 40 files cannot be used.*too many to exclude"):
        fit.fit(folder, Path("mine"), PROBE.model_copy(update={"skip_bad": True}))


def test_dropped_duplicates_are_recorded_in_the_splits(fitted, make_folder):
    folder = make_folder({"cat": 20, "dog": 20})
    (folder / "dog/copy.png").write_bytes((folder / "cat/000.png").read_bytes())
    result = fit.fit(folder, Path("mine"), PROBE.model_copy(update={"drop_duplicates": True}))
    dropped = {row["path"] for row in rows(result.run) if row["split"] == "excluded: conflict"}
    assert dropped == {"cat/000.png", "dog/copy.png"}


def test_smallest_label_is_trained_or_named_in_the_error(fitted, make_folder):
    folder = make_folder({"cat": 20, "dog": 20, "emu": 3})
    with suppress_only_if_named("emu"):
        assert fit.fit(folder, Path("mine"), PROBE).to_dict()["labels"] == ["cat", "dog", "emu"]


def test_label_without_readable_training_images_is_named(fitted, make_folder):
    folder = make_folder({"cat": 40, "dog": 40, "emu": 4})
    for number in range(2):
        (folder / f"emu/{number:03d}.png").write_bytes(f"no image {number}".encode())
    dataset = scan_images(scan(folder))[0]
    corrupt = {"emu/000.png", "emu/001.png"}
    seed = next(
        seed
        for seed in itertools.count()
        if {sample.path for sample in split(dataset, seed).train if sample.label == 2} == corrupt
    )
    with pytest.raises(DatasetError, match="emu"):
        fit.fit(folder, Path("mine"), PROBE.model_copy(update={"skip_bad": True, "seed": seed}))


def test_folder_without_supported_images_is_rejected(fitted, make_folder):
    folder = make_folder({"cat": 4, "dog": 4})
    for path in folder.rglob("*.png"):
        path.write_bytes(f"no image: {path}".encode())
    with pytest.raises(DatasetError, match="Graft reads these formats: JPEG, PNG"):
        fit.fit(folder, Path("mine"), PROBE)


def test_unusable_data_leaves_no_run_folder(make_folder):
    with pytest.raises(DatasetError):
        fit.fit(make_folder({"cat": 4}), Path("mine"), PROBE)
    assert not Path("mine").exists()


def test_thumbnails_can_be_disabled(fitted, make_folder, tmp_path: Path):
    recipe = PROBE.model_copy(update={"thumbnails": False})
    result = fit.fit(make_folder({"cat": 12, "dog": 12}), tmp_path / "run", recipe)
    thumbnails = Thumbnails.load(result.artifact.thumbnails)
    assert (len(thumbnails) > 10, thumbnails.content) == (True, b"")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["probe", "kernel"])
def test_multilabel_data_is_trained_packaged_and_predicted(cache, workplace, encode, tmp_path: Path, strategy: str):
    from graft.service.inference import model

    random, rows = np.random.default_rng(0), ["path,label"]
    for number in range(60):
        pixels = random.integers(90, 160, (48, 48, 3)).astype(np.uint8)
        labels = [name for name in ("red", "green", "blue") if random.random() < 0.5] or ["red"]
        for name in labels:
            channel = ("red", "green", "blue").index(name)
            pixels[16 * channel : 16 * channel + 16, 8:40] = np.eye(3, dtype=np.uint8)[channel] * 255
        (tmp_path / f"{number}.png").write_bytes(encode(pixels))
        rows.append(f"{number}.png,{'|'.join(labels)}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    result = fit.fit(
        tmp_path / "labels.csv", tmp_path / "run", PROBE.model_copy(update={"input_size": 64, "strategy": strategy})
    )
    assert result.evaluation.multilabel
    assert result.evaluation.primary_metric.value > 0.9
    assert "mean average precision" in fit.summary(result)
    prediction = model.load(result.artifact.path, "cpu").classify((tmp_path / "0.png").read_bytes(), 3)
    assert set(prediction.prediction_set) == set(rows[1].split(",")[1].split("|"))


def with_calibration(result, **changes):
    """A result whose package has another calibration."""
    calibration = result.artifact.manifest.calibration.model_copy(update=changes)
    manifest = result.artifact.manifest.model_copy(update={"calibration": calibration})
    return dataclasses.replace(result, artifact=dataclasses.replace(result.artifact, manifest=manifest))


def test_too_few_images_for_prediction_sets_are_said(fitted):
    result = with_calibration(fitted, n_images=6, set_thresholds=(0.0,) * 10)
    assert fit.summary_lines(result)[1] == (
        "warning: 6 images are too few for prediction sets with a coverage of 90%: every set contains all labels. Add images,"
        " or lower --coverage"
    )
    assert "warning" not in fit.summary(fitted)


def test_a_wanted_error_that_cannot_be_shown_is_said(fitted):
    levels = tuple(
        ErrorLevel(max_error=error, min_probability=probability, answered=answered)
        for error, probability, answered in ((0.001, None, 0), (0.05, 0.9, 0.5), (0.1, 0.4, 0.9), (0.2, 0.2, 1))
    )
    result = with_calibration(fitted, max_error=0.001, error_levels=levels)
    assert fit.summary_lines(result)[1] == (
        "warning: the model abstains for every image: no probability is shown to be wrong at most 0.1% of the time; for most"
        " images, 10% is the lowest error that can be shown"
    )


def test_what_abstaining_brings_is_said(fitted):
    [line] = [line for line in fit.summary_lines(fitted) if "abstains" in line]
    selective = fitted.evaluation.selective
    assert f"{selective.answered.value:.1%} of the images are answered" in line
    assert f"(target: at most {100 * selective.max_error:g}%)" in line


def test_damaged_record_of_a_finished_run_is_named(fitted, tmp_path: Path):
    run = Path(shutil.copytree(fitted.run, tmp_path / "run"))
    (run / "evaluation.json").write_text("{")
    with pytest.raises(RunError, match=r"evaluation\.json or .*strategies\.json is damaged\. Start a new run\."):
        fit.load_result(run)


def test_group_by_keeps_groups_together_from_the_folder_to_the_run(cache, make_folder, tmp_path):
    recipe = Recipe(strategy="probe", input_size=64, group_by=r"(\w/\d\d)\d\.png", thumbnails=False)
    run = fit.fit(make_folder({"a": 60, "b": 60}), tmp_path / "run", recipe).run
    splits: dict[str, set[str]] = {}
    for row in rows(run):
        splits.setdefault(row["path"].removesuffix(".png")[:-1], set()).add(row["split"])
    assert len(splits) == 12
    assert {len(names) for names in splits.values()} == {1}
    assert set.union(*splits.values()) == {"train", "validation", "test"}


def test_test_part_that_differs_from_validation_is_said_first(fitted):
    gap = SplitGap(
        validation=Estimate(value=0.985, low=0.96, high=0.995),
        test=Estimate(value=0.743, low=0.7, high=0.78),
        difference=Estimate(value=0.242, low=0.18, high=0.3),
    )
    shifted = dataclasses.replace(fitted, evaluation=fitted.evaluation.model_copy(update={"split_gap": gap}))
    first, second, *_ = fit.summary_lines(shifted)
    assert first.startswith("warning: test is 24.2 points below validation (validation 98.5%, test 74.3%), more than chance")
    assert second.startswith("test: accuracy")


def test_run_records_whether_test_differs_from_validation(fitted):
    recorded = json.loads((fitted.run / "evaluation.json").read_text(encoding="utf-8"))["split_gap"]
    assert recorded["test"]["value"] == fitted.evaluation.primary_metric.value
    assert recorded["validation"]["value"] == fitted.artifact.manifest.scores["validation"].accuracy

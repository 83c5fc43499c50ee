"""What a network or a package is worth on labelled images."""

from pathlib import Path

import pytest

from graft.training.data.dataset import DatasetError
from graft.training.inference import held_out
from graft.training.pipelines import evaluate
from graft.training.sample import SAMPLE


def test_evaluating_the_sample_repeats_the_manifests_score(fitted, model):
    assert (
        evaluate.package(model, *held_out.held_out(model, SAMPLE)).metrics["accuracy"].value
        == fitted.artifact.manifest.scores["test"].accuracy
    )


def test_evaluating_a_folder_of_one_part_takes_all_of_it(model, clothes, tmp_path: Path):
    for label, encoded in clothes[:3]:
        (tmp_path / "mine" / label).mkdir(parents=True)
        (tmp_path / "mine" / label / "1.png").write_bytes(encoded)
    assert evaluate.package(model, *held_out.held_out(model, tmp_path / "mine")).n == 3


def test_evaluating_matches_labels_by_name_not_by_order(model, clothes, tmp_path: Path):
    right = [(label, encoded) for label, encoded in clothes if model.classify(encoded, 1).ranked[0].label == label][-3:]
    for label, encoded in right:
        (tmp_path / "mine" / label).mkdir(parents=True)
        (tmp_path / "mine" / label / "1.png").write_bytes(encoded)
    assert evaluate.package(model, *held_out.held_out(model, tmp_path / "mine")).headline.value == 1


def test_evaluating_a_label_that_the_package_does_not_know_is_refused(model, make_folder):
    with pytest.raises(DatasetError, match=r"knows no 'cat'; it knows ankle boot, bag"):
        evaluate.package(model, *held_out.held_out(model, make_folder({"cat": 1, "bag": 1})))


def test_the_runs_own_evaluation_is_told_again_by_its_package(fitted, model):
    again, first = evaluate.package(model, *held_out.held_out(model, SAMPLE)), fitted.evaluation
    assert again.confusion == first.confusion
    assert again.metrics["log_loss"].value == pytest.approx(first.metrics["log_loss"].value, abs=1e-4)


def test_a_run_says_what_more_images_would_bring(fitted):
    curve = fitted.evaluation.curve
    assert curve is not None
    assert curve.n_images[-1] == 850
    assert curve.accuracy[0].value < curve.accuracy[-1].value


def test_ten_looks_are_taken_only_where_asked(model, clothes, tmp_path: Path):
    for label, encoded in clothes:
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.png").write_bytes(encoded)
    assert evaluate.package(model, *held_out.held_out(model, tmp_path)).ten_crop is None
    gain = evaluate.package(model, *held_out.held_out(model, tmp_path), many_looks=True).ten_crop
    assert gain is not None
    assert -1 <= gain.low <= gain.value <= gain.high <= 1


def test_several_labels_an_image_are_refused_by_a_package_that_gives_one(model, clothes, tmp_path: Path):
    (tmp_path / "1.png").write_bytes(clothes[0][1])
    (tmp_path / "labels.csv").write_text("path,label\n1.png,bag|coat\n")
    with pytest.raises(DatasetError, match="exactly one"):
        evaluate.package(model, *held_out.held_out(model, tmp_path / "labels.csv"))


def test_the_table_names_every_metric(fitted):
    said = evaluate.text(fitted.evaluation)
    assert said.startswith("500 images")
    assert "Brier score" in said
    assert "prediction sets hold the right label for" in said

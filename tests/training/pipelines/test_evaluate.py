"""Evaluation of a run and of a package on labeled images."""

from pathlib import Path

import pytest

from graft.training.data.dataset import DatasetError
from graft.training.inference import held_out
from graft.training.pipelines import evaluate
from graft.training.sample import SAMPLE


def test_evaluating_the_sample_reproduces_the_manifest_score(fitted, model):
    assert (
        evaluate.evaluate_package(model, *held_out.load_test_split(model, SAMPLE)).metrics["accuracy"].value
        == fitted.artifact.manifest.scores["test"].accuracy
    )


def test_folder_without_splits_is_evaluated_in_full(model, clothes, tmp_path: Path):
    for label, encoded in clothes[:3]:
        (tmp_path / "mine" / label).mkdir(parents=True)
        (tmp_path / "mine" / label / "1.png").write_bytes(encoded)
    assert evaluate.evaluate_package(model, *held_out.load_test_split(model, tmp_path / "mine")).n == 3


def test_labels_are_matched_by_name(model, clothes, tmp_path: Path):
    right = [(label, encoded) for label, encoded in clothes if model.classify(encoded, 1).ranked[0].label == label][-3:]
    for label, encoded in right:
        (tmp_path / "mine" / label).mkdir(parents=True)
        (tmp_path / "mine" / label / "1.png").write_bytes(encoded)
    assert evaluate.evaluate_package(model, *held_out.load_test_split(model, tmp_path / "mine")).primary_metric.value == 1


def test_unknown_label_is_rejected(model, make_folder):
    with pytest.raises(DatasetError, match=r"has no label 'cat'\. Its labels are ankle boot, bag"):
        evaluate.evaluate_package(model, *held_out.load_test_split(model, make_folder({"cat": 1, "bag": 1})))


def test_package_reproduces_the_evaluation_of_its_run(fitted, model):
    package_evaluation, run_evaluation = (
        evaluate.evaluate_package(model, *held_out.load_test_split(model, SAMPLE)),
        fitted.evaluation,
    )
    assert package_evaluation.confusion == run_evaluation.confusion
    assert package_evaluation.metrics["log_loss"].value == pytest.approx(run_evaluation.metrics["log_loss"].value, abs=1e-4)


def test_run_has_a_learning_curve(fitted):
    curve = fitted.evaluation.curve
    assert curve is not None
    assert curve.n_images[-1] == 850
    assert curve.accuracy[0].value < curve.accuracy[-1].value


def test_ten_crop_is_optional(model, clothes, tmp_path: Path):
    for label, encoded in clothes:
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.png").write_bytes(encoded)
    assert evaluate.evaluate_package(model, *held_out.load_test_split(model, tmp_path)).ten_crop is None
    gain = evaluate.evaluate_package(model, *held_out.load_test_split(model, tmp_path), with_ten_crop=True).ten_crop
    assert gain is not None
    assert -1 <= gain.low <= gain.value <= gain.high <= 1


def test_multilabel_data_is_rejected_by_a_multiclass_package(model, clothes, tmp_path: Path):
    (tmp_path / "1.png").write_bytes(clothes[0][1])
    (tmp_path / "labels.csv").write_text("path,label\n1.png,bag|coat\n")
    with pytest.raises(DatasetError, match="exactly one"):
        evaluate.evaluate_package(model, *held_out.load_test_split(model, tmp_path / "labels.csv"))


def test_notes_give_the_coverage_of_the_prediction_sets(fitted):
    [note] = evaluate.notes(fitted.evaluation)
    assert note.startswith("prediction sets cover ")
    assert note.endswith("% (target 90%)")

"""Evaluation of a run and of a package on labeled images."""

import io
import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from resealed_packages import reseal

from graft.service.artifact import ArtifactError
from graft.training.data.dataset import DatasetError, scan
from graft.training.inference import held_out
from graft.training.pipelines import evaluate, evaluation_text
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
    note = evaluation_text.notes(fitted.evaluation)[0]
    assert note.startswith("prediction sets cover ")
    assert "% (target 90%)" in note


@pytest.fixture
def unsplit(fitted, tmp_path: Path) -> Path:
    """The sample's images without its splits, and its run's splits forgotten: three of each label and split."""
    dataset, counts = scan(SAMPLE), Counter()
    for sample in dataset.samples:
        label = dataset.labels[sample.label]
        counts[sample.split, label] += 1
        if counts[sample.split, label] <= 3:
            (tmp_path / "photos" / label).mkdir(parents=True, exist_ok=True)
            (tmp_path / "photos" / label / sample.path.replace("/", "-")).write_bytes(dataset.read(sample))
    return tmp_path / "photos"


def test_images_that_the_model_has_seen_are_left_out(fitted, unsplit):
    result = evaluate.evaluate(fitted.artifact.path, unsplit)
    assert (result.evaluation.n, result.n_seen, result.includes_seen) == (30, 30, False)
    assert all("/test-" in path for path in result.predictions.paths)
    assert result.notes[0].startswith("30 of 60 images are left out: the model has learned from them")
    assert result.to_dict()["n_seen"] == 30


def test_copies_of_seen_images_are_left_out(fitted, unsplit):
    for path in unsplit.rglob("train-*"):
        buffer = io.BytesIO()
        Image.open(path).convert("L").save(buffer, "PNG", compress_level=1)
        assert buffer.getvalue() != path.read_bytes()
        path.write_bytes(buffer.getvalue())
    assert evaluate.evaluate(fitted.artifact.path, unsplit).n_seen >= 28


def test_seen_images_are_evaluated_on_request_with_a_warning(fitted, unsplit):
    result = evaluate.evaluate(fitted.artifact.path, unsplit, include_training=True)
    assert (result.evaluation.n, result.n_seen, result.includes_seen) == (60, 30, True)
    assert result.notes[0].startswith("WARNING: the model has learned from 30 of 60 images")


def test_evaluation_on_seen_images_only_is_refused(fitted, unsplit):
    for path in unsplit.rglob("test-*"):
        path.unlink()
    with pytest.raises(DatasetError, match="has learned from all 30 images"):
        evaluate.evaluate(fitted.artifact.path, unsplit)


def test_evaluation_on_the_data_of_the_run_gives_the_score_of_the_run(fitted):
    result = evaluate.evaluate(fitted.artifact.path, SAMPLE)
    assert (result.n_seen, result.notes[0][:15]) == (0, "prediction sets")
    assert result.evaluation.primary_metric.value == fitted.artifact.manifest.scores["test"].accuracy


def test_damaged_list_of_seen_images_is_named(fitted, unsplit, tmp_path):
    package = Path(shutil.copytree(fitted.artifact.path, tmp_path / "package"))
    (package / "seen_images.npz").write_bytes(b"no archive")
    reseal(package)
    with pytest.raises(ArtifactError, match=r"seen_images\.npz is not an \.npz file"):
        evaluate.evaluate(package, unsplit)

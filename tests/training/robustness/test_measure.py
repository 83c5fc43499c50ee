"""Robustness measurement: clean images reproduce the evaluation, and every result counts the right images."""

from dataclasses import replace

import numpy as np
import pytest

from graft.service.inference.engine import Outputs
from graft.training.config.corruptions import CORRUPTIONS
from graft.training.inference import held_out
from graft.training.pipelines import evaluate
from graft.training.robustness import measure as robustness
from graft.training.robustness.measure import Robustness, corrupt, measure, random_subset
from graft.training.robustness.recommendations import describe_sample
from graft.training.sample import SAMPLE


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory):
    """Twelve test images of the sample data set, as class folders."""
    from graft.training.data.dataset import scan

    dataset, folder = scan(SAMPLE), tmp_path_factory.mktemp("images")
    for sample in [sample for sample in dataset.samples if sample.split == "test"][::42]:
        path = folder / dataset.labels[sample.label] / sample.path.replace("/", "-")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(dataset.read(sample))
    return folder


@pytest.fixture(scope="module")
def found(model, data_folder) -> Robustness:
    return measure(model, *held_out.load_test_split(model, data_folder))


def test_clean_images_reproduce_the_evaluation(model, data_folder, found: Robustness):
    accuracy = evaluate.evaluate_package(model, *held_out.load_test_split(model, data_folder)).metrics["accuracy"]
    assert (found.n, found.n_available) == (12, 12)
    assert found.clean_accuracy == accuracy
    for name, curve in found.curves.items():
        [unchanged] = (one for one in curve if one.severity == CORRUPTIONS[name].identity)
        assert (unchanged.accuracy, unchanged.flip_rate.value) == (accuracy, 0)


def test_every_corruption_is_measured_at_every_severity(found: Robustness):
    assert tuple(found.curves) == tuple(CORRUPTIONS)
    for name, curve in found.curves.items():
        assert tuple(one.severity for one in curve) == CORRUPTIONS[name].all_severities
        assert tuple(one.severity for one in found.examples[name]) == CORRUPTIONS[name].all_severities
        assert {one.n for one in curve} == {12}


def test_attacks_flip_more_predictions_than_noise_of_the_same_size(found: Robustness):
    attacked = {one.severity: one.flip_rate.value for one in found.curves["fgsm"]}
    noisy = {one.severity: one.flip_rate.value for one in found.curves["noise"]}
    assert attacked[8] > noisy[8]


def test_example_shows_an_image_that_becomes_wrong(found: Robustness):
    first, *_ = found.examples["fgsm"]
    last = found.examples["fgsm"][-1]
    assert first.path == last.path
    assert first.prediction != last.prediction
    assert 0 < np.abs(first.pixels.astype(int) - last.pixels).max() <= 8


def test_subset_is_random_and_reproducible():
    numbers = tuple(range(100))
    assert len(random_subset(numbers, 10, seed=0)) == 10
    assert random_subset(numbers, 10, seed=0) == random_subset(numbers, 10, seed=0) != random_subset(numbers, 10, seed=1)
    assert sorted(random_subset(numbers, 200, seed=0)) == list(numbers)
    assert random_subset(numbers, 10, seed=0)[:5] == random_subset(numbers, 5, seed=0)


def test_image_is_corrupted_in_the_same_direction_at_every_severity():
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[50, 50] = 255
    near, far = (np.argwhere(corrupt(pixels, ("translation", share), 3)[:, :, 0])[0] - 50 for share in (0.1, 0.2))
    assert (far == 2 * near).all()


def test_number_of_attacked_images_is_limited(model, data_folder, monkeypatch):
    monkeypatch.setattr(robustness, "MAX_ATTACKED", {"fgsm": 5, "pgd": 3})
    monkeypatch.setattr(robustness, "COMMON_CORRUPTIONS", ())
    monkeypatch.setattr(robustness, "CORRUPTIONS", {name: CORRUPTIONS[name] for name in ("fgsm", "pgd")})
    curves = measure(model, *held_out.load_test_split(model, data_folder), max_images=10).curves
    assert ({one.n for one in curves["fgsm"]}, {one.n for one in curves["pgd"]}) == ({5}, {3})


def test_multilabel_predictions_are_compared_label_by_label(model):
    class MultilabelModel:
        manifest = model.manifest.model_copy(
            update={
                "multilabel": True,
                "labels": ("a", "b"),
                "temperature": 1.0,
                "calibration": model.manifest.calibration.model_copy(update={"thresholds": (0.5, 0.5)}),
            }
        )

    logits = Outputs(np.array([[1.0, -1.0], [1.0, 1.0]], np.float32), np.zeros((2, 1), np.float32)).logits
    assert robustness._predicted_labels(MultilabelModel(), logits).tolist() == [[True, False], [True, True]]


def test_intervals_count_groups(model, data_folder, found: Robustness):
    dataset, samples = held_out.load_test_split(model, data_folder)
    joined = tuple(replace(sample, group=b"%d" % (number // 6)) for number, sample in enumerate(samples))
    grouped = measure(model, dataset, joined)
    assert (found.n_groups, grouped.n_groups) == (12, 2)
    assert grouped.clean_accuracy.value == found.clean_accuracy.value
    assert grouped.clean_accuracy.low < found.clean_accuracy.low
    assert describe_sample(grouped) == describe_sample(found).replace("all 12 images", "all 12 images in 2 groups")

"""Sentences about the numbers of a report."""

import shutil

import pytest
from int8_packages import add_int8
from made_up_runs import fake_evaluation, fake_predictions, fake_report, fake_selective

from graft.service.artifact import read
from graft.training.results import Estimate, Evaluation
from graft.training.visualization.formatting import calibration_text, conformal_text, int8_text, selective_text, split_path


def evaluation(before: Estimate, after: Estimate, gain: Estimate | None = None) -> Evaluation:
    made_up = fake_evaluation(("a", "b"), fake_predictions(20, 2, False), False)
    errors = {"ece_before": before, "ece_after": after}
    return made_up.model_copy(update={"metrics": {**made_up.metrics, **errors}, "temperature_gain": gain})


LOW, HIGH = Estimate(value=0.02, low=0.01, high=0.03), Estimate(value=0.08, low=0.06, high=0.1)


def test_calibration_that_got_better_is_called_better():
    text = calibration_text(evaluation(HIGH, LOW, Estimate(value=0.2, low=0.1, high=0.3)))
    assert text.startswith(
        "Temperature scaling improves the calibration: the expected calibration error (ECE) on the test set is 2.0%"
    )
    assert "chance" not in text


def test_calibration_that_got_worse_is_called_worse():
    text = calibration_text(evaluation(LOW, HIGH, Estimate(value=-0.2, low=-0.3, high=-0.1)))
    assert text.startswith("Temperature scaling makes the calibration worse")
    assert "chance" not in text


def test_difference_without_a_paired_one_may_be_chance():
    gain = Estimate(value=-0.2, low=-0.5, high=0.1)
    assert "The difference may be chance" in calibration_text(evaluation(LOW, HIGH, gain))


def test_equal_calibration_is_neither_better_nor_worse():
    assert calibration_text(evaluation(before=LOW, after=LOW)).startswith(
        "Temperature scaling leaves the calibration as it was"
    )


def test_end_of_a_path_is_kept():
    assert split_path("train/rose/image_0001.jpg") == ("train/rose/", "image_0001.jpg")
    assert split_path("a.jpg") == ("", "a.jpg")


def test_abstaining_is_told_with_its_target_and_what_it_brings():
    text = selective_text(fake_selective())
    assert "at most 10% of the answers should be wrong" in text
    assert "it answers 83.0% (80.0% to 86.0%); 7.0% (4.0% to 10.0%) of these answers are wrong" in text
    assert "61.0% (51.0% to 71.0%) of all errors are among the rest" in text


def test_a_model_that_only_abstains_for_outliers_promises_no_error():
    text = selective_text(fake_selective().model_copy(update={"max_error": None, "caught": None}))
    assert text.startswith("The model abstains only for outliers. On the test set, it answers 83.0%")
    assert "should be wrong" not in text
    assert "all errors" not in text


def test_a_model_that_always_abstains_is_called_that():
    assert "it abstains for every image" in selective_text(fake_selective().model_copy(update={"error": None}))


def test_label_that_is_covered_least_and_averages_are_named():
    evaluation = fake_report(("bag", "coat", "dress")).evaluation
    text = conformal_text(evaluation.conformal, evaluation.labels)
    assert "The label that is covered least, “bag”: 88.0% (84.0% to 92.0%)." in text
    assert "For 2 labels with few images the target holds on average over these labels only." in text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (-0.001, "accuracy there differs by -0.1 points, its log-loss by +0.004. It is served where it is faster."),
        (-0.03, "accuracy there differs by -3.0 points, its log-loss by +0.004. It is served only with GRAFT_PRECISION=int8."),
    ],
)
def test_it_is_said_when_an_int8_model_is_served(fitted, tmp_path, change, text):
    assert int8_text(fitted.artifact.manifest) == ""
    measured = {"agreement": 0.978, "accuracy_change": change, "log_loss_change": 0.004}
    package = shutil.copytree(fitted.package, tmp_path / "package")
    found = int8_text(read(add_int8(package, lambda fields: fields["fidelity"].update(measured))).manifest)
    assert found.startswith("The int8 model gives the label of the f32 model for 97.8% of ")
    assert found.endswith(text)

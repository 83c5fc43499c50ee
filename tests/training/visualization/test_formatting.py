"""Sentences about the numbers of a report."""

from made_up_runs import fake_evaluation, fake_predictions

from graft.training.results import Estimate, Evaluation
from graft.training.visualization.formatting import calibration_text, split_path


def evaluation(before: Estimate, after: Estimate) -> Evaluation:
    made_up = fake_evaluation(("a", "b"), fake_predictions(20, 2, False), False)
    return made_up.model_copy(update={"metrics": {**made_up.metrics, "ece_before": before, "ece_after": after}})


LOW, HIGH = Estimate(value=0.02, low=0.01, high=0.03), Estimate(value=0.08, low=0.06, high=0.1)


def test_calibration_that_got_better_is_called_better():
    text = calibration_text(evaluation(before=HIGH, after=LOW))
    assert text.startswith(
        "Temperature scaling improves the calibration: the expected calibration error (ECE) on the test set is 2.0%"
    )
    assert "chance" not in text


def test_calibration_that_got_worse_is_called_worse():
    assert calibration_text(evaluation(before=LOW, after=HIGH)).startswith("Temperature scaling makes the calibration worse")


def test_difference_within_the_intervals_may_be_chance():
    wide = Estimate(value=0.03, low=0.0, high=0.07)
    assert "The intervals overlap, so the difference may be chance." in calibration_text(evaluation(before=LOW, after=wide))


def test_equal_calibration_is_neither_better_nor_worse():
    assert calibration_text(evaluation(before=LOW, after=LOW)).startswith(
        "Temperature scaling leaves the calibration as it was"
    )


def test_end_of_a_path_is_kept():
    assert split_path("train/rose/image_0001.jpg") == ("train/rose/", "image_0001.jpg")
    assert split_path("a.jpg") == ("", "a.jpg")

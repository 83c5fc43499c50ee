"""When a rung is really better, when climbing cannot pay, and what kind of data this is."""

import numpy as np
import pytest

from graft.training.strategies.model_selection import (
    Comparison,
    Difference,
    compare,
    epochs_that_fit,
    nothing_to_gain,
    quadrant,
)

NOTHING = Difference(0.0, -0.1, 0.1)


@pytest.mark.parametrize(
    ("accuracy", "log_loss", "better"),
    [
        (Difference(0.05, 0.01, 0.09), Difference(-0.1, -0.2, 0.0), True),
        (Difference(0.05, -0.01, 0.11), NOTHING, False),
        (Difference(0.0, -0.02, 0.02), Difference(0.1, 0.05, 0.15), True),
        (Difference(-0.01, -0.03, 0.01), Difference(0.1, 0.05, 0.15), False),
        (Difference(-0.05, -0.09, -0.01), NOTHING, False),
    ],
    ids=["more right answers", "perhaps chance", "surer of the same answers", "surer at the cost of answers", "worse"],
)
def test_only_what_chance_does_not_explain_is_better(accuracy: Difference, log_loss: Difference, better: bool):
    assert Comparison(accuracy, log_loss).better is better


def test_a_gain_is_told_with_its_interval():
    verdict = Comparison(Difference(0.108, 0.083, 0.134), NOTHING).sentence("finetune", "probe")
    assert verdict == "finetune is really better than probe: +10.8 points of accuracy (+8.3 to +13.4); kept"


def test_a_gain_that_may_be_chance_keeps_the_cheaper_one():
    verdict = Comparison(Difference(0.02, -0.01, 0.05), NOTHING).sentence("finetune", "probe")
    assert verdict.endswith("+2.0 points of accuracy (-1.0 to +5.0); probe is kept, it is cheaper")


def test_better_probabilities_are_told_as_such():
    verdict = Comparison(Difference(0.0, -0.02, 0.02), Difference(0.1, 0.05, 0.15)).sentence("stages", "probe")
    assert verdict.startswith("stages knows better how sure to be than probe: log-loss lower by 0.100 (0.050 to 0.150)")


def test_three_mistakes_leave_nothing_that_could_be_shown():
    assert nothing_to_gain(3, 40).startswith("3 mistakes in 40 validation images")


def test_no_mistake_leaves_nothing_to_gain():
    assert nothing_to_gain(0, 40).startswith("no mistake in 40")


def test_four_mistakes_are_worth_a_climb():
    assert nothing_to_gain(4, 40) == ""


def test_the_last_stage_winning_means_similar():
    found = quadrant(200, 2, {"stage3": 0.5, "stage4": 0.3, "last": 0.2, "all": 0.19})
    assert (found.large, found.different) == (False, False)
    assert found.sentence.startswith("the data are small (200 images, 100 a label) and similar to ImageNet")


def test_an_earlier_stage_winning_means_different():
    found = quadrant(60_000, 10, {"stage3": 0.2, "last": 0.3})
    assert (found.large, found.different) == (True, True)
    assert "a probe on stage3 beats one on the last stage, log-loss 0.200 against 0.300" in found.sentence


def test_all_stages_winning_by_far_means_different():
    assert quadrant(200, 2, {"stage1": 0.9, "last": 0.5, "all": 0.3}).different


def test_a_network_without_stages_counts_as_similar():
    assert quadrant(200, 2, {"last": 0.5}).different is False


def test_the_epochs_that_fit_leave_time_to_look_at_validation():
    assert epochs_that_fit(100, 900, 300, 100) == 10


def test_no_epoch_fits_into_no_time():
    assert epochs_that_fit(-5, 900, 300, 100) == 0


def logits(*rows: tuple[float, float]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_answers_are_compared_image_by_image():
    labels = np.zeros(100, np.int64)
    challenger, rival = logits(*[(2, 0)] * 100), logits(*[(2, 0)] * 80, *[(0, 2)] * 20)
    found = compare(challenger, 1.0, rival, 1.0, labels)
    assert found.accuracy.value == pytest.approx(0.2)
    assert found.accuracy.low > 0.1
    assert found.better


def test_a_network_is_not_better_than_itself():
    answers = logits(*[(2, 0)] * 80, *[(0, 2)] * 20)
    found = compare(answers, 1.0, answers, 1.0, np.zeros(100, np.int64))
    assert found.accuracy == found.log_loss == Difference(0, 0, 0)
    assert not found.better


def test_the_temperatures_count():
    answers = logits(*[(2, 0)] * 80, *[(0, 2)] * 20)
    found = compare(answers, 1.5, answers, 0.2, np.zeros(100, np.int64))
    assert found.accuracy.value == 0
    assert found.log_loss.low > 0

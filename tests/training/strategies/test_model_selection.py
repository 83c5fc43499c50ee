"""Significance of a difference, early exit, and the transfer-learning regime of a dataset."""

import dataclasses

import numpy as np
import pytest

from graft.training.strategies.model_selection import (
    MIN_PROBABILITY_TO_REPLACE,
    Comparison,
    Difference,
    compare,
    early_exit_reason,
    max_epochs,
    transfer_regime,
)


def comparison(candidate: float, baseline: float, standard_error: float, n_images: int = 400) -> Comparison:
    return Comparison(Difference(0.02, -0.01, 0.05), (candidate, baseline), standard_error, n_images)


@pytest.mark.parametrize(
    ("losses", "standard_error", "better"),
    [
        ((0.40, 0.50), 0.01, True),
        ((0.40, 0.50), 0.10, True),  # not significant, and yet probably better
        ((0.49, 0.50), 0.10, False),  # a small gain, measured on too few images
        ((0.49, 0.50), 0.01, True),
        ((0.50, 0.50), 0.01, False),
        ((0.55, 0.50), 0.01, False),
        ((0.0, 0.0), 0.0, False),
    ],
)
def test_model_with_the_lower_expected_log_loss_is_better(losses: tuple[float, float], standard_error: float, better: bool):
    assert comparison(*losses, standard_error).is_better is better


def test_a_model_in_use_stays_until_another_is_shown_to_be_better():
    probable = dataclasses.replace(comparison(0.4, 0.5, 0.10), min_probability=MIN_PROBABILITY_TO_REPLACE)
    assert not probable.is_better
    assert probable.to_text("probe", "previous").startswith(
        "previous is kept rather than probe: log-loss 0.500 and 0.400 on 400 held-out images, that of probe is lower on new"
        f" images with a probability of {probable.probability:.0%}, and 95% is asked of it; probe has"
    )
    assert 0.5 < probable.probability < 0.95
    assert dataclasses.replace(comparison(0.4, 0.5, 0.01), min_probability=MIN_PROBABILITY_TO_REPLACE).is_better


def test_a_gain_is_shrunk_toward_the_prior():
    """Precision-weighted mean of the measured gain, 20 % give or take 30 %, and of the prior, -5 % give or take 30 %."""
    found = comparison(0.4, 0.5, 0.15, n_images=10**6)
    assert found._posterior == pytest.approx((0.075, 0.3 / 2**0.5))
    assert found.probability == pytest.approx(0.638, abs=0.001)


def test_verdict_has_the_numbers_of_the_model_that_is_kept():
    assert comparison(0.4, 0.5, 0.02).to_text("kernel", "probe") == (
        "kernel is kept rather than probe: log-loss 0.400 and 0.500 on 400 held-out images, lower on new images with a"
        " probability of over 99%; kernel has +2.0 points of accuracy (-1.0 to +5.0)"
    )
    assert (
        comparison(0.5, 0.48, 0.02)
        .to_text("stages", "kernel")
        .startswith(
            "kernel is kept rather than stages: log-loss 0.480 and 0.500 on 400 held-out images, lower on new images with a"
            " probability of 84%; stages has"
        )
    )


@pytest.mark.parametrize(("n_errors", "n_images"), [(0, 18), (0, 380), (1, 562), (3, 40), (4, 40), (20, 2000)])
def test_selection_goes_on_while_there_may_be_a_point_to_gain(n_errors, n_images):
    assert early_exit_reason(n_errors, n_images) == ""


@pytest.mark.parametrize(
    ("n_errors", "n_images", "reason"),
    [
        (0, 381, "no error in 381 held-out images: the error is at most 1.00%, so there is little left to gain"),
        (1, 600, "1 error in 600 held-out images: the error is at most 0.94%, so there is little left to gain"),
        (5, 2000, "5 errors in 2,000 held-out images: the error is at most 0.58%, so there is little left to gain"),
    ],
)
def test_selection_ends_if_even_a_perfect_model_would_gain_little(n_errors, n_images, reason):
    assert early_exit_reason(n_errors, n_images) == reason


def test_last_stage_with_the_lowest_loss_means_similar():
    regime = transfer_regime(200, 2, {"stage3": 0.5, "stage4": 0.3, "last": 0.2, "all": 0.19})
    assert (regime.large, regime.different) == (False, False)
    assert regime.description.startswith("the dataset is small (200 images, 100 per label) and similar to ImageNet")


def test_earlier_stage_with_the_lowest_loss_means_different():
    regime = transfer_regime(60_000, 10, {"stage3": 0.2, "last": 0.3})
    assert (regime.large, regime.different) == (True, True)
    assert "log-loss of a probe on stage3 is 0.200, on the last stage 0.300" in regime.description


def test_all_stages_with_a_much_lower_loss_mean_different():
    assert transfer_regime(200, 2, {"stage1": 0.9, "last": 0.5, "all": 0.3}).different


@pytest.mark.parametrize(("loss_of_all", "different"), [(0.39, True), (0.4, False), (0.41, False)])
def test_all_stages_must_win_by_a_fifth(loss_of_all: float, different: bool):
    regime = transfer_regime(200, 2, {"stage1": 0.9, "last": 0.5, "all": loss_of_all})
    assert regime.different is different
    evidence = "all stages is 0.390, on the last stage 0.500" if different else "the last stage has the lowest log-loss, 0.500"
    assert regime.description.endswith(f" a probe on {evidence}") or regime.description.endswith(f": a probe on {evidence}")
    assert ("different from ImageNet" in regime.description) == different


@pytest.mark.parametrize(("n_images", "large"), [(999, False), (1000, True)])
def test_large_data_have_500_images_per_label(n_images: int, large: bool):
    regime = transfer_regime(n_images, 2, {"last": 0.5})
    assert regime.large is large
    assert regime.description.startswith(f"the dataset is {'large' if large else 'small'} ({n_images:,} images, 500 per label)")


def test_a_network_without_stages_counts_as_similar():
    assert transfer_regime(200, 2, {"last": 0.5}).different is False


def test_epochs_that_fit_include_the_time_for_validation():
    assert max_epochs(100, 900, 300, 100) == 10


def test_epochs_are_whole():
    assert [max_epochs(seconds, 900, 300, 100) for seconds in (9.9, 19.9, 20)] == [0, 1, 2]


def test_no_epoch_fits_without_time():
    assert max_epochs(-5, 900, 300, 100) == 0


def test_time_after_the_last_epoch_is_left():
    assert [max_epochs(100, 900, 300, 100, epochs_after) for epochs_after in (0.1, 2.5, 11)] == [9, 7, 0]


def logits(*rows: tuple[float, float]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_comparison_is_paired_by_image():
    labels = np.zeros(100, np.int64)
    candidate, baseline = logits(*[(2, 0)] * 100), logits(*[(2, 0)] * 80, *[(0, 2)] * 20)
    found = compare(candidate, 1.0, baseline, 1.0, labels)
    assert found.accuracy.value == pytest.approx(0.2)
    assert found.accuracy.low > 0.1
    # 80 images with the same loss, 20 with a loss lower by 2.
    assert found.losses[1] - found.losses[0] == pytest.approx(0.4)
    assert found.standard_error == pytest.approx(0.8 / 99**0.5)
    assert found.is_better


def test_comparison_names_its_accuracy():
    predictions, labels = logits((2, 0), (0, 1)), np.array([0, 1])
    assert compare(predictions, 1.0, predictions, 1.0, labels).accuracy_name == "accuracy"
    assert compare(predictions, 1.0, predictions, 1.0, np.eye(2, dtype=bool)).accuracy_name == "mean average precision"


@pytest.mark.parametrize("metric", ["accuracy", "balanced-accuracy", "f1-macro"])
def test_verdict_names_the_metric(metric: str):
    labels = np.array([0] * 95 + [1] * 5)
    better, worse = logits(*[(2, 0)] * 95, *[(0, 2)] * 5), logits(*[(2, 0)] * 100)
    scores = {
        "accuracy": "accuracy 100.0% and 95.0%",
        "balanced-accuracy": "balanced accuracy 100.0% and 50.0%",
        "f1-macro": "macro F1 100.0% and 48.7%",
    }
    for candidate, baseline in ((better, worse), (worse, better)):
        found = compare(candidate, 1.0, baseline, 1.0, labels, metric=metric)
        assert found.is_better is (candidate is better)
        kept, other = ("kernel", "probe") if found.is_better else ("probe", "kernel")
        start = f"{kept} is kept rather than {other}: {scores[metric]} on 100 held-out images, higher on new images with a prob"
        assert found.to_text("kernel", "probe").startswith(start)


@pytest.mark.parametrize("metric", ["accuracy", "balanced-accuracy", "f1-macro"])
@pytest.mark.parametrize("n_wrong", [0, 3])
def test_candidate_that_predicts_the_same_labels_is_not_better(metric: str, n_wrong: int):
    labels = np.array([0] * 15 + [1] * 5)
    predictions = logits(*[(2, 0)] * (15 + n_wrong), *[(0, 2)] * (5 - n_wrong))
    assert not compare(2 * predictions, 1.0, predictions, 1.0, labels, metric=metric).is_better


def test_a_rare_label_decides_by_balanced_accuracy_and_not_by_accuracy():
    labels = np.array([0] * 180 + [1] * 20)
    careful, bold = logits(*[(2, 0)] * 200), logits(*[(2, 0)] * 155, *[(0, 2)] * 45)  # all of the rare label, and 25 others
    assert compare(bold, 1.0, careful, 1.0, labels, metric="balanced-accuracy").is_better
    assert compare(bold, 1.0, careful, 1.0, labels, metric="f1-macro").is_better
    assert not compare(bold, 1.0, careful, 1.0, labels, metric="accuracy").is_better


def test_comparison_counts_groups():
    labels = np.zeros(100, np.int64)
    candidate, baseline = logits(*[(2, 0)] * 100), logits(*[(2, 0)] * 80, *[(0, 2)] * 20)
    alone, grouped = (compare(candidate, 1.0, baseline, 1.0, labels, groups) for groups in (None, np.arange(100) // 10))
    assert alone.accuracy.value == pytest.approx(grouped.accuracy.value)
    assert grouped.accuracy.high - grouped.accuracy.low > 2 * (alone.accuracy.high - alone.accuracy.low)
    assert grouped.standard_error > 2 * alone.standard_error
    assert grouped.probability < alone.probability


def test_model_is_not_better_than_itself():
    predictions = logits(*[(2, 0)] * 80, *[(0, 2)] * 20)
    found = compare(predictions, 1.0, predictions, 1.0, np.zeros(100, np.int64))
    assert found.accuracy == Difference(0, 0, 0)
    assert found.standard_error == 0
    assert not found.is_better


def test_log_loss_depends_on_the_temperatures():
    predictions = logits(*[(2, 0)] * 80, *[(0, 2)] * 20)
    found = compare(predictions, 1.5, predictions, 0.2, np.zeros(100, np.int64))
    assert found.accuracy.value == 0
    assert found.is_better


def test_selection_goes_on_if_a_few_groups_are_all_right():
    assert early_exit_reason(0, 600, 600)
    assert not early_exit_reason(0, 600, 60)


def test_a_lower_log_loss_on_a_few_images_is_not_certain():
    targets = np.zeros(5, np.int64)
    sure, unsure = np.tile([4.0, 0.0], (5, 1)).astype(np.float32), np.tile([2.0, 0.0], (5, 1)).astype(np.float32)
    few = compare(sure, 1.0, unsure, 1.0, targets).probability
    many = compare(np.tile(sure, (20, 1)), 1.0, np.tile(unsure, (20, 1)), 1.0, np.zeros(100, np.int64)).probability
    assert few < many

"""Significance of a difference, early exit, and the transfer-learning regime of a dataset."""

import numpy as np
import pytest

from graft.training.strategies.model_selection import (
    Comparison,
    Difference,
    compare,
    early_exit_reason,
    max_epochs,
    transfer_regime,
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
        (Difference(0.0, 0.0, 0.0), Difference(0.0, 0.0, 0.0), False),
        (Difference(0.03, 0.0, 0.06), NOTHING, False),
        (Difference(0.0, 0.0, 0.0), Difference(0.1, 0.0, 0.2), False),
    ],
    ids=[
        "higher accuracy",
        "not significant",
        "lower log-loss",
        "lower log-loss and accuracy",
        "lower accuracy",
        "the same",
        "accuracy from 0 up",
        "log-loss from 0 up",
    ],
)
def test_only_a_significant_difference_is_better(accuracy: Difference, log_loss: Difference, better: bool):
    assert Comparison(accuracy, log_loss).significantly_better is better


def test_verdict_has_the_gain_with_its_interval():
    verdict = Comparison(Difference(0.108, 0.083, 0.134), NOTHING).to_text("finetune", "probe")
    assert verdict == "finetune is significantly better than probe: +10.8 points of accuracy (+8.3 to +13.4); kept"


def test_gain_that_is_not_significant_keeps_the_cheaper_model():
    verdict = Comparison(Difference(0.02, -0.01, 0.05), NOTHING).to_text("finetune", "probe")
    assert verdict.endswith("+2.0 points of accuracy (-1.0 to +5.0); the cheaper probe is kept")


def test_interval_that_begins_at_zero_is_not_significant():
    verdict = Comparison(Difference(0.02, 0.0, 0.04), NOTHING).to_text("finetune", "probe")
    assert verdict.startswith("finetune is not significantly better than probe")


def test_verdict_names_a_lower_log_loss():
    verdict = Comparison(Difference(0.0, -0.02, 0.02), Difference(0.1, 0.05, 0.15)).to_text("stages", "probe")
    assert verdict.startswith("stages has a significantly lower log-loss than probe: lower by 0.100 (0.050 to 0.150)")


@pytest.mark.parametrize(("n_errors", "n_images"), [(0, 18), (0, 380), (1, 562), (3, 40), (4, 40), (20, 2000)])
def test_selection_goes_on_while_there_may_be_a_point_to_gain(n_errors, n_images):
    assert early_exit_reason(n_errors, n_images) == ""


@pytest.mark.parametrize(
    ("n_errors", "n_images", "reason"),
    [
        (0, 381, "no error in 381 validation images: the error is at most 1.00%, so there is little left to gain"),
        (1, 600, "1 error in 600 validation images: the error is at most 0.94%, so there is little left to gain"),
        (5, 2000, "5 errors in 2,000 validation images: the error is at most 0.58%, so there is little left to gain"),
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


def logits(*rows: tuple[float, float]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_comparison_is_paired_by_image():
    labels = np.zeros(100, np.int64)
    candidate, baseline = logits(*[(2, 0)] * 100), logits(*[(2, 0)] * 80, *[(0, 2)] * 20)
    comparison = compare(candidate, 1.0, baseline, 1.0, labels)
    assert comparison.accuracy.value == pytest.approx(0.2)
    assert comparison.accuracy.low > 0.1
    assert comparison.significantly_better


def test_comparison_names_its_metric():
    predictions, labels = logits((2, 0), (0, 1)), np.array([0, 1])
    assert compare(predictions, 1.0, predictions, 1.0, labels).metric == "accuracy"
    assert compare(predictions, 1.0, predictions, 1.0, np.eye(2, dtype=bool)).metric == "mean average precision"


def test_comparison_counts_groups():
    labels = np.zeros(100, np.int64)
    candidate, baseline = logits(*[(2, 0)] * 100), logits(*[(2, 0)] * 80, *[(0, 2)] * 20)
    alone, grouped = (compare(candidate, 1.0, baseline, 1.0, labels, groups) for groups in (None, np.arange(100) // 10))
    for one, other in ((alone.accuracy, grouped.accuracy), (alone.log_loss, grouped.log_loss)):
        assert one.value == pytest.approx(other.value)
        assert other.high - other.low > 2 * (one.high - one.low)


def test_model_is_not_better_than_itself():
    predictions = logits(*[(2, 0)] * 80, *[(0, 2)] * 20)
    comparison = compare(predictions, 1.0, predictions, 1.0, np.zeros(100, np.int64))
    assert comparison.accuracy == comparison.log_loss == Difference(0, 0, 0)
    assert not comparison.significantly_better


def test_log_loss_depends_on_the_temperatures():
    predictions = logits(*[(2, 0)] * 80, *[(0, 2)] * 20)
    comparison = compare(predictions, 1.5, predictions, 0.2, np.zeros(100, np.int64))
    assert comparison.accuracy.value == 0
    assert comparison.log_loss.low > 0


def test_selection_goes_on_if_a_few_groups_are_all_right():
    assert early_exit_reason(0, 600, 600)
    assert not early_exit_reason(0, 600, 60)


def test_a_lower_log_loss_on_a_few_images_shows_nothing():
    targets = np.zeros(9, np.int64)
    sure, unsure = np.tile([4.0, 0.0], (9, 1)).astype(np.float32), np.tile([2.0, 0.0], (9, 1)).astype(np.float32)
    assert not compare(sure, 1.0, unsure, 1.0, targets).significantly_better
    ten = np.zeros(10, np.int64)
    assert compare(np.vstack([sure, sure[:1]]), 1.0, np.vstack([unsure, unsure[:1]]), 1.0, ten).significantly_better

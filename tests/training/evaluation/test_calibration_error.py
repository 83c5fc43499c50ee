"""Reliability bins, and the coverage of the calibration error's interval."""

import numpy as np
import pytest

from graft.training.evaluation.calibration_error import expected_calibration_error, reliability_bins


def test_bin_has_mean_confidence_and_accuracy():
    confidences, correct = np.full((20, 1), 0.9), np.arange(20)[:, None] < 15
    [only] = reliability_bins(confidences, correct)
    assert (only.confidence, only.accuracy, only.n) == pytest.approx((0.9, 0.75, 20))


def test_error_is_the_mean_gap():
    # Half have confidence 0.6 and accuracy 0.5, half have confidence 0.9 and accuracy 1: (0.1 + 0.1) / 2.
    confidences = np.repeat([0.6, 0.9], 40)[:, None]
    correct = np.array(([True, False] * 20) + [True] * 40)[:, None]
    assert expected_calibration_error(confidences, correct).value == pytest.approx(0.1)


def test_gaps_of_opposite_sign_do_not_cancel():
    confidences = np.repeat([0.4, 0.8], 20)[:, None]
    correct = np.array([True, False] * 10 + [True, True, False, False, True] * 4)[:, None]  # 0.5, 0.6
    assert expected_calibration_error(confidences, correct).value == pytest.approx((0.1 + 0.2) / 2)


def test_bins_have_equal_mass():
    confidences = np.random.default_rng(0).random((3000, 1)) ** 0.1  # concentrated near 1
    bins = reliability_bins(confidences, confidences > 0.9)
    assert len(bins) == 15
    assert {result.n for result in bins} == {200}
    assert [result.confidence for result in bins] == sorted(result.confidence for result in bins)


def test_equal_confidences_share_a_bin():
    confidences = np.repeat([0.5, 1.0], [100, 900])[:, None]
    assert [result.n for result in reliability_bins(confidences, confidences > 0.7)] == [100, 900]


@pytest.mark.parametrize("n", [1, 3, 19, 41])
def test_few_images_give_few_bins(n: int):
    confidences = np.linspace(0.1, 0.9, n)[:, None]
    bins = reliability_bins(confidences, confidences > 0.5)
    assert len(bins) == max(1, n // 20)
    assert sum(result.n for result in bins) == n


def interval_coverage(n: int, excess: float, error: float) -> float:
    """Fraction of intervals that contain the true error of confidences that are `excess` too high."""
    random = np.random.default_rng(1)
    count = 0
    for _ in range(200):
        probabilities = random.uniform(0.3, 0.8, (n, 1))
        result = expected_calibration_error(probabilities + excess, random.random((n, 1)) < probabilities)
        count += result.low <= error <= result.high
    return count / 200


@pytest.mark.parametrize("n", [60, 500])
def test_interval_of_a_calibrated_network_contains_zero(n: int):
    assert interval_coverage(n, 0, 0) > 0.92


@pytest.mark.slow
def test_interval_of_an_overconfident_network_contains_its_error():
    assert interval_coverage(500, 0.15, 0.15) > 0.85


def test_overconfidence_is_detected():
    random = np.random.default_rng(2)
    probabilities = random.uniform(0.3, 0.8, (500, 1))
    assert expected_calibration_error(probabilities + 0.15, random.random((500, 1)) < probabilities).low > 0.05


def test_all_outputs_of_an_image_count():
    confidences = np.array([[0.9, 0.2]] * 30)
    correct = np.array([[True, False]] * 30)
    assert expected_calibration_error(confidences, correct).value == pytest.approx((0.1 + 0.2) / 2)

"""Reliability bins, and the coverage of the calibration error's interval."""

import numpy as np
import pytest

from graft.training.evaluation.calibration_error import expected_calibration_error, reliability_bins


def test_bin_has_mean_confidence_and_accuracy():
    confidences, correct = np.full((20, 1), 0.9), np.arange(20)[:, None] < 15
    [only] = reliability_bins(confidences, correct)
    assert (only.confidence, only.accuracy, only.n) == pytest.approx((0.9, 0.75, 20))


def test_error_is_the_mean_gap_where_chance_is_small():
    # Half have confidence 0.6 and accuracy 0.5, half have confidence 0.9 and accuracy 0.75: (0.1 + 0.15) / 2.
    confidences = np.repeat([0.6, 0.9], 4_000)[:, None]
    correct = np.array(([True, False] * 2_000) + ([True, True, True, False] * 1_000))[:, None]
    assert expected_calibration_error(confidences, correct).value == pytest.approx(0.125, abs=0.005)


def test_gaps_of_opposite_sign_do_not_cancel():
    confidences = np.repeat([0.4, 0.8], 2_000)[:, None]
    correct = np.array([True, False] * 1_000 + [True, True, False, False, True] * 400)[:, None]  # 0.5, 0.6
    assert expected_calibration_error(confidences, correct).value == pytest.approx((0.1 + 0.2) / 2, abs=0.01)


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


def simulate(n: int, accuracy: float, slope: float, n_runs: int = 60) -> tuple[float, float, float, float]:
    """Simulates networks whose true log-odds are `slope` times those of their confidence.

    Returns:
        The mean true and observed errors, the median of the estimate minus the true error, and the share of intervals that
        contain the true error.
    """
    random = np.random.default_rng(1)
    alpha, beta = {0.6: (4, 2.7), 0.9: (5, 0.55), 0.98: (8, 0.16)}[accuracy]
    errors, observed, biases, covered = [], [], [], 0
    for _ in range(n_runs):
        confidences = random.beta(alpha, beta, (n, 1)).clip(0.02, 1 - 1e-6)
        rates = 1 / (1 + ((1 - confidences) / confidences) ** slope)
        correct = random.random((n, 1)) < rates
        error, gap = (
            sum(one.n * abs(one.confidence - one.accuracy) for one in reliability_bins(confidences, outcomes)) / n
            for outcomes in (rates, correct)
        )
        estimate = expected_calibration_error(confidences, correct)
        covered += estimate.low - 1e-9 <= error <= estimate.high + 1e-9
        errors.append(error)
        observed.append(gap)
        biases.append(estimate.value - error)
    return float(np.mean(errors)), float(np.mean(observed)), float(np.median(biases)), covered / n_runs


@pytest.mark.parametrize("accuracy", [0.6, 0.9, 0.98])
@pytest.mark.parametrize("n", [50, 1000])
def test_error_of_a_calibrated_network_is_not_overestimated(n: int, accuracy: float):
    _, observed, bias, coverage = simulate(n, accuracy, 1)
    assert bias < 0.5 * observed
    assert coverage >= 0.9


@pytest.mark.parametrize("slope", [0.6, 1.6])
@pytest.mark.parametrize(("n", "accuracy"), [(200, 0.6), (200, 0.9), (1000, 0.98)])
def test_interval_of_a_miscalibrated_network_contains_its_error(n: int, accuracy: float, slope: float):
    _, _, bias, coverage = simulate(n, accuracy, slope)
    assert abs(bias) < 0.02
    assert coverage >= 0.88  # of 60 intervals, four standard deviations below 95 % would be 0.84


def test_estimate_is_deterministic():
    confidences = np.random.default_rng(3).random((300, 1))
    correct = np.random.default_rng(4).random((300, 1)) < confidences
    assert expected_calibration_error(confidences, correct) == expected_calibration_error(confidences, correct)


def test_copies_of_images_do_not_narrow_the_interval():
    random = np.random.default_rng(5)
    confidences = random.uniform(0.3, 0.8, (200, 1))
    correct = random.random((200, 1)) < confidences - 0.1
    rows = np.repeat(np.arange(200), 5)
    alone = expected_calibration_error(confidences, correct)
    copied = expected_calibration_error(confidences[rows], correct[rows], clusters=rows)
    as_images = expected_calibration_error(confidences[rows], correct[rows])
    assert copied.low < alone.low + 0.02
    assert as_images.low > alone.low + 0.02


def test_labels_of_one_image_are_not_independent():
    random = np.random.default_rng(6)
    confidences = random.uniform(0.3, 0.8, (100, 1))
    correct = random.random((100, 1)) < confidences - 0.15
    once = expected_calibration_error(confidences, correct)
    repeated = expected_calibration_error(np.tile(confidences, 6), np.tile(correct, 6))
    assert repeated.low < once.low + 0.02


def test_upper_limit_holds_where_every_prediction_is_right():
    # A network that is right in 95 % of cases is right on 50 images in 8 % of samples, whatever it says.
    confidences = np.full((50, 1), 0.99)
    assert expected_calibration_error(confidences, np.ones((50, 1), bool)).high >= 0.04


def test_overconfidence_is_detected():
    random = np.random.default_rng(2)
    probabilities = random.uniform(0.3, 0.8, (500, 1))
    assert expected_calibration_error(probabilities + 0.15, random.random((500, 1)) < probabilities).low > 0.05


def test_all_outputs_of_an_image_count():
    confidences = np.array([[0.9, 0.2]] * 300)
    correct = np.array([[True, False]] * 300)
    assert expected_calibration_error(confidences, correct).value == pytest.approx((0.1 + 0.2) / 2, abs=0.01)

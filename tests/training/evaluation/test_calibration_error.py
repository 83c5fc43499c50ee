"""Bins that add up, and a calibration error whose interval holds."""

import numpy as np
import pytest

from graft.training.evaluation.calibration_error import calibration_error, reliability


def test_one_bin_says_what_was_claimed_and_what_came_true():
    claims, true = np.full((20, 1), 0.9), np.arange(20)[:, None] < 15
    [one] = reliability(claims, true)
    assert (one.confidence, one.accuracy, one.n) == pytest.approx((0.9, 0.75, 20))


def test_the_error_is_the_mean_gap():
    # Half claim 0.6 and are right half the time, half claim 0.9 and always are: (0.1 + 0.1) / 2.
    claims = np.repeat([0.6, 0.9], 40)[:, None]
    true = np.array(([True, False] * 20) + [True] * 40)[:, None]
    assert calibration_error(claims, true).value == pytest.approx(0.1)


def test_gaps_to_either_side_do_not_cancel_out():
    claims = np.repeat([0.4, 0.8], 20)[:, None]
    true = np.array([True, False] * 10 + [True, True, False, False, True] * 4)[:, None]  # 0.5, 0.6
    assert calibration_error(claims, true).value == pytest.approx((0.1 + 0.2) / 2)


def test_bins_hold_equally_many():
    claims = np.random.default_rng(0).random((3000, 1)) ** 0.1  # crowded near 1
    bins = reliability(claims, claims > 0.9)
    assert len(bins) == 15
    assert {found.n for found in bins} == {200}
    assert [found.confidence for found in bins] == sorted(found.confidence for found in bins)


def test_equal_claims_are_never_in_two_bins():
    claims = np.repeat([0.5, 1.0], [100, 900])[:, None]
    assert [found.n for found in reliability(claims, claims > 0.7)] == [100, 900]


@pytest.mark.parametrize("n", [1, 3, 19, 41])
def test_few_images_make_few_bins(n: int):
    claims = np.linspace(0.1, 0.9, n)[:, None]
    bins = reliability(claims, claims > 0.5)
    assert len(bins) == max(1, n // 20)
    assert sum(found.n for found in bins) == n


def held(n: int, boast: float, error: float) -> float:
    """How often the interval holds the true error of claims that are `boast` too high."""
    random = np.random.default_rng(1)
    count = 0
    for _ in range(200):
        chances = random.uniform(0.3, 0.8, (n, 1))
        found = calibration_error(chances + boast, random.random((n, 1)) < chances)
        count += found.low <= error <= found.high
    return count / 200


@pytest.mark.parametrize("n", [60, 500])
def test_an_error_of_nothing_is_possible_for_honest_claims(n: int):
    assert held(n, 0, 0) > 0.92


def test_the_interval_holds_the_error_of_boasts():
    assert held(500, 0.15, 0.15) > 0.85


def test_boasts_are_not_taken_for_honest():
    random = np.random.default_rng(2)
    chances = random.uniform(0.3, 0.8, (500, 1))
    assert calibration_error(chances + 0.15, random.random((500, 1)) < chances).low > 0.05


def test_several_claims_of_an_image_all_count():
    claims = np.array([[0.9, 0.2]] * 30)
    true = np.array([[True, False]] * 30)
    assert calibration_error(claims, true).value == pytest.approx((0.1 + 0.2) / 2)

"""Numbers that other people have published, or that follow from how the data were made."""

import numpy as np
import pytest

from training.evaluate import log_loss, paired_difference, score


def answers(right: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of two labels of which the first `right` are right."""
    logits = np.tile(np.array([[1.0, 0.0]], np.float32), (n, 1))
    return logits, np.array([0] * right + [1] * (n - right), np.int64)


@pytest.mark.parametrize(
    ("right", "n", "accuracy", "low", "high"),
    [
        (146, 153, 0.9542, 0.9086, 0.9777),
        (0, 10, 0.0, 0.0, 0.2775),
        (10, 10, 1.0, 0.7225, 1.0),
        (81, 263, 0.3080, 0.2553, 0.3662),
    ],
)
def test_interval_is_wilsons(right: int, n: int, accuracy: float, low: float, high: float):
    found = score(*answers(right, n))
    assert [found.accuracy, found.low, found.high] == pytest.approx([accuracy, low, high], abs=5e-5)
    assert found.n == n


def test_no_images_say_nothing():
    found = score(np.zeros((0, 3), np.float32), np.zeros(0, np.int64))
    assert (found.low, found.high, found.n) == (0, 1, 0)


@pytest.mark.parametrize("n", range(1, 60))
def test_accuracy_lies_in_its_interval(n: int):
    for right in range(n + 1):
        found = score(*answers(right, n))
        assert 0 <= found.low <= found.accuracy <= found.high <= 1


def test_log_loss_of_a_guess_between_two_is_ln_2():
    assert log_loss(np.zeros((4, 2), np.float32), np.array([0, 1, 1, 0])) == pytest.approx(0.693147, abs=1e-6)


def test_log_loss_is_the_mean_over_images():
    logits = np.log(np.array([[0.9, 0.1], [0.5, 0.5]], np.float32))
    assert log_loss(logits, np.array([0, 1])) == pytest.approx(0.399254, abs=1e-5)


def test_certain_and_wrong_costs_much_but_not_infinitely():
    assert np.isfinite(log_loss(np.array([[5000.0, 0.0]], np.float32), np.array([1])))


def test_difference_from_itself_is_zero():
    logits, labels = answers(7, 10)
    assert paired_difference(logits, logits, labels) == (0, 0, 0)


def test_difference_counts_for_the_first():
    better, labels = answers(90, 100)
    worse = better.copy()
    worse[:30] = [0.0, 1.0]
    assert paired_difference(better, worse, labels)[0] == pytest.approx(0.3)
    assert paired_difference(worse, better, labels)[0] == pytest.approx(-0.3)


def test_interval_of_a_difference_is_the_binomials():
    better, labels = answers(100, 100)
    worse = better.copy()
    worse[:30] = [0.0, 1.0]
    difference, low, high = paired_difference(better, worse, labels)
    # 30 of 100: a binomial's middle 95 % goes from 21 to 39.
    assert (difference, low, high) == pytest.approx((0.30, 0.21, 0.39), abs=0.011)


def test_what_both_get_wrong_does_not_widen_the_interval():
    one, labels = answers(50, 100)
    other = one + np.float32(0.5)  # other numbers, same answers
    assert paired_difference(one, other, labels) == (0, 0, 0)

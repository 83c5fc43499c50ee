"""Intervals that other people have published, and intervals that hold as often as they say."""

import numpy as np
import pytest

from graft.training.evaluation.confidence_intervals import between, design_effect, f1, mean, mean_of, resampled, share, wilson


@pytest.mark.parametrize(
    ("part", "n", "low", "high"),
    [(146, 153, 0.9086, 0.9777), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_shares_have_wilsons_interval(part: int, n: int, low: float, high: float):
    found = share(part, n)
    assert (found.value, found.low, found.high) == pytest.approx((part / n, low, high), abs=5e-5)


def test_a_share_of_nothing_is_unknown():
    assert share(0, 0) is None
    assert f1(0, 0) is None


@pytest.mark.parametrize("n", range(1, 40))
def test_a_share_lies_in_its_interval(n: int):
    for part in range(n + 1):
        low, high = wilson(part / n, n)
        assert 0 <= low <= part / n <= high <= 1


def test_f1_is_between_precision_and_recall():
    # 6 images have the label, 8 are given it, 5 of them rightly: 2 * 5 / (6 + 8).
    assert f1(5, 6 + 8 - 5).value == pytest.approx(10 / 14)


def test_a_perfect_f1_of_three_images_is_not_certain():
    found = f1(3, 3)
    assert (found.value, found.high) == (1, 1)
    # Wilson says that 3 of 3 may be 0.4385; F1 of that Jaccard share is 2 * 0.4385 / 1.4385.
    assert found.low == pytest.approx(0.6097, abs=1e-4)


def test_f1s_interval_holds_as_often_as_it_says():
    random = np.random.default_rng(0)
    both = random.binomial(60, 0.4, size=2000)  # F1 is 2 * 0.4 / 1.4
    held = [found.low <= 0.8 / 1.4 <= found.high for found in (f1(int(count), 60) for count in both)]
    assert 0.93 < np.mean(held) < 0.98


def test_the_mean_of_one_share_is_nearly_that_share():
    # The effective size of one share is its size.
    found, alone = mean_of(np.array([0.8]), np.array([50.0])), share(40, 50)
    assert (found.value, found.low, found.high) == pytest.approx((alone.value, alone.low, alone.high))


def test_right_answers_of_two_labels_count_together():
    found = mean_of(np.array([1.0, 1.0]), np.array([10.0, 10.0]))
    assert (found.value, found.low, found.high) == pytest.approx((1, share(20, 20).low, 1))


def test_a_label_of_two_images_keeps_the_mean_in_doubt():
    sure = mean_of(np.array([1.0, 1.0]), np.array([1000.0, 1000.0]))
    unsure = mean_of(np.array([1.0, 1.0]), np.array([1000.0, 2.0]))
    assert sure.low > 0.99
    assert unsure.low < 0.8


@pytest.mark.parametrize(("n_labels", "n_images", "chance"), [(3, 20, 0.8), (10, 15, 0.95), (200, 10, 0.2), (2, 5, 0.5)])
def test_the_means_interval_holds_as_often_as_it_says(n_labels: int, n_images: int, chance: float):
    random = np.random.default_rng(1)
    shares = random.binomial(n_images, chance, size=(1000, n_labels)) / n_images
    found = [mean_of(row, np.full(n_labels, float(n_images))) for row in shares]
    assert np.mean([estimate.low <= chance <= estimate.high for estimate in found]) > 0.92


def test_labels_that_fail_together_have_a_larger_effect():
    together = np.tile(np.random.default_rng(2).normal(size=(50, 1)), (1, 4))
    assert design_effect(together) == pytest.approx(4)
    assert design_effect(np.zeros((5, 3))) == 1


def test_a_mean_has_the_interval_of_the_normal_distribution():
    values = np.random.default_rng(3).normal(10, 2, size=400)
    found = mean(values)
    half = 1.96 * values.std() / 20
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_the_same_numbers_get_the_same_interval():
    values = np.random.default_rng(4).normal(size=50)
    assert mean(values) == mean(values)


def test_resampled_rows_stay_together():
    values = np.random.default_rng(5).normal(size=(30, 1))
    means = resampled(np.hstack([values, -values]))
    np.testing.assert_allclose(means[:, 0], -means[:, 1])


def test_chunks_change_nothing(monkeypatch):
    from graft.training.evaluation import confidence_intervals

    values = np.random.default_rng(6).normal(size=(40, 2))
    whole = resampled(values)
    monkeypatch.setattr(confidence_intervals, "CHUNK", 100)
    np.testing.assert_allclose(resampled(values), whole)


def test_a_number_is_never_beside_its_interval():
    found = between(0.5, np.full(10, 0.7))
    assert (found.low, found.high) == (0.5, 0.7)

"""Confidence intervals: published values, and coverage in simulations."""

import math

import numpy as np
import pytest
from scipy import stats

from graft.training.evaluation.confidence_intervals import (
    bootstrap_means,
    clustered_proportion,
    design_effect,
    f1_interval,
    macro_mean_interval,
    mean_interval,
    percentile_interval,
    proportion,
    ratio,
    wilson,
)


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [(146, 153, 0.9086, 0.9777), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_proportion_has_the_wilson_interval(count: int, n: int, low: float, high: float):
    result = proportion(count, n)
    assert (result.value, result.low, result.high) == pytest.approx((count / n, low, high), abs=5e-5)


def test_proportion_of_zero_images_is_none():
    assert proportion(0, 0) is None
    assert f1_interval(0, 0) is None


@pytest.mark.parametrize("n", range(1, 40))
def test_proportion_lies_in_its_interval(n: int):
    for count in range(n + 1):
        low, high = wilson(count / n, n)
        assert 0 <= low <= count / n <= high <= 1


def test_ratio_is_a_proportion_of_all_cases():
    assert ratio(np.array([2, 0, 1, 0]), np.array([2, 1, 2, 0])) == proportion(3, 5)
    assert ratio(np.array([True, False, True]), np.array([True, True, True])) == proportion(2, 3)
    assert ratio(np.zeros(3), np.zeros(3)) is None
    assert ratio(np.zeros(0), np.zeros(0)) is None


def test_ratio_counts_equal_images_of_a_cluster_once():
    # Half of 50 clusters are right: their variance is exactly four times that of 200 images.
    clusters = np.arange(200) // 4
    assert ratio(clusters % 2, np.ones(200), clusters) == proportion(25, 50)


@pytest.mark.parametrize("inflation", [0.2, 1.0])
def test_images_are_never_more_than_independent(inflation: float):
    assert proportion(5, 9, inflation) == proportion(5, 9)
    assert f1_interval(5, 9, inflation) == f1_interval(5, 9)
    values, sizes = np.array([0.5, 0.9]), np.array([8.0, 20.0])
    assert macro_mean_interval(values, sizes, inflation) == macro_mean_interval(values, sizes)


def test_variance_inflation_reduces_the_number_of_images():
    low, high = wilson(0.5, 25)
    assert (proportion(50, 100, 4).low, proportion(50, 100, 4).high) == (low, high)
    f1 = f1_interval(50, 100, 4)
    assert (f1.low, f1.value, f1.high) == pytest.approx((2 * low / (1 + low), 2 / 3, 2 * high / (1 + high)))


def test_interval_of_the_macro_mean_by_hand():
    # With a success and a failure more: 5 of 10 and 18 of 22, whose mean is 0.659 and varies by (0.0313 + 0.00744) / 4.
    smoothed = np.array([5 / 10, 18 / 22])
    variance = (0.25 / 8 + 18 * 4 / 22**2 / 20) / 4
    n = smoothed.mean() * (1 - smoothed.mean()) / variance
    for inflation in (1, 3):
        found = macro_mean_interval(np.array([0.5, 0.85]), np.array([8.0, 20.0]), inflation)
        assert (found.value, found.low, found.high) == pytest.approx((0.675, *wilson(0.675, n / inflation)))


def test_f1_is_between_precision_and_recall():
    # 6 images have the label, 8 are predicted to, 5 of them correctly: 2 * 5 / (6 + 8).
    assert f1_interval(5, 6 + 8 - 5).value == pytest.approx(10 / 14)


def test_perfect_f1_of_three_images_has_an_interval():
    result = f1_interval(3, 3)
    assert (result.value, result.high) == (1, 1)
    # The lower Wilson limit of 3/3 is 0.4385; F1 for that Jaccard index is 2 * 0.4385 / 1.4385.
    assert result.low == pytest.approx(0.6097, abs=1e-4)


def test_coverage_of_the_f1_interval():
    random = np.random.default_rng(0)
    intersections = random.binomial(60, 0.4, size=2000)  # F1 is 2 * 0.4 / 1.4
    contains = [result.low <= 0.8 / 1.4 <= result.high for result in (f1_interval(int(count), 60) for count in intersections)]
    assert 0.93 < np.mean(contains) < 0.98


def test_macro_mean_of_one_proportion_equals_it():
    # The effective size of one share is its size.
    result, single = macro_mean_interval(np.array([0.8]), np.array([50.0])), proportion(40, 50)
    assert (result.value, result.low, result.high) == pytest.approx((single.value, single.low, single.high))


def test_macro_mean_pools_the_images_of_perfect_labels():
    result = macro_mean_interval(np.array([1.0, 1.0]), np.array([10.0, 10.0]))
    assert (result.value, result.low, result.high) == pytest.approx((1, proportion(20, 20).low, 1))


def test_label_with_two_images_widens_the_interval_of_the_mean():
    certain = macro_mean_interval(np.array([1.0, 1.0]), np.array([1000.0, 1000.0]))
    uncertain = macro_mean_interval(np.array([1.0, 1.0]), np.array([1000.0, 2.0]))
    assert certain.low > 0.99
    assert uncertain.low < 0.8


@pytest.mark.parametrize(("n_labels", "n_images", "rate"), [(3, 20, 0.8), (10, 15, 0.95), (200, 10, 0.2), (2, 5, 0.5)])
def test_coverage_of_the_macro_mean_interval(n_labels: int, n_images: int, rate: float):
    random = np.random.default_rng(1)
    proportions = random.binomial(n_images, rate, size=(1000, n_labels)) / n_images
    result = [macro_mean_interval(row, np.full(n_labels, float(n_images))) for row in proportions]
    assert np.mean([estimate.low <= rate <= estimate.high for estimate in result]) > 0.92


def test_correlated_labels_have_a_larger_design_effect():
    together = np.tile(np.random.default_rng(2).normal(size=(50, 1)), (1, 4))
    assert design_effect(together) == pytest.approx(4)
    assert design_effect(np.zeros((5, 3))) == 1


def test_mean_has_the_normal_interval():
    values = np.random.default_rng(3).normal(10, 2, size=400)
    result = mean_interval(values)
    half_width = 1.96 * values.std() / 20
    assert (result.low, result.high) == pytest.approx((values.mean() - half_width, values.mean() + half_width), abs=0.03)


def test_bootstrap_is_deterministic():
    values = np.random.default_rng(4).normal(size=50)
    assert mean_interval(values) == mean_interval(values)


def test_bootstrap_keeps_rows_together():
    values = np.random.default_rng(5).normal(size=(30, 1))
    means = bootstrap_means(np.hstack([values, -values]))
    np.testing.assert_allclose(means[:, 0], -means[:, 1])


def test_bootstrap_of_clusters_draws_whole_clusters():
    # Clusters of 1, 2 and 3 images weigh as much as 36 / 14 of equal size.
    columns, clusters = np.array([[1.0, 5], [2, 0], [4, 1], [0, 2], [3, 7], [5, 5]]), np.array([0, 1, 1, 2, 2, 2])
    sums, sizes = np.array([[1.0, 5], [6, 1], [8, 14]]), np.array([1, 2, 3])
    drawn = np.random.default_rng(7).integers(0, 3, (50, 3))
    means = np.array([sums[rows].sum(axis=0) / sizes[rows].sum() for rows in drawn])
    widening = stats.t.ppf(0.975, 36 / 14 - 1) / 1.96 * math.sqrt(3 / 2)
    expected = columns.mean(axis=0) + (means - columns.mean(axis=0)) * widening
    np.testing.assert_allclose(bootstrap_means(columns, 7, 50, clusters), expected, rtol=0.04, atol=0.1)


def test_bootstrap_of_one_cluster_varies_as_one_image():
    columns = np.array([[1.0, 5], [2, 0], [6, 1]])
    drawn = np.random.default_rng(7).integers(0, 3, (50, 3))
    expected = [3, 2] + (columns[drawn].mean(axis=1) - [3, 2]) * math.sqrt(3)
    np.testing.assert_allclose(bootstrap_means(columns, 7, 50, np.zeros(3, np.int64)), expected)


def test_bootstrap_of_single_images_ignores_their_numbers():
    columns = np.random.default_rng(8).normal(size=(20, 2))
    drawn = np.random.default_rng(7).integers(0, 20, (50, 20))
    np.testing.assert_allclose(bootstrap_means(columns, 7, 50), columns[drawn].mean(axis=1))
    np.testing.assert_array_equal(bootstrap_means(columns, 7, 50, np.arange(20)[::-1]), bootstrap_means(columns, 7, 50))


def test_percentile_interval_holds_95_percent():
    result = percentile_interval(500, np.arange(1001.0))
    assert (result.low, result.value, result.high) == pytest.approx((25, 500, 975))


def test_chunk_size_does_not_change_the_result(monkeypatch):
    from graft.training.evaluation import confidence_intervals

    values = np.random.default_rng(6).normal(size=(40, 2))
    expected = bootstrap_means(values)
    monkeypatch.setattr(confidence_intervals, "CHUNK", 100)
    np.testing.assert_allclose(bootstrap_means(values), expected)


def test_value_is_never_outside_of_its_interval():
    result = percentile_interval(0.5, np.full(10, 0.7))
    assert (result.low, result.high) == (0.5, 0.7)


def test_clusters_of_one_have_the_wilson_interval():
    totals = (np.arange(200) < 150).astype(float)
    assert clustered_proportion(totals, np.ones(200)) == proportion(150, 200)


def test_equal_outcomes_in_a_cluster_count_once():
    totals = 3.0 * (np.arange(200) < 150)
    estimate = clustered_proportion(totals, np.full(200, 3.0))
    assert estimate == proportion(150, 200)


def test_perfect_clusters_are_not_certain():
    assert clustered_proportion(np.full(20, 3.0), np.full(20, 3.0)) == proportion(20, 20)

"""Confidence intervals: published values, and coverage in simulations."""

import numpy as np
import pytest

from graft.training.evaluation.confidence_intervals import (
    bootstrap_means,
    clustered_proportion,
    design_effect,
    f1_interval,
    macro_mean_interval,
    mean_interval,
    percentile_interval,
    proportion,
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

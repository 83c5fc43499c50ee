"""Thresholds of the probability: what they promise holds on new images, and too few images promise nothing."""

import numpy as np
import pytest

from graft.service.manifest import Calibration, ErrorLevel
from graft.training.evaluation.selective import (
    MAX_ERRORS,
    binomial_cdf,
    error_levels,
    lowest_threshold,
    measure,
    precision_thresholds,
)


def top_label(confidences: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of two labels, of which the first is always predicted, and the true labels."""
    return np.column_stack([confidences, 1 - confidences]), np.where(correct, 0, 1)


@pytest.mark.parametrize(
    ("n", "errors", "rank"),
    [(51, [], None), (52, [], 52), (60, [55], 52), (68, [], 68), (100, [99], 100), (100, [10], None), (0, [], None)],
)
def test_precision_threshold_by_hand(n, errors, rank):
    # 0.95 ** 51 > 0.07 > 0.95 ** 52; then 58 and 60 predictions are tested, and 58 with one error are too few.
    confidences = np.linspace(0.99, 0.51, n)
    found = precision_thresholds(*top_label(confidences, ~np.isin(np.arange(n), errors)), 0.95)
    assert found == (rank and confidences[rank - 1], None)


def test_both_searches_end_where_they_fail_first():
    confidences, correct = np.linspace(0.99, 0.5, 300), np.ones(300, bool)
    correct[190:210] = False
    # The late search tests 150, 166, 183 and 202 predictions, the early one 169, 186 and then 205.
    assert lowest_threshold(confidences, correct, 0.95) == confidences[185]
    correct[:2] = False  # ends the early search at once
    assert lowest_threshold(confidences, correct, 0.95) == confidences[182]


def test_threshold_does_not_separate_equal_probabilities():
    probabilities = np.tile([0.9, 0.1], (200, 1))
    labels = np.array([0] * 100 + [1] * 100)  # the first hundred alone would be precise
    assert precision_thresholds(probabilities, labels, 0.95) == (None, None)


@pytest.mark.parametrize("precision", [0.9, 0.95])
def test_precision_thresholds_reach_their_target_nine_times_in_ten(precision):
    random = np.random.default_rng(0)
    confidences = np.linspace(0.5, 1, 2000)
    accuracy = 0.6 + 0.4 * ((confidences - 0.5) / 0.5) ** 0.5  # of the predictions with this confidence
    true_precision = accuracy[::-1].cumsum()[::-1] / np.arange(2000, 0, -1)  # of all from this confidence up
    outcomes = []
    for _ in range(400):
        drawn = random.integers(0, 2000, 500)
        threshold, _ = precision_thresholds(*top_label(confidences[drawn], random.random(500) < accuracy[drawn]), precision)
        if threshold is not None:
            outcomes.append(true_precision[np.searchsorted(confidences, threshold)] >= precision)
    assert len(outcomes) > 20
    assert len(outcomes) - sum(outcomes) <= 0.1 * 400 + 3 * np.sqrt(400 * 0.1 * 0.9)


@pytest.mark.parametrize(
    ("k", "n", "p", "expected"), [(0, 45, 0.05, 0.95**45), (1, 2, 0.5, 0.75), (3, 3, 0.2, 1), (500, 1000, 0.5, 0.5126)]
)
def test_binomial_cdf(k, n, p, expected):
    assert binomial_cdf(k, n, p) == pytest.approx(expected, abs=1e-4)


def test_binomial_cdf_of_fractions_lies_between_those_of_whole_numbers():
    assert binomial_cdf(1, 50, 0.05) < binomial_cdf(1.5, 50, 0.05) < binomial_cdf(2, 50, 0.05)
    assert binomial_cdf(5, 5, 0.3) == binomial_cdf(6, 5.5, 0.3) == 1


def images(n: int, random: np.random.Generator, size: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidences of n images, whether they are predicted correctly, and their true accuracies; in groups of one outcome."""
    confidences = 1 - random.beta(1, 5, n // size)
    correct = random.random(n // size) < confidences
    return np.repeat(confidences, size), np.repeat(correct, size), np.repeat(confidences, size)


@pytest.mark.parametrize("size", [1, 10])
@pytest.mark.parametrize("max_error", [0.05, 0.1, 0.2])
def test_error_of_the_answers_is_as_wanted_nine_times_in_ten(max_error, size):
    random, broken, answered = np.random.default_rng(0), 0, []
    new, _, accuracy = images(50_000, random)
    for _ in range(200):
        confidences, correct, _ = images(400 * size, random, size)
        clusters = np.arange(400 * size) // size
        [level] = error_levels(confidences, correct, np.zeros(len(correct), bool), [max_error], clusters)
        answered.append(level.answered)
        if level.min_probability is not None:
            broken += (1 - accuracy[new >= level.min_probability].mean()) > max_error
    assert broken <= 0.1 * 200 + 3 * np.sqrt(200 * 0.1 * 0.9)
    assert np.mean(answered) > {0.05: 0.04, 0.1: 0.4, 0.2: 0.9}[max_error]  # it does not hold because nothing is answered


def test_levels_are_ordered():
    confidences, correct, _ = images(600, np.random.default_rng(1))
    levels = error_levels(confidences, correct, np.zeros(600, bool), MAX_ERRORS)
    assert [level.max_error for level in levels] == list(MAX_ERRORS)
    answered = [level.answered for level in levels]
    assert answered == sorted(answered)
    assert levels[0].min_probability is None
    assert levels[-1].answered == 1


def test_outliers_are_not_answered():
    confidences, correct, _ = images(600, np.random.default_rng(1))
    is_outlier = np.arange(600) % 4 == 0
    correct[is_outlier] = False
    [level] = error_levels(confidences, correct, is_outlier, [0.3])
    assert level.answered == 0.75


def test_measured_answers_by_hand():
    calibration = Calibration(
        n_images=10,
        target_precision=0.9,
        thresholds=(None, None),
        coverage=0.9,
        set_thresholds=(0, 0),
        max_error=0.1,
        error_levels=(ErrorLevel(max_error=0.1, min_probability=0.7, answered=0.5),),
        outlier_k=1,
        outlier_threshold=1,
    )
    confidences = np.array([0.9, 0.8, 0.75, 0.6, 0.95, 0.7, 0.5, 0.65])
    correct = np.array([True, False, True, False, False, True, False, True])
    is_outlier = np.array([False, False, False, False, True, False, False, False])
    found = measure(confidences, correct, is_outlier, calibration)
    assert (found.max_error, found.answered.value, found.error.value, found.caught.value) == (0.1, 0.5, 0.25, 0.75)
    assert [round(point.error.value, 3) for point in found.curve] == [0, 0.5, 0.333, 0.25, 0.2, 0.333, 0.429, 0.5]
    assert found.aurc == pytest.approx(np.mean([0, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 2 / 6, 3 / 7, 4 / 8]))


def test_nothing_is_answered_without_a_threshold():
    level = ErrorLevel(max_error=0.1, min_probability=None, answered=0)
    calibration = Calibration(
        n_images=10,
        target_precision=0.9,
        thresholds=(None, None),
        coverage=0.9,
        set_thresholds=(0, 0),
        max_error=0.1,
        error_levels=(level,),
        outlier_k=1,
        outlier_threshold=1,
    )
    found = measure(np.ones(4), np.array([True, True, True, False]), np.zeros(4, bool), calibration)
    assert (found.answered.value, found.error, found.caught.value) == (0, None, 1)

"""Thresholds of the probability: what they promise holds on new images, and too few images promise nothing."""

import numpy as np
import pytest

from graft.service.manifest import Calibration, ErrorLevel
from graft.training.evaluation.selective import (
    MAX_ERRORS,
    binomial_cdf,
    default_max_error,
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


def test_late_search_starts_at_four_times_the_fewest_images():
    # With 16 predictions, 4 may be wrong (0.038 < 0.07), with 18 no more than 5; the late search tests 4 * 4, 18, 20 and so on.
    confidences, correct = np.linspace(0.99, 0.5, 100), np.arange(100) < 16
    correct[:4] = False
    assert lowest_threshold(confidences, correct, 0.5) == confidences[15]


def test_early_search_starts_with_the_fewest_images_that_can_show_it():
    # The precision to the power of 20 is just below the risk of 0.03: 20 predictions without an error are enough.
    confidences, correct = np.linspace(0.99, 0.5, 60), np.arange(60) < 20
    assert lowest_threshold(confidences, correct, 0.03 ** (1 / 20) - 1e-12) == confidences[19]


def test_images_of_a_group_with_different_outcomes_count_as_single_images():
    probabilities, labels = top_label(np.linspace(0.99, 0.51, 100), np.arange(100) % 2 == 0)
    alone = precision_thresholds(probabilities, labels, 0.2)
    assert alone == (pytest.approx(0.51), None)
    assert precision_thresholds(probabilities, labels, 0.2, np.arange(100) // 2) == alone


def test_images_of_a_group_with_equal_outcomes_count_once():
    # 75 groups of 4, of which the last 5 are wrong: 0.93 is shown with 300 images, and not with 75.
    probabilities, labels = top_label(np.linspace(0.99, 0.51, 300), np.arange(300) < 280)
    alone, grouped = (precision_thresholds(probabilities, labels, 0.9, groups)[0] for groups in (None, np.arange(300) // 4))
    assert alone == pytest.approx(0.51)
    assert grouped > 0.55


@pytest.mark.filterwarnings("error")
def test_no_images_have_no_thresholds():
    assert precision_thresholds(np.zeros((0, 2)), np.zeros(0, np.int64), 0.9) == (None, None)
    [level] = error_levels(np.ones(3), np.zeros(3, bool), np.zeros(3, bool), [0.1])
    assert (level.min_probability, level.answered) == (None, 0)


def level(max_error: float, answered: float) -> ErrorLevel:
    return ErrorLevel(max_error=max_error, min_probability=0.5, answered=answered)


def test_default_error_is_the_lowest_at_which_most_images_are_answered():
    assert default_max_error([level(0.007, 1), level(0.02, 0.79), level(0.03, 0.8), level(0.05, 0.9)]) == 0.03
    assert default_max_error([level(0.01, 0.8), level(0.02, 0.8)]) == 0.01
    assert default_max_error([level(0.1, 0.5)]) is None


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


def calibrated(min_probability: float | None) -> Calibration:
    return Calibration(
        n_images=10,
        target_precision=0.9,
        thresholds=(None, None),
        coverage=0.9,
        set_thresholds=(0, 0),
        max_error=0.1,
        error_levels=(ErrorLevel(max_error=0.1, min_probability=min_probability, answered=0.5),),
        outlier_k=1,
        outlier_threshold=1,
    )


def test_measured_answers_by_hand():
    confidences = np.array([0.9, 0.8, 0.75, 0.6, 0.95, 0.7, 0.5, 0.65])
    correct = np.array([True, False, True, False, False, True, False, True])
    is_outlier = np.array([False, False, False, False, True, False, False, False])
    found = measure(confidences, correct, is_outlier, calibrated(0.7))
    assert (found.max_error, found.answered.value, found.error.value, found.caught.value) == (0.1, 0.5, 0.25, 0.75)
    assert [round(point.error.value, 3) for point in found.curve] == [0, 0.5, 0.333, 0.25, 0.2, 0.333, 0.429, 0.5]
    assert found.aurc == pytest.approx(np.mean([0, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 2 / 6, 3 / 7, 4 / 8]))


def test_curve_has_at_most_fifty_points():
    confidences = np.linspace(0.99, 0.5, 200)
    curve = measure(confidences, np.ones(200, bool), np.zeros(200, bool), calibrated(0.7)).curve
    assert len(curve) == 50
    assert [curve[point].answered for point in (0, 1, 49)] == [1 / 200, 5 / 200, 1]
    few = measure(np.ones(3), np.ones(3, bool), np.zeros(3, bool), calibrated(0.7)).curve
    assert [point.answered for point in few] == [1 / 3, 2 / 3, 1]


def test_no_images_cannot_be_measured():
    with pytest.raises(ValueError, match="There are no images"):
        measure(np.zeros(0), np.zeros(0, bool), np.zeros(0, bool), calibrated(0.7))


def test_groups_widen_the_intervals_of_the_answers():
    confidences, correct = np.linspace(0.99, 0.5, 80), np.arange(80) % 16 < 12
    found = [
        measure(confidences, correct, np.zeros(80, bool), calibrated(0.6), groups) for groups in (None, np.arange(80) // 4)
    ]
    for single, grouped in ((getattr(one, name) for one in found) for name in ("answered", "error", "caught")):
        assert (single.value, single.low > grouped.low) == (grouped.value, True)
    assert found[0].curve[-1].error.low > found[1].curve[-1].error.low


def test_nothing_is_answered_without_a_threshold():
    found = measure(np.ones(4), np.array([True, True, True, False]), np.zeros(4, bool), calibrated(None))
    assert (found.answered.value, found.error, found.caught.value) == (0, None, 1)

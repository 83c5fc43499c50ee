"""Postprocessing of logits, against values computed by hand."""

import math

import numpy as np
import pytest

from graft.service.inference.postprocess import (
    LabelProbability,
    above_threshold,
    label_names,
    log_odds,
    prediction_set,
    rank,
    to_probabilities,
)

LABELS = ("ants", "bees", "wasps")


def test_probabilities_are_the_softmax():
    result = to_probabilities(np.array([[0.0, math.log(3)]]), 1.0)
    np.testing.assert_allclose(result, [[0.25, 0.75]], rtol=1e-12)


def test_logits_are_divided_by_the_temperature():
    result = to_probabilities(np.array([[0.0, 2 * math.log(3)]]), 2.0)
    np.testing.assert_allclose(result, [[0.25, 0.75]], rtol=1e-12)


def test_rows_are_independent():
    result = to_probabilities(np.array([[0.0, 0.0], [0.0, math.log(9)]], np.float32), 1.0)
    np.testing.assert_allclose(result, [[0.5, 0.5], [0.1, 0.9]], rtol=1e-6)


def test_probabilities_have_double_precision():
    assert to_probabilities(np.zeros((1, 3), np.float32), 1.0).dtype == np.float64


@pytest.mark.parametrize(
    ("logits", "expected"),
    [([1e4, 0, -1e4], [1, 0, 0]), ([-1e4, -1e4, -1e4], [1 / 3] * 3), ([1e4, 1e4, 0], [0.5, 0.5, 0])],
)
def test_huge_logits_do_not_overflow(logits, expected):
    with np.errstate(over="raise", invalid="raise"):
        result = to_probabilities(np.array([logits], np.float32), 1.0)
    np.testing.assert_allclose(result, [expected], atol=1e-12)


def test_rows_of_very_different_size_do_not_disturb_each_other():
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        result = to_probabilities(np.array([[1e4, 0], [-1e4, -1e4 - math.log(3)]]), 1.0)
    np.testing.assert_allclose(result, [[1, 0], [0.75, 0.25]], atol=1e-9)


def test_the_most_probable_label_comes_first():
    assert rank(np.array([0.2, 0.7, 0.1]), LABELS, 3) == (("bees", 0.7), ("ants", 0.2), ("wasps", 0.1))


def test_only_top_k_labels_are_returned():
    assert rank(np.array([0.2, 0.7, 0.1]), LABELS, 1) == (LabelProbability("bees", 0.7),)


def test_ties_keep_the_order_of_the_labels():
    labels = tuple("abcdefghijklmnopqrstuvwxyz")
    ranked = rank(np.full(26, 1 / 26), labels, 26)
    assert tuple(label for label, _ in ranked) == labels


def test_ties_among_many_labels_keep_their_order():
    labels, row = tuple(map(str, range(1000))), np.tile([0.002, 0.001, 0.0], 334)[:1000]
    expected = tuple(map(str, [*range(0, 1000, 3), *range(1, 1000, 3), *range(2, 1000, 3)]))
    assert tuple(label for label, _ in rank(row, labels, 1000)) == expected
    assert label_names(np.ones(1000, bool), row, labels) == expected


def test_probabilities_are_plain_floats():
    [best] = rank(np.array([0.25, 0.75]), ("ants", "bees"), 1)
    assert type(best.probability) is float


def test_multilabel_probabilities_are_sigmoids():
    result = to_probabilities(np.array([[0.0, math.log(3), -math.log(3)]]), 1.0, multilabel=True)
    np.testing.assert_allclose(result, [[0.5, 0.75, 0.25]], rtol=1e-12)


def test_multilabel_logits_are_divided_by_the_temperature():
    result = to_probabilities(np.array([[2 * math.log(3)]]), 2.0, multilabel=True)
    np.testing.assert_allclose(result, [[0.75]], rtol=1e-12)


def test_huge_multilabel_logits_do_not_overflow():
    with np.errstate(over="raise", invalid="raise"):
        result = to_probabilities(np.array([[1e4, -1e4]], np.float32), 1.0, multilabel=True)
    np.testing.assert_allclose(result, [[1, 0]], atol=1e-12)


@pytest.mark.parametrize(
    ("threshold", "members"),
    [(0.3, [True, True, False]), (0.5, [True, False, False]), (0.9, [True, False, False]), (0.0, [True, True, True])],
)
def test_the_prediction_set_holds_labels_above_the_threshold_and_is_never_empty(threshold, members):
    assert prediction_set(np.array([[0.6, 0.3, 0.1]]), threshold).tolist() == [members]


def test_every_row_has_its_own_prediction_set():
    members = prediction_set(np.array([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3]]), np.array([0.9, 0.9, 0.3]))
    assert members.tolist() == [[True, False, False], [False, False, True], [False, True, True]]


def test_multilabel_predictions_use_per_label_thresholds():
    result = above_threshold(np.array([[0.6, 0.3, 0.1], [0.2, 0.1, 0.0]]), np.array([0.7, 0.3, 0.05]))
    assert result.tolist() == [[False, True, True], [False, False, False]]


def test_a_set_is_ordered_by_probability():
    assert label_names(np.array([True, True, False]), np.array([0.2, 0.7, 0.1]), LABELS) == ("bees", "ants")


def test_log_odds_match_hand_computed_values():
    scaled, label = np.log([[1.0, 2.0, 6.0]]), np.array([2])
    assert log_odds(scaled, label).tolist() == [pytest.approx(math.log(6 / 3))]
    assert log_odds(scaled, label, multilabel=True).tolist() == [pytest.approx(math.log(6))]


def test_log_odds_stay_finite_where_the_probability_is_one():
    assert log_odds(np.array([[0.0, 2000.0], [60.0, 0.0]]), np.array([1, 0])).tolist() == [2000.0, 60.0]
    with np.errstate(invalid="raise"):
        assert np.isnan(log_odds(np.full((1, 3), np.nan), np.array([1]))).all()

"""Logits to ranked labels, by numbers that were worked out on paper."""

import math

import numpy as np
import pytest

from graft.service.inference.postprocess import Ranked, conforming, given, log_odds, named, probabilities, rank

LABELS = ("ants", "bees", "wasps")


def test_probabilities_are_the_softmax():
    found = probabilities(np.array([[0.0, math.log(3)]]), 1.0)
    np.testing.assert_allclose(found, [[0.25, 0.75]], rtol=1e-12)


def test_logits_are_divided_by_the_temperature():
    found = probabilities(np.array([[0.0, 2 * math.log(3)]]), 2.0)
    np.testing.assert_allclose(found, [[0.25, 0.75]], rtol=1e-12)


def test_each_row_stands_alone():
    found = probabilities(np.array([[0.0, 0.0], [0.0, math.log(9)]], np.float32), 1.0)
    np.testing.assert_allclose(found, [[0.5, 0.5], [0.1, 0.9]], rtol=1e-6)


def test_probabilities_have_double_precision():
    assert probabilities(np.zeros((1, 3), np.float32), 1.0).dtype == np.float64


@pytest.mark.parametrize(
    ("logits", "expected"),
    [([1e4, 0, -1e4], [1, 0, 0]), ([-1e4, -1e4, -1e4], [1 / 3] * 3), ([1e4, 1e4, 0], [0.5, 0.5, 0])],
)
def test_huge_logits_do_not_overflow(logits, expected):
    with np.errstate(over="raise", invalid="raise"):
        found = probabilities(np.array([logits], np.float32), 1.0)
    np.testing.assert_allclose(found, [expected], atol=1e-12)


def test_the_most_probable_label_comes_first():
    assert rank(np.array([0.2, 0.7, 0.1]), LABELS, 3) == (("bees", 0.7), ("ants", 0.2), ("wasps", 0.1))


def test_only_top_k_are_told():
    assert rank(np.array([0.2, 0.7, 0.1]), LABELS, 1) == (Ranked("bees", 0.7),)


def test_equal_probabilities_keep_the_order_of_the_labels():
    labels = tuple("abcdefghijklmnopqrstuvwxyz")
    ranked = rank(np.full(26, 1 / 26), labels, 26)
    assert tuple(label for label, _ in ranked) == labels


def test_probabilities_are_told_as_plain_floats():
    [best] = rank(np.array([0.25, 0.75]), ("ants", "bees"), 1)
    assert type(best.probability) is float


def test_several_labels_each_have_a_probability_of_their_own():
    found = probabilities(np.array([[0.0, math.log(3), -math.log(3)]]), 1.0, multilabel=True)
    np.testing.assert_allclose(found, [[0.5, 0.75, 0.25]], rtol=1e-12)


def test_several_labels_are_divided_by_the_temperature_too():
    found = probabilities(np.array([[2 * math.log(3)]]), 2.0, multilabel=True)
    np.testing.assert_allclose(found, [[0.75]], rtol=1e-12)


def test_huge_logits_of_several_labels_do_not_overflow():
    with np.errstate(over="raise", invalid="raise"):
        found = probabilities(np.array([[1e4, -1e4]], np.float32), 1.0, multilabel=True)
    np.testing.assert_allclose(found, [[1, 0]], atol=1e-12)


@pytest.mark.parametrize(
    ("threshold", "members"),
    [(0.3, [True, True, False]), (0.5, [True, False, False]), (0.9, [True, False, False]), (0.0, [True, True, True])],
)
def test_the_prediction_set_holds_what_is_probable_enough_and_never_nothing(threshold, members):
    assert conforming(np.array([[0.6, 0.3, 0.1]]), threshold).tolist() == [members]


def test_several_labels_are_given_from_their_own_thresholds_on():
    found = given(np.array([[0.6, 0.3, 0.1], [0.2, 0.1, 0.0]]), np.array([0.7, 0.3, 0.05]))
    assert found.tolist() == [[False, True, True], [False, False, False]]


def test_a_set_is_told_most_probable_first():
    assert named(np.array([True, True, False]), np.array([0.2, 0.7, 0.1]), LABELS) == ("bees", "ants")


def test_log_odds_by_hand():
    scaled, last = np.log([[1.0, 2.0, 6.0]]), np.array([2])
    assert log_odds(scaled, last).tolist() == [pytest.approx(math.log(6 / 3))]
    assert log_odds(scaled, last, multilabel=True).tolist() == [pytest.approx(math.log(6))]


def test_log_odds_stay_finite_where_the_probability_is_one():
    assert log_odds(np.array([[0.0, 2000.0], [60.0, 0.0]]), np.array([1, 0])).tolist() == [2000.0, 60.0]
    assert np.isnan(log_odds(np.full((1, 3), np.nan), np.array([1]))).all()

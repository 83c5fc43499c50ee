"""The losses are what they are called, and their slopes are theirs."""

import numpy as np
import pytest

from graft.training.features.linear_solver import (
    binary_cross_entropy,
    cross_entropy,
    minimise,
    one_hot,
    squared_hinge,
    weights_of,
)

WANTED = np.array([[1, 0, 0], [0, 0, 1]], np.float32)
LOGITS = np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5]], np.float32)


def test_cross_entropy_is_the_right_labels_negative_log_probability():
    losses, _ = cross_entropy(LOGITS, WANTED)
    np.testing.assert_allclose(losses, [[0.169846, 0, 0], [0, 0, 1.098612]], atol=1e-5)


def test_binary_cross_entropy_asks_each_label_on_its_own():
    losses, _ = binary_cross_entropy(LOGITS, WANTED)
    np.testing.assert_allclose(losses, [[0.126928, 0.693147, 0.313262], [0.974077, 0.974077, 0.474077]], atol=1e-5)


def test_squared_hinge_is_nought_beyond_the_margin():
    losses, _ = squared_hinge(LOGITS, WANTED)
    np.testing.assert_allclose(losses, [[0, 1, 0], [2.25, 2.25, 0.25]])


@pytest.mark.parametrize("loss", [cross_entropy, binary_cross_entropy, squared_hinge])
def test_slopes_are_what_a_small_step_changes(loss):
    step, logits = 1e-2, LOGITS + np.float32(0.1)
    for row, column in np.ndindex(2, 3):
        nudge = np.zeros((2, 3), np.float32)
        nudge[row, column] = step
        change = loss(logits + nudge, WANTED)[0].sum() - loss(logits - nudge, WANTED)[0].sum()
        assert loss(logits, WANTED)[1][row, column] == pytest.approx(change / 2 / step, abs=2e-3)


@pytest.mark.parametrize("loss", [cross_entropy, binary_cross_entropy, squared_hinge])
def test_huge_logits_stay_finite_in_single_precision(loss):
    losses, slopes = loss(1e9 * LOGITS, WANTED)
    assert np.isfinite(losses).all()
    assert np.isfinite(slopes).all()
    assert (losses.dtype, slopes.dtype) == (np.float32, np.float32)


def test_a_label_that_no_image_has_gets_a_row_too():
    random = np.random.default_rng(0)
    wanted = np.column_stack([one_hot(np.arange(30) % 2), np.zeros((30, 1), np.float32)])
    rows = minimise(cross_entropy, random.normal(size=(30, 4)).astype(np.float32), wanted, np.ones((30, 1), np.float32), 1.0)
    assert rows.shape == (3, 5)
    assert rows[2, -1] < rows[:2, -1].min() - 3


def test_weights_of_one_label_an_image():
    wanted = one_hot(np.array([0, 0, 0, 1]))
    np.testing.assert_allclose(weights_of(wanted, multilabel=False, balanced=True)[:, 0], [2 / 3, 2 / 3, 2 / 3, 2])
    assert weights_of(wanted, multilabel=False, balanced=False).tolist() == [[1], [1], [1], [1]]


def test_weights_of_several_labels_an_image():
    has = np.array([[True, False], [False, False], [False, False], [False, False]])
    expected = [[2, 0.5], [2 / 3, 0.5], [2 / 3, 0.5], [2 / 3, 0.5]]
    np.testing.assert_allclose(weights_of(one_hot(has), multilabel=True, balanced=True), expected)

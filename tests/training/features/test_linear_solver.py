"""Values and gradients of the losses, and sample weights."""

import numpy as np
import pytest

from graft.training.features.linear_solver import (
    binary_cross_entropy,
    cross_entropy,
    fit_lbfgs,
    one_hot,
    sample_weights,
    squared_hinge,
)

TARGETS = np.array([[1, 0, 0], [0, 0, 1]], np.float32)
LOGITS = np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5]], np.float32)


def test_cross_entropy_is_the_negative_log_probability_of_the_true_label():
    losses, _ = cross_entropy(LOGITS, TARGETS)
    np.testing.assert_allclose(losses, [[0.169846], [1.098612]], atol=1e-5)


def test_binary_cross_entropy_is_computed_per_label():
    losses, _ = binary_cross_entropy(LOGITS, TARGETS)
    np.testing.assert_allclose(losses, [[0.126928, 0.693147, 0.313262], [0.974077, 0.974077, 0.474077]], atol=1e-5)


def test_squared_hinge_is_zero_beyond_the_margin():
    losses, _ = squared_hinge(LOGITS, TARGETS)
    np.testing.assert_allclose(losses, [[0, 1, 0], [2.25, 2.25, 0.25]])


@pytest.mark.parametrize("loss", [cross_entropy, binary_cross_entropy, squared_hinge])
def test_gradients_equal_finite_differences(loss):
    step, logits = 1e-2, LOGITS + np.float32(0.1)
    for row, column in np.ndindex(2, 3):
        nudge = np.zeros((2, 3), np.float32)
        nudge[row, column] = step
        change = loss(logits + nudge, TARGETS)[0].sum() - loss(logits - nudge, TARGETS)[0].sum()
        assert loss(logits, TARGETS)[1][row, column] == pytest.approx(change / 2 / step, abs=2e-3)


@pytest.mark.parametrize("loss", [cross_entropy, binary_cross_entropy, squared_hinge])
def test_losses_of_huge_logits_are_finite(loss):
    losses, gradients = loss(1e9 * LOGITS, TARGETS)
    assert np.isfinite(losses).all()
    assert np.isfinite(gradients).all()
    assert (losses.dtype, gradients.dtype) == (np.float32, np.float32)


def test_label_without_images_gets_parameters():
    random = np.random.default_rng(0)
    targets = np.column_stack([one_hot(np.arange(30) % 2), np.zeros((30, 1), np.float32)])
    parameters = fit_lbfgs(
        cross_entropy, random.normal(size=(30, 4)).astype(np.float32), targets, np.ones((30, 1), np.float32), 1.0
    )
    assert parameters.shape == (3, 5)
    assert parameters[2, -1] < parameters[:2, -1].min() - 3


def test_multiclass_sample_weights():
    targets = one_hot(np.array([0, 0, 0, 1]))
    np.testing.assert_allclose(sample_weights(targets, multilabel=False, balanced=True)[:, 0], [2 / 3, 2 / 3, 2 / 3, 2])
    assert sample_weights(targets, multilabel=False, balanced=False).tolist() == [[1], [1], [1], [1]]


def test_multilabel_sample_weights():
    targets = np.array([[True, False], [False, False], [False, False], [False, False]])
    expected = [[2, 0.5], [2 / 3, 0.5], [2 / 3, 0.5], [2 / 3, 0.5]]
    np.testing.assert_allclose(sample_weights(one_hot(targets), multilabel=True, balanced=True), expected)

"""Losses of two models on the same images, for every metric, against brute force."""

import numpy as np
import pytest

from graft.training.evaluation.paired import paired_losses, per_sample_score

TARGETS = np.array([0] * 6 + [1] * 3 + [2])
CANDIDATE = np.array([0, 0, 0, 0, 0, 1, 1, 1, 0, 2])
BASELINE = np.array([0, 0, 0, 0, 0, 0, 1, 0, 0, 0])


def logits(predicted: np.ndarray) -> np.ndarray:
    return np.eye(3, dtype=np.float32)[predicted]


@pytest.mark.parametrize(
    ("metric", "loss", "baseline"),
    [
        ("accuracy", 2 / 10, 3 / 10),
        ("balanced-accuracy", 1 - (5 / 6 + 2 / 3 + 1) / 3, 1 - (1 + 1 / 3 + 0) / 3),
        # F1 is twice the hits over the images and the predictions of the label.
        ("f1-macro", 1 - (10 / 12 + 4 / 6 + 1) / 3, 1 - (12 / 15 + 2 / 4 + 0) / 3),
    ],
)
def test_losses_are_one_minus_the_metric(metric: str, loss: float, baseline: float):
    found = paired_losses(metric, logits(CANDIDATE), 1.0, logits(BASELINE), 1.0, TARGETS)
    assert (found.loss, found.baseline) == pytest.approx((loss, baseline))
    assert per_sample_score(logits(CANDIDATE), TARGETS, metric).mean() == pytest.approx(1 - loss)
    # Of ten images, macro F1 is not quite linear.
    assert found.gains.mean() == pytest.approx(baseline - loss, abs=0.05 if metric == "f1-macro" else 1e-9)


def test_labels_count_the_same_in_balanced_accuracy():
    gains = paired_losses("balanced-accuracy", logits(CANDIDATE), 1.0, logits(BASELINE), 1.0, TARGETS).gains
    np.testing.assert_allclose(gains, [0] * 5 + [-10 / 18, 0, 10 / 9, 0, 10 / 3])


def test_log_loss_has_the_temperatures_of_both_models():
    found = paired_losses("log-loss", logits(TARGETS), 0.1, logits(TARGETS), 1.0, TARGETS)
    assert found.loss == pytest.approx(np.log(1 + 2 * np.exp(-10)))
    assert found.baseline == pytest.approx(np.log(1 + 2 * np.exp(-1)))
    np.testing.assert_allclose(found.gains, found.baseline - found.loss)

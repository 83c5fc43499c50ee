"""Calibration: temperature, thresholds of multi-label data, and everything that a package stores together."""

import numpy as np
import pytest
from reference_images import reference_images

from graft.service.inference import postprocess
from graft.training.evaluation.calibration import (
    CalibrationSet,
    CalibrationTargets,
    best_f1_thresholds,
    calibrate,
    per_sample_nll,
    temperature,
)
from graft.training.evaluation.outliers import build_neighbors, outlier_k, outlier_scores
from graft.training.evaluation.predictions import Predictions


def single(n: int, seed: int = 0, n_labels: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels sampled from their softmax."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, n_labels)) * 2
    return logits, (logits + random.gumbel(size=logits.shape)).argmax(axis=1)


def several(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and multi-label targets sampled from their sigmoids."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, 4)) * 2
    return logits, random.random(logits.shape) < 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize("sample", [single, several])
@pytest.mark.parametrize("scale", [3.0, 1.0, 0.5])
def test_temperature_undoes_the_scale_of_the_logits(sample, scale: float):
    logits, targets = sample(4000)
    assert temperature((logits * scale).astype(np.float32), targets) == pytest.approx(scale, rel=0.1)


def test_few_images_without_errors_do_not_give_an_extreme_temperature():
    logits = np.tile(np.array([[1.0, 0.0]], np.float32), (10, 1))
    assert 0.5 < temperature(logits, np.zeros(10, np.int64)) <= 1


def test_temperature_minimizes_the_cost():
    logits, labels = single(300, seed=3)
    found = temperature((logits * 2).astype(np.float32), labels)
    grid = np.exp(np.linspace(np.log(0.25), np.log(4), 2001))
    costs = [per_sample_nll(logits * 2, labels, t).sum() + 2.5 * np.log(t) ** 2 for t in grid]
    assert found == pytest.approx(grid[int(np.argmin(costs))], rel=2e-3)


def test_temperature_is_bounded():
    logits, labels = single(500)
    assert temperature((logits * 100).astype(np.float32), labels) == pytest.approx(4, rel=1e-3)
    assert temperature((logits / 100).astype(np.float32), labels) == pytest.approx(0.25, rel=1e-3)


def test_nll_by_hand():
    assert per_sample_nll(np.log([[0.9, 0.1], [0.5, 0.5]]), np.array([0, 1])) == pytest.approx([0.105361, 0.693147], abs=1e-6)
    # Sigmoids of 0 and ln 3 are 1/2 and 3/4.
    assert per_sample_nll(np.array([[0, np.log(3)]]), np.array([[True, False]])) == pytest.approx(
        [(0.693147 + 1.386294) / 2], abs=1e-6
    )


@pytest.mark.parametrize("targets", [np.array([1]), np.array([[False, True]])])
def test_confident_error_has_a_large_finite_nll(targets: np.ndarray):
    assert 1000 < per_sample_nll(np.array([[5000.0, -5000.0]]), targets)[0] < 11_000


def test_best_f1_threshold_by_hand():
    # Predicting the label for the first two images is exactly right.
    probabilities = np.array([[0.9], [0.6], [0.4], [0.1]])
    assert best_f1_thresholds(probabilities, np.array([[True], [True], [False], [False]])) == (0.5,)


@pytest.mark.parametrize(
    ("probabilities", "targets", "threshold"),
    [
        ([0.9, 0.6, 0.6, 0.1], [True, True, False, False], 0.35),  # no threshold has only the second of the equal ones
        ([0.4, 0.8], [True, True], 0.2),  # there is no lower probability
        ([0.9, 0.5, 0.3], [False, True, False], 0.4),
    ],
)
def test_best_f1_threshold_lies_halfway_to_the_next_lower_probability(probabilities, targets, threshold):
    found = best_f1_thresholds(np.array(probabilities)[:, None], np.array(targets)[:, None])
    assert found == (pytest.approx(threshold),)


def test_best_f1_thresholds_are_optimal():
    logits, targets = several(300)
    probabilities = postprocess.to_probabilities(logits, 1.0, multilabel=True)
    found = best_f1_thresholds(probabilities, targets)

    def f1(threshold: float, label: int) -> float:
        predicted = probabilities[:, label] >= threshold
        return 2 * (predicted & targets[:, label]).sum() / (predicted.sum() + targets[:, label].sum())

    for label in range(4):
        assert f1(found[label], label) == max(f1(threshold, label) for threshold in probabilities[:, label])


def test_label_without_validation_images_gets_threshold_one_half():
    assert best_f1_thresholds(np.array([[0.3], [0.8]]), np.array([[False], [False]])) == (0.5,)
    assert postprocess.above_threshold(np.array([[0.5]]), np.array([0.5])).all()


def calibrate_random(n: int, seed: int = 0, wanted: CalibrationTargets = CalibrationTargets()):
    """A calibration on n images with vectors distributed like those of the 400 neighbors; and the neighbors."""
    random = np.random.default_rng(seed)
    logits, labels = single(n, seed)
    neighbors = build_neighbors(reference_images({0: 200, 1: 200}), random.normal(size=(400, 12)) + 1)
    vectors = (random.normal(size=(n, 12)) + 1).astype(np.float32)
    predictions = Predictions(logits.astype(np.float32), vectors, labels, np.arange(n))
    k = outlier_k(400)
    return calibrate(CalibrationSet(predictions, outlier_scores(neighbors, vectors, k), k), 1.0, wanted), neighbors


def test_five_percent_of_in_distribution_images_are_flagged():
    flagged = []
    for seed in range(10):
        calibration, neighbors = calibrate_random(200, seed)
        fresh = np.random.default_rng(seed + 100).normal(size=(200, 12)) + 1
        flagged += [neighbors.outlier_score(vector, calibration.outlier_k) > calibration.outlier_threshold for vector in fresh]
    assert np.mean(flagged) == pytest.approx(0.05, abs=0.02)


def test_distant_image_is_flagged():
    calibration, neighbors = calibrate_random(200)
    assert neighbors.outlier_score(-np.ones(12), calibration.outlier_k) > calibration.outlier_threshold


def test_too_few_images_flag_no_outliers():
    assert calibrate_random(18)[0].outlier_threshold == 2
    assert calibrate_random(19)[0].outlier_threshold < 2


def test_image_at_the_outlier_threshold_is_no_outlier():
    logits, labels = np.tile([[3.0, 0.0]], (19, 1)).astype(np.float32), np.zeros(19, np.int64)
    predictions = Predictions(logits, np.zeros((19, 2), np.float32), labels, np.arange(19))
    found = calibrate(CalibrationSet(predictions, np.linspace(0.1, 1, 19), 3), 1.0)
    assert (found.outlier_threshold, found.outlier_k, found.n_images) == (1, 3, 19)
    assert found.error_levels[-1].answered == 1


def test_wanted_error_is_one_of_the_levels():
    found = calibrate_random(400, wanted=CalibrationTargets(max_error=0.25))[0]
    assert found.max_error == 0.25
    assert 0.25 in [level.max_error for level in found.error_levels]


def test_default_error_leaves_most_images_answered():
    found = calibrate_random(2_000)[0]
    [level] = [level for level in found.error_levels if level.max_error == found.max_error]
    assert level.answered >= 0.8
    assert all(other.answered < 0.8 for other in found.error_levels if other.max_error < level.max_error)


def test_no_error_is_promised_if_too_few_images_can_show_one():
    assert calibrate_random(3)[0].max_error is None


def test_multilabel_calibration_has_thresholds_and_no_prediction_sets():
    logits, targets = several(100)
    predictions = Predictions(logits.astype(np.float32), np.zeros((100, 6), np.float32), targets, np.arange(100))
    found = calibrate(CalibrationSet(predictions, np.linspace(0, 1, 100), 2), 1.0)
    assert (found.coverage, found.set_thresholds, found.max_error, found.error_levels) == (None, None, None, ())
    assert all(0 < threshold < 1 for threshold in found.thresholds)
    assert found.outlier_threshold == pytest.approx(0.96, abs=0.01)

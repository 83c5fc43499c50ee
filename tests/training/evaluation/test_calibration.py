"""Calibration: coverage and precision hold on new images, and too few images give no guarantee."""

import tracemalloc

import numpy as np
import pytest

from graft.service.inference import postprocess
from graft.training.data.dataset import Sample
from graft.training.evaluation.calibration import (
    best_f1_thresholds,
    binomial_cdf,
    build_neighbors,
    calibrate,
    conformal_quantile,
    outlier_k,
    outlier_scores,
    per_sample_nll,
    precision_thresholds,
    reference_samples,
    set_threshold,
    temperature,
)
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


def samples(counts: dict[int, int]) -> list[Sample]:
    """Samples with the given number of images per label."""
    return [
        Sample(f"{label}/{number}", (label,), digest=bytes([label, number % 256, number // 256]))
        for label, count in counts.items()
        for number in range(count)
    ]


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


@pytest.mark.parametrize(("n", "position"), [(9, 9), (18, 18), (19, 18), (99, 90), (999, 900)])
def test_rank_of_the_conformal_quantile(n: int, position: int):
    # ceil((n + 1) * 0.9)
    assert conformal_quantile(np.random.default_rng(0).permutation(np.arange(1.0, n + 1)), 0.9) == position


@pytest.mark.parametrize("n", range(9))
def test_too_few_scores_have_no_conformal_quantile(n: int):
    assert conformal_quantile(np.zeros(n), 0.9) is None
    probabilities = np.full((n, 3), 1 / 3)
    assert set_threshold(probabilities, np.zeros(n, np.int64), 0.9) == 0
    assert postprocess.prediction_set(np.array([[0.98, 0.01, 0.01]]), 0.0).all()


@pytest.mark.parametrize("n", [10, 25, 200])
def test_prediction_sets_have_the_requested_coverage(n: int):
    # Averaged over many validation sets, because the coverage of a single one varies.
    coverages = []
    for seed in range(300):
        logits, labels = single(n + 100, seed)
        probabilities = postprocess.to_probabilities(logits, 1.0)
        in_set = postprocess.prediction_set(probabilities[n:], set_threshold(probabilities[:n], labels[:n], 0.9))
        coverages.append(in_set[np.arange(100), labels[n:]].mean())
    assert 0.89 < np.mean(coverages) < 0.9 + 1 / (n + 1) + 0.02


def test_prediction_sets_of_an_overconfident_network_have_the_requested_coverage():
    logits, labels = single(4000)
    probabilities = postprocess.to_probabilities(logits * 5, 1.0)
    in_set = postprocess.prediction_set(probabilities[2000:], set_threshold(probabilities[:2000], labels[:2000], 0.9))
    assert in_set[np.arange(2000), labels[2000:]].mean() == pytest.approx(0.9, abs=0.03)


def top_label(confidences: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of two labels, of which the first is always predicted, and the true labels."""
    return np.column_stack([confidences, 1 - confidences]), np.where(correct, 0, 1)


@pytest.mark.parametrize(
    ("n", "errors", "rank"),
    [(44, [], None), (45, [], 45), (60, [55], 50), (100, [99], 100), (100, [10], None), (20, [], None), (0, [], None)],
)
def test_precision_threshold_by_hand(n, errors, rank):
    # 0.95 ** 44 > 0.1 > 0.95 ** 45; then 50, 56 and 60 predictions are tested, and 56 with one error are too few.
    confidences = np.linspace(0.99, 0.51, n)
    found = precision_thresholds(*top_label(confidences, ~np.isin(np.arange(n), errors)), 0.95)
    assert found == (rank and confidences[rank - 1], None)


def test_precision_threshold_ends_where_it_fails_first():
    correct = np.ones(300, bool)
    correct[60:80] = False
    confidences = np.linspace(0.99, 0.5, 300)
    found, _ = precision_thresholds(*top_label(confidences, correct), 0.95)
    assert found == confidences[55]  # 45, 50, 56 and then 62 predictions are tested


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
        drawn = random.integers(0, 2000, 150)
        threshold, _ = precision_thresholds(*top_label(confidences[drawn], random.random(150) < accuracy[drawn]), precision)
        if threshold is not None:
            outcomes.append(true_precision[np.searchsorted(confidences, threshold)] >= precision)
    assert len(outcomes) > 40
    assert len(outcomes) - sum(outcomes) <= 0.1 * 400 + 3 * np.sqrt(400 * 0.1 * 0.9)


@pytest.mark.parametrize(
    ("k", "n", "p", "expected"), [(0, 45, 0.05, 0.95**45), (1, 2, 0.5, 0.75), (3, 3, 0.2, 1), (500, 1000, 0.5, 0.5126)]
)
def test_binomial_cdf(k, n, p, expected):
    assert binomial_cdf(k, n, p) == pytest.approx(expected, abs=1e-4)


def test_best_f1_threshold_by_hand():
    # Predicting the label for the first two images is exactly right.
    probabilities = np.array([[0.9], [0.6], [0.4], [0.1]])
    assert best_f1_thresholds(probabilities, np.array([[True], [True], [False], [False]])) == (0.5,)


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


@pytest.mark.parametrize(("n", "k"), [(1, 1), (20, 1), (60, 3), (200, 10), (5000, 10)])
def test_k_of_the_outlier_score(n: int, k: int):
    assert outlier_k(n) == k


def test_small_labels_are_completely_among_the_reference_samples(monkeypatch):
    from graft.training.evaluation import calibration

    monkeypatch.setattr(calibration, "MAX_NEIGHBORS", 30)
    chosen = reference_samples(samples({0: 500, 1: 5, 2: 500}), width=8)
    assert len(chosen) == 30
    assert [sum(sample.label == label for sample in chosen) for label in range(3)] == [13, 5, 12]


def test_reference_samples_do_not_depend_on_order():
    given_samples = samples({0: 50, 1: 50})
    once = {sample.digest for sample in reference_samples(given_samples, width=4_000_000 // 20)}
    again = {sample.digest for sample in reference_samples(given_samples[::-1], width=4_000_000 // 20)}
    assert once == again
    assert len(once) == 20


def calibrate_random(n: int, seed: int = 0):
    """A calibration on n images with vectors distributed like those of the 400 neighbors; and the neighbors."""
    random = np.random.default_rng(seed)
    logits, labels = single(n, seed)
    neighbors = build_neighbors(samples({0: 200, 1: 200}), random.normal(size=(400, 12)) + 1)
    validation = Predictions(logits.astype(np.float32), (random.normal(size=(n, 12)) + 1).astype(np.float32), labels)
    return calibrate(validation, 1.0, neighbors), neighbors


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


def test_too_few_validation_images_flag_no_outliers():
    assert calibrate_random(18)[0].outlier_threshold == 2
    assert calibrate_random(19)[0].outlier_threshold < 2


def test_multilabel_calibration_has_thresholds_and_no_prediction_sets():
    logits, targets = several(100)
    neighbors = build_neighbors(samples({0: 40}), np.random.default_rng(0).normal(size=(40, 6)))
    vectors = np.random.default_rng(1).normal(size=(100, 6)).astype(np.float32)
    found = calibrate(Predictions(logits.astype(np.float32), vectors, targets), 1.0, neighbors)
    assert (found.coverage, found.set_threshold) == (None, None)
    assert all(0 < threshold < 1 for threshold in found.thresholds)


def test_batched_outlier_scores_match_single_ones():
    vectors = np.random.default_rng(0).normal(size=(1_100, 8)).astype(np.float32)
    neighbors = build_neighbors(samples({0: 30}), vectors[:30])
    expected = [neighbors.outlier_score(vector, 3) for vector in vectors]
    np.testing.assert_allclose(outlier_scores(neighbors, vectors, 3), expected, atol=2e-6)
    assert outlier_scores(neighbors, vectors[:0], 3).shape == (0,)


def test_distance_matrix_is_never_completely_in_memory():
    vectors = np.random.default_rng(0).normal(size=(20_000, 8)).astype(np.float32)
    neighbors = build_neighbors(samples({0: 1_000}), vectors[:1_000])
    tracemalloc.start()
    outlier_scores(neighbors, vectors, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 20_000 * 1_000 / 2

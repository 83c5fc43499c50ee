"""Prediction sets: the coverage holds on new images, for each label where it has images enough, and for whole groups."""

import numpy as np
import pytest

from graft.service.inference import postprocess
from graft.training.evaluation.prediction_sets import conformal_quantile, min_images, set_thresholds


def single(n: int, seed: int = 0, n_labels: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels sampled from their softmax."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, n_labels)) * 2
    return logits, (logits + random.gumbel(size=logits.shape)).argmax(axis=1)


def thresholds_of(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.array(set_thresholds(probabilities, labels, 0.9).thresholds)


def with_a_hard_label(n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels: images of the last of four labels look like one of the third more often than not."""
    labels = random.choice(4, n, p=[0.4, 0.3, 0.2, 0.1])
    logits = random.normal(size=(n, 4)) * 1.2
    logits[np.arange(n), labels] += np.array([5.0, 4.0, 3.0, 0.5])[labels]
    logits[labels == 3, 2] += 1.5
    return postprocess.to_probabilities(logits, 1.0), labels


@pytest.mark.parametrize(("n", "position"), [(9, 9), (18, 18), (19, 18), (99, 90), (999, 900)])
def test_rank_of_the_conformal_quantile(n: int, position: int):
    # ceil((n + 1) * 0.9)
    assert conformal_quantile(np.random.default_rng(0).permutation(np.arange(1.0, n + 1)), 0.9) == position


@pytest.mark.parametrize("n", range(9))
def test_too_few_scores_have_no_conformal_quantile(n: int):
    assert conformal_quantile(np.zeros(n), 0.9) is None
    probabilities = np.full((n, 3), 1 / 3)
    found = set_thresholds(probabilities, np.zeros(n, np.int64), 0.9)
    assert found == ((0, 0, 0), (False, False, False))
    assert postprocess.prediction_set(np.array([[0.98, 0.01, 0.01]]), np.zeros(3)).all()


@pytest.mark.parametrize("n", [10, 25, 200])
def test_prediction_sets_have_the_requested_coverage(n: int):
    # Averaged over many validation sets, because the coverage of a single one varies.
    coverages = []
    for seed in range(300):
        logits, labels = single(n + 100, seed)
        probabilities = postprocess.to_probabilities(logits, 1.0)
        in_set = postprocess.prediction_set(probabilities[n:], thresholds_of(probabilities[:n], labels[:n]))
        coverages.append(in_set[np.arange(100), labels[n:]].mean())
    assert 0.89 < np.mean(coverages) < 0.9 + 1 / (n + 1) + 0.02


def test_prediction_sets_of_an_overconfident_network_have_the_requested_coverage():
    logits, labels = single(4000)
    probabilities = postprocess.to_probabilities(logits * 5, 1.0)
    in_set = postprocess.prediction_set(probabilities[2000:], thresholds_of(probabilities[:2000], labels[:2000]))
    assert in_set[np.arange(2000), labels[2000:]].mean() == pytest.approx(0.9, abs=0.03)


def test_every_label_with_enough_images_is_covered():
    random, covered, shared = np.random.default_rng(0), [], []
    for _ in range(60):
        probabilities, labels = with_a_hard_label(1_600, random)
        thresholds, by_label = set_thresholds(probabilities[:600], labels[:600], 0.9)
        assert by_label == (True, True, True, True)
        new, true = probabilities[600:], labels[600:]
        rows = np.arange(1_000)
        in_set = postprocess.prediction_set(new, np.array(thresholds))[rows, true]
        covered.append([in_set[true == label].mean() for label in range(4)])
        one_for_all = 1 - conformal_quantile(1 - probabilities[np.arange(600), labels[:600]], 0.9)
        shared.append(postprocess.prediction_set(new, np.full(4, one_for_all))[rows, true][true == 3].mean())
    assert np.mean(covered, axis=0).min() > 0.89
    assert np.mean(shared) < 0.7  # the reason for thresholds by label


def test_rare_labels_share_a_threshold():
    random = np.random.default_rng(0)
    probabilities, labels = random.dirichlet(np.ones(4), 124), np.repeat([0, 1, 2, 3], [100, 10, 10, 4])
    thresholds, by_label = set_thresholds(probabilities, labels, 0.9)
    assert by_label == (True, False, False, False)
    assert thresholds[1] == thresholds[2] == thresholds[3] != thresholds[0]
    scores = 1 - probabilities[100 + np.arange(24), labels[100:]]
    assert thresholds[1] == pytest.approx(1 - conformal_quantile(scores, 0.9))


def test_few_images_of_rare_labels_share_the_threshold_of_all():
    random = np.random.default_rng(0)
    probabilities, labels = random.dirichlet(np.ones(3), 104), np.repeat([0, 1, 2], [100, 2, 2])
    thresholds, by_label = set_thresholds(probabilities, labels, 0.9)
    assert by_label == (True, False, False)
    assert thresholds[1] == pytest.approx(1 - conformal_quantile(1 - probabilities[np.arange(104), labels], 0.9))


@pytest.mark.parametrize(("coverage", "n"), [(0.9, 18), (0.95, 38), (0.5, 2)])
def test_images_for_a_threshold_of_its_own(coverage, n):
    assert min_images(coverage) == n


def test_a_group_counts_once():
    scores = np.arange(200.0)
    assert conformal_quantile(scores, 0.9) == 180  # the 181st
    assert conformal_quantile(scores, 0.9, n_effective=20) == 189  # the 19th of 20 clusters
    probabilities, labels = np.full((200, 2), 0.5), np.repeat([0, 1], 100)
    assert set_thresholds(probabilities, labels, 0.9).by_label == (True, True)
    assert set_thresholds(probabilities, labels, 0.9, np.arange(200) // 10).by_label == (False, False)


def test_sets_cover_new_groups():
    # The images of a group share most of their error, so 20 groups of 10 images tell little more than 20 images.
    random, coverages = np.random.default_rng(0), []
    for _ in range(300):
        logits = np.repeat(random.normal(size=(40, 1, 4)) * 2, 10, axis=1) + random.normal(size=(40, 10, 4)) * 0.3
        labels = np.repeat((logits.mean(axis=1) + random.gumbel(size=(40, 4))).argmax(axis=1), 10)
        probabilities = postprocess.to_probabilities(logits.reshape(400, 4), 1.0)
        thresholds = np.array(set_thresholds(probabilities[:200], labels[:200], 0.9, np.arange(200) // 10).thresholds)
        coverages.append(postprocess.prediction_set(probabilities[200:], thresholds)[np.arange(200), labels[200:]].mean())
    assert np.mean(coverages) > 0.89

"""Macro F1 against a brute-force computation, and the influence of images against resampling."""

import numpy as np
import pytest

from graft.training.evaluation.macro_f1 import macro_f1, paired_gains, pseudo_values

N = 600


def naive_macro_f1(predicted: np.ndarray, targets: np.ndarray) -> float:
    scores = []
    for label in set(targets.tolist()):
        precision_cases, recall_cases = predicted == label, targets == label
        hits = (precision_cases & recall_cases).sum()
        scores.append(2 * hits / (precision_cases.sum() + recall_cases.sum()))
    return float(np.mean(scores))


@pytest.fixture(scope="module")
def models() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A better and a worse model's predictions of imbalanced labels, and the labels."""
    random = np.random.default_rng(3)
    targets = random.choice(4, N, p=[0.6, 0.25, 0.1, 0.05])
    candidate, baseline = (np.where(random.random(N) < rate, targets, random.integers(0, 4, N)) for rate in (0.75, 0.7))
    return candidate, baseline, targets


def test_macro_f1_is_the_mean_over_labels(models):
    candidate, _, targets = models
    assert macro_f1(candidate, targets) == pytest.approx(naive_macro_f1(candidate, targets))
    assert macro_f1(np.array([0, 0, 1]), np.array([0, 1, 1])) == pytest.approx(2 / 3)


def test_labels_without_images_do_not_count():
    assert macro_f1(np.array([0, 0, 2]), np.array([0, 0, 0])) == pytest.approx(0.8)


def test_pseudo_values_have_the_mean_and_the_variance_of_macro_f1(models):
    candidate, _, targets = models
    values = pseudo_values(candidate, targets)
    assert values.mean() == pytest.approx(naive_macro_f1(candidate, targets))
    everything = np.arange(N)
    left_out = np.array([naive_macro_f1(candidate[everything != row], targets[everything != row]) for row in everything])
    jackknife = (N - 1) * (left_out.mean() - left_out)
    np.testing.assert_allclose(values - values.mean(), jackknife, atol=0.25)  # of values from -3 to 7
    assert np.corrcoef(values, jackknife)[0, 1] > 0.999


def test_gain_is_that_of_the_two_scores_and_varies_like_it(models):
    candidate, baseline, targets = models
    gains = paired_gains(candidate, baseline, targets)
    assert gains.mean() == pytest.approx(naive_macro_f1(candidate, targets) - naive_macro_f1(baseline, targets), abs=1e-3)
    random, resampled = np.random.default_rng(0), []
    for _ in range(2_000):
        rows = random.integers(0, N, N)
        resampled.append(naive_macro_f1(candidate[rows], targets[rows]) - naive_macro_f1(baseline[rows], targets[rows]))
    assert gains.std() / N**0.5 == pytest.approx(np.std(resampled), rel=0.08)


def test_two_images_of_a_rare_label_are_no_certain_proof():
    targets = np.array([0] * 98 + [1] * 2)
    gains = paired_gains(targets, np.zeros(100, np.int64), targets)
    assert gains.mean() / (gains.std() / 10) < 2

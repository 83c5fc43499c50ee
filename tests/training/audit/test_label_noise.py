"""The noise rate of labels, and the probability that each is wrong, on planted errors."""

import numpy as np
import pytest

from graft.training.audit.label_noise import TEMPERATURES, fit_label_noise

N_LABELS = 5


def predicted(n: int, rate: float, sharpness: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Calibrated probabilities (N, C) that are made too unsure, given labels, and which of these are wrong."""
    random = np.random.default_rng(seed)
    logits = sharpness * random.normal(size=(n, N_LABELS))
    true = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
    wrong = random.random(n) < rate
    given = np.where(wrong, (true + random.integers(1, N_LABELS, n)) % N_LABELS, true)
    unsure = np.exp(0.6 * logits)
    return unsure / unsure.sum(axis=1, keepdims=True), given, wrong


@pytest.mark.parametrize("rate", [0, 0.02, 0.05, 0.1])
@pytest.mark.parametrize("sharpness", [4, 10])
def test_noise_rate_is_that_of_the_planted_errors(rate: float, sharpness: float):
    probabilities, given, wrong = predicted(3_000, rate, sharpness)
    assert fit_label_noise(probabilities, given).rate == pytest.approx(wrong.mean(), abs=0.012)


@pytest.mark.parametrize("power", [0.25, 1, 1.5])
def test_noise_has_the_highest_likelihood_of_all_rates_and_temperatures(power: float):
    probabilities, given, _ = predicted(400, 0.08, 5)
    probabilities = probabilities**power / (probabilities**power).sum(axis=1, keepdims=True)
    best = (-np.inf, 0.0, np.zeros(400))
    for temperature in TEMPERATURES:
        powers = probabilities ** (1 / temperature)
        right = powers[np.arange(400), given] / powers.sum(axis=1)
        other = (1 - right) / (N_LABELS - 1)
        for rate in np.linspace(0.001, 0.3, 300):
            likelihood = np.log((1 - rate) * right + rate * other).sum()
            best = max(best, (likelihood, rate, rate * other / ((1 - rate) * right + rate * other)), key=lambda fit: fit[0])
    noise = fit_label_noise(probabilities, given)
    assert noise.rate == pytest.approx(best[1], abs=0.001)
    np.testing.assert_allclose(noise.error_probability, best[2], atol=0.01)


@pytest.mark.parametrize("n_first", [30, 100, 300])
def test_probabilities_are_the_share_of_errors_among_the_first(n_first: int):
    probabilities, given, wrong = predicted(3_000, 0.05, 6)
    error_probability = fit_label_noise(probabilities, given).error_probability
    first = np.argsort(-error_probability, kind="stable")[:n_first]
    assert error_probability[first].mean() == pytest.approx(wrong[first].mean(), abs=0.1)


def test_sum_of_the_probabilities_is_the_number_of_errors():
    noise = fit_label_noise(*predicted(500, 0.1, 8)[:2])
    assert noise.error_probability.mean() == pytest.approx(noise.rate, abs=1e-4)


def test_labels_that_the_model_is_certain_of_are_finite():
    noise = fit_label_noise(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), np.array([0, 1, 1]))
    assert np.isfinite(noise.error_probability).all()
    assert noise.error_probability[2] > 0.9

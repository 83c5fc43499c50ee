"""The label frequencies that probabilities assume: chosen by the metric, and moved by a shift of the logits."""

import numpy as np
import pytest

from graft.service.inference.postprocess import to_probabilities
from graft.service.manifest import LabelFrequencies
from graft.training.evaluation import label_frequencies
from graft.training.evaluation.calibration import per_sample_nll
from graft.training.evaluation.label_frequencies import as_trained, assumed_frequencies, learned_frequencies, log_ratio
from graft.training.evaluation.macro_f1 import macro_f1
from graft.training.evaluation.predictions import Predictions

TRAINING = np.array([0.8, 0.15, 0.05])
N = 3_000


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of an exact model under the frequencies TRAINING, and the labels: Gaussians with overlap."""
    random = np.random.default_rng(1)
    targets = random.choice(3, N, p=TRAINING)
    centers = np.array([[0.0, 0.0], [1.5, 0.0], [0.0, 1.5]])
    points = centers[targets] + random.normal(size=(N, 2))
    likelihoods = -((points[:, None] - centers) ** 2).sum(axis=2) / 2
    return likelihoods + np.log(TRAINING), targets


def test_frequencies_are_shares_of_the_training_images():
    np.testing.assert_allclose(label_frequencies.training_frequencies([6, 3, 1]), [0.6, 0.3, 0.1])


@pytest.mark.parametrize("metric", ["log-loss", "accuracy"])
def test_the_default_metric_assumes_the_training_frequencies(images, metric: str):
    logits, targets = images
    assert assumed_frequencies(metric, TRAINING, logits, 1.0, targets) is TRAINING


def test_balanced_accuracy_assumes_equal_frequencies(images):
    logits, targets = images
    np.testing.assert_allclose(assumed_frequencies("balanced-accuracy", TRAINING, logits, 1.0, targets), 1 / 3)


def test_macro_f1_assumes_the_best_frequencies_between(images):
    log_probabilities, targets = images
    scores = {}
    for exponent in (0, 0.25, 0.5, 0.75, 1):
        shifted = log_probabilities + (exponent - 1) * np.log(TRAINING)
        scores[exponent] = macro_f1(shifted.argmax(axis=1), targets)
    best = max(scores, key=lambda exponent: scores[exponent])
    assert 0 < best < 1
    expected = TRAINING**best / (TRAINING**best).sum()
    np.testing.assert_allclose(assumed_frequencies("f1-macro", TRAINING, 3 * log_probabilities, 3.0, targets), expected)


def test_ties_of_macro_f1_keep_the_training_frequencies():
    certain = np.array([[50.0, 0.0], [0.0, 50.0]])
    training = np.array([0.9, 0.1])
    assert assumed_frequencies("f1-macro", training, certain, 1.0, np.array([0, 1])) is training


@pytest.mark.parametrize(("exponent", "scale"), [(0.0, 1.0), (0.5, 2.0), (1.0, 0.5)])
def test_learned_frequencies_and_temperature_are_found(images, exponent: float, scale: float):
    log_probabilities, targets = images
    learned = TRAINING**exponent / (TRAINING**exponent).sum()
    logits = (scale * (log_probabilities + log_ratio(learned, TRAINING))).astype(np.float32)
    found, temperature = learned_frequencies(TRAINING, logits, targets)
    np.testing.assert_allclose(found, learned)
    assert temperature == pytest.approx(scale, rel=0.05)


def test_a_shifted_model_is_measured_under_the_training_frequencies(images):
    log_probabilities, targets = images
    frequencies = LabelFrequencies(training=tuple(TRAINING), assumed=(1 / 3,) * 3)
    shifted = 2 * (log_probabilities + log_ratio(frequencies.assumed, TRAINING))
    predictions = Predictions(shifted.astype(np.float32), np.zeros((N, 1), np.float32), targets, np.arange(N))
    natural = as_trained(predictions, 2.0, frequencies)
    np.testing.assert_allclose(to_probabilities(natural.logits, 2.0), to_probabilities(log_probabilities, 1.0), atol=1e-5)
    assert per_sample_nll(natural.logits, targets, 2.0).mean() < per_sample_nll(shifted, targets, 2.0).mean()
    assert as_trained(predictions, 2.0, LabelFrequencies(training=tuple(TRAINING), assumed=tuple(TRAINING))) is predictions


@pytest.mark.parametrize(
    ("assumed", "text"),
    [
        ((0.6, 0.3, 0.1), "The probabilities assume the label frequencies of the training images."),
        (
            (1 / 3, 1 / 3, 1 / 3),
            "The probabilities assume equally frequent labels; among the training images, the most frequent label is 6.0 times"
            " as frequent as the rarest.",
        ),
        (
            (0.5, 0.3, 0.2),
            "The probabilities assume that the most frequent label is 2.5 times as frequent as the rarest; among the training"
            " images, the most frequent label is 6.0 times as frequent as the rarest.",
        ),
    ],
)
def test_assumption_as_a_sentence(assumed: tuple[float, ...], text: str):
    assert LabelFrequencies(training=(0.6, 0.3, 0.1), assumed=assumed).to_text() == text

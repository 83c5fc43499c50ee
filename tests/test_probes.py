"""The head is scikit-learn's logistic regression, written as one matrix for raw vectors."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from service.engine import LOGITS, VECTORS, Graph
from training import backbones, graphs
from training.probes import STRENGTHS, Head, choose_strength, fit, with_head


def clouds(n_labels: int, noise: float, n: int = 240, width: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Labelled vectors (1, n, width) around one centre for each label, far from the origin and on an odd scale."""
    random = np.random.default_rng(0)
    labels = np.arange(n) % n_labels
    vectors = random.normal(size=(n_labels, width))[labels] + noise * random.normal(size=(n, width))
    return (7 * vectors + 30).astype(np.float32)[None], labels


@pytest.mark.parametrize("n_labels", [2, 3])
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_head_decides_as_logistic_regression_on_standardised_vectors(n_labels: int, strength: float):
    vectors, labels = clouds(n_labels, noise=1.5)
    standard = (vectors[0] - vectors[0].mean(axis=0)) / vectors[0].std(axis=0).mean()
    decision = LogisticRegression(C=strength, max_iter=2000, tol=1e-4).fit(standard, labels).decision_function(standard)
    logits = fit(vectors, labels, strength)(vectors[0])
    assert logits.shape == (240, n_labels)
    found = logits[:, 1] - logits[:, 0] if n_labels == 2 else logits
    np.testing.assert_allclose(found, decision, atol=1e-4)


def test_head_is_float32_and_remembers_its_strength():
    head = fit(*clouds(3, noise=1.5), 0.1)
    assert (head.weight.dtype, head.bias.dtype, head.strength) == (np.float32, np.float32, 0.1)


def test_two_equal_views_weigh_as_much_as_one():
    vectors, labels = clouds(3, noise=1.5)
    one, two = fit(vectors, labels, 0.1), fit(np.concatenate([vectors, vectors]), labels, 0.1)
    np.testing.assert_allclose(one(vectors[0]), two(vectors[0]), atol=5e-3)


def test_vectors_that_never_change_make_no_nan():
    head = fit(np.ones((1, 20, 4), np.float32), np.arange(20) % 2, 1.0)
    assert np.isfinite(head(np.ones((1, 4), np.float32))).all()


def test_best_strength_lies_inside_the_search_for_noisy_labels():
    vectors, labels = clouds(3, noise=2.5)
    trials = choose_strength(vectors, labels, n_folds=5, seed=0)
    best = min(trials, key=lambda strength: trials[strength])
    assert STRENGTHS[0] < best < max(trials)


def test_search_stops_once_weaker_regularisation_only_overfits():
    random = np.random.default_rng(0)
    pure_noise = random.normal(size=(1, 200, 60)).astype(np.float32)
    trials = choose_strength(pure_noise, np.arange(200) % 2, n_folds=5, seed=0)
    assert len(trials) < len(STRENGTHS)


def test_same_seed_makes_the_same_trials():
    vectors, labels = clouds(2, noise=2.0)
    assert choose_strength(vectors, labels, 3, seed=4) == choose_strength(vectors, labels, 3, seed=4)


def test_appended_head_gives_the_heads_logits(fitted, tmp_path: Path):
    exported = graphs.export(backbones.choose("tf_efficientnet_lite0"), 128, 28, "crop")
    random = np.random.default_rng(0)
    head = Head(random.normal(size=(3, 1280)).astype(np.float32), np.array([0.0, 10.0, -5.0], np.float32), 1.0)
    (tmp_path / "model.onnx").write_bytes(with_head(exported.graph, head))
    outputs = Graph(tmp_path / "model.onnx")(random.integers(0, 256, (2, 128, 128, 3), dtype=np.uint8))
    np.testing.assert_allclose(outputs[LOGITS], head(outputs[VECTORS]), atol=1e-3)

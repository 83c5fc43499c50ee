"""Training from disk gives the same head as training in memory, with a fraction of the memory."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from graft.training.features import linear_probe, linear_solver, streaming_solver
from graft.training.features.feature_arrays import LazyFeatures, map_rows
from graft.training.features.standardization import fit_standardizer

N_IMAGES, WIDTH = 3_000, 20  # more than one chunk


def write_features(
    path: Path, n_views: int = 2, n_images: int = N_IMAGES, width: int = WIDTH
) -> tuple[LazyFeatures, np.ndarray]:
    """Memory-mapped features in random order, of three labels that are nearly separable."""
    random = np.random.default_rng(0)
    labels = random.choice(3, n_images, p=[0.6, 0.3, 0.1])
    means = random.normal(size=(3, width)).astype(np.float32)
    indices = random.permutation(n_views * n_images).reshape(n_views, n_images)
    rows = np.empty((n_views * n_images, width), np.float16)
    for view in indices:
        rows[view] = 3 + means[labels] + 1.5 * random.normal(size=(n_images, width)).astype(np.float32)
    rows.tofile(path)
    return LazyFeatures(np.asarray(np.memmap(path, np.float16, "r", shape=rows.shape)), indices), labels


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("kind", ["logistic", "svm"])
@pytest.mark.parametrize("multilabel", [False, True])
def test_streamed_solution_equals_the_solution_in_memory(tmp_path: Path, kind: str, multilabel: bool, balanced: bool):
    features, labels = write_features(tmp_path / "features")
    targets = labels[:, None] <= np.arange(3) if multilabel else labels
    standardizer = fit_standardizer(features)
    streamed = streaming_solver.fit_streamed(features, targets, standardizer, kind, balanced, penalty=0.1, tolerance=1e-7)
    target_rows, weights = (
        np.tile(linear_solver.one_hot(targets), (2, 1)),
        linear_solver.sample_weights(linear_solver.one_hot(targets), multilabel, balanced),
    )
    standardized = standardizer.apply(features[:]).reshape(-1, WIDTH)
    weights = np.tile(weights, (2, 1))
    expected = linear_solver.fit_lbfgs(
        linear_solver.get_loss(kind, multilabel), standardized, target_rows, weights, 0.1, tolerance=1e-7
    )
    np.testing.assert_allclose(streamed[:, :-1], expected[:, :-1], atol=1e-4)
    # The bias of a label that every image has does not converge.
    labels_compared = slice(0, 2) if multilabel else slice(None)
    np.testing.assert_allclose(
        streamed[labels_compared, -1] - streamed[labels_compared, -1].mean(),
        expected[labels_compared, -1] - expected[labels_compared, -1].mean(),
        atol=1e-3,
    )


def test_features_too_large_for_memory_are_streamed_and_give_the_same_head(tmp_path: Path, monkeypatch):
    features, labels = write_features(tmp_path / "features", n_views=1)
    in_memory = linear_probe.fit(features[:], labels, 0.01)
    loaded = linear_probe.fit(features, labels, 0.01)
    monkeypatch.setattr(linear_probe, "MAX_IN_MEMORY", 0)
    streamed = linear_probe.fit(features, labels, 0.01)
    np.testing.assert_array_equal(loaded.weight, in_memory.weight)
    np.testing.assert_allclose(streamed(features[0]), in_memory(features[0]), atol=5e-3)
    assert (streamed.weight.dtype, streamed.bias.dtype) == (np.float32, np.float32)


def test_mean_and_scale_are_those_of_all_features(tmp_path: Path):
    features, _ = write_features(tmp_path / "features")
    standardizer = fit_standardizer(features, [slice(0, 5), slice(5, WIDTH)])
    np.testing.assert_allclose(standardizer.mean, features[0].mean(axis=0, dtype=np.float64), rtol=1e-6)
    std = features[0].std(axis=0, dtype=np.float64)
    np.testing.assert_allclose(standardizer.scale, [std[:5].mean()] * 5 + [std[5:].mean()] * 15, rtol=1e-6)


@pytest.mark.slow
def test_training_and_prediction_need_a_fraction_of_the_features_memory(tmp_path: Path):
    features, labels = write_features(tmp_path / "features", 1, 60_000, 300)
    total_bytes = 4 * features.size
    assert features.size > linear_probe.MAX_IN_MEMORY
    tracemalloc.start()
    head = linear_probe.fit(features, labels, 1e-4)
    map_rows(head, LazyFeatures(features.array, features.indices[0]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < total_bytes / 4

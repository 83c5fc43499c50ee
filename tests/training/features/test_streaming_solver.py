"""A head learned from features that stay on disk is the head learned from them in memory, for a fraction of the memory."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from graft.training.features import linear_probe, linear_solver, streaming_solver
from graft.training.features.feature_arrays import Rows
from graft.training.features.streaming_solver import Standard

N_IMAGES, WIDTH = 3_000, 20  # more than one piece


def stored(path: Path, n_views: int = 2, n_images: int = N_IMAGES, width: int = WIDTH) -> tuple[Rows, np.ndarray]:
    """Features in a file, in no order, of three labels that can nearly be told apart."""
    random = np.random.default_rng(0)
    labels = random.choice(3, n_images, p=[0.6, 0.3, 0.1])
    means = random.normal(size=(3, width)).astype(np.float32)
    places = random.permutation(n_views * n_images).reshape(n_views, n_images)
    rows = np.empty((n_views * n_images, width), np.float16)
    for view in places:
        rows[view] = 3 + means[labels] + 1.5 * random.normal(size=(n_images, width)).astype(np.float32)
    rows.tofile(path)
    return Rows(np.asarray(np.memmap(path, np.float16, "r", shape=rows.shape)), places), labels


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("kind", ["logistic", "svm"])
@pytest.mark.parametrize("multilabel", [False, True])
def test_pieces_add_up_to_the_whole(tmp_path: Path, kind: str, multilabel: bool, balanced: bool):
    seen, labels = stored(tmp_path / "features")
    targets = labels[:, None] <= np.arange(3) if multilabel else labels
    mean, scale = linear_probe.standard(seen)
    found = streaming_solver.learn(seen, targets, Standard(mean, scale), kind, balanced, penalty=0.1, tolerance=1e-6)
    wanted, weights = (
        np.tile(linear_solver.one_hot(targets), (2, 1)),
        linear_solver.weights_of(linear_solver.one_hot(targets), multilabel, balanced),
    )
    whole = ((seen[:] - mean) / scale).reshape(-1, WIDTH)
    weights = np.tile(weights, (2, 1))
    expected = linear_solver.minimise(linear_solver.loss_of(kind, multilabel), whole, wanted, weights, 0.1, tolerance=1e-6)
    np.testing.assert_allclose(found[:, :-1], expected[:, :-1], atol=1e-4)
    # A label that every image has drives its own bias on and on.
    some = slice(0, 2) if multilabel else slice(None)
    np.testing.assert_allclose(
        found[some, -1] - found[some, -1].mean(), expected[some, -1] - expected[some, -1].mean(), atol=1e-3
    )


def test_features_that_are_too_many_are_left_on_disk_and_make_the_same_head(tmp_path: Path, monkeypatch):
    seen, labels = stored(tmp_path / "features", n_views=1)
    in_memory = linear_probe.fit(seen[:], labels, 0.01)
    held = linear_probe.fit(seen, labels, 0.01)
    monkeypatch.setattr(linear_probe, "MOST_IN_MEMORY", 0)
    left = linear_probe.fit(seen, labels, 0.01)
    np.testing.assert_array_equal(held.weight, in_memory.weight)
    np.testing.assert_allclose(left(seen[0]), in_memory(seen[0]), atol=5e-3)
    assert (left.weight.dtype, left.bias.dtype, left.strength) == (np.float32, np.float32, 0.01)


def test_mean_and_scale_are_those_of_all_features(tmp_path: Path):
    seen, _ = stored(tmp_path / "features")
    mean, scale = linear_probe.standard(seen, [slice(0, 5), slice(5, WIDTH)])
    np.testing.assert_allclose(mean, seen[0].mean(axis=0, dtype=np.float64), rtol=1e-6)
    spread = seen[0].std(axis=0, dtype=np.float64)
    np.testing.assert_allclose(scale, [spread[:5].mean()] * 5 + [spread[5:].mean()] * 15, rtol=1e-6)


def test_learning_and_answering_take_a_fraction_of_the_features_memory(tmp_path: Path):
    seen, labels = stored(tmp_path / "features", 1, 40_000, 300)
    all_of_them = 4 * seen.size
    assert seen.size > linear_probe.MOST_IN_MEMORY
    tracemalloc.start()
    head = linear_probe.fit(seen, labels, 1e-4)
    head(Rows(seen.stored, seen.places[0]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < all_of_them / 4

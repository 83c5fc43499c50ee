"""A map of features: what is alike lies together, and the same data give the same map."""

import numpy as np
import pytest

from graft.training.interpret.embedding_map import agreement, components, sampled, squared, tsne


def groups(n_each: int = 20, spread: float = 0.05) -> tuple[np.ndarray, list[int]]:
    """Vectors (3 * n_each, 16) in three groups."""
    random = np.random.default_rng(0)
    vectors = np.concatenate([np.eye(16)[group] + random.normal(0, spread, (n_each, 16)) for group in range(3)])
    return vectors.astype(np.float32), [row // n_each for row in range(3 * n_each)]


def test_principal_components_are_ordered_and_share_all_variance():
    along, shares = components(groups()[0])
    assert along.shape == (60, 16)
    assert shares.sum() == pytest.approx(1)
    assert (np.diff(shares) <= 0).all()
    assert along.var(axis=0) / along.var(axis=0).sum() == pytest.approx(shares)


def test_a_vectors_length_says_nothing():
    vectors, _ = groups()
    lengths = np.random.default_rng(1).uniform(0.1, 10, (60, 1)).astype(np.float32)
    np.testing.assert_allclose(components(vectors * lengths)[0], components(vectors)[0], atol=1e-5)


def test_no_map_is_mirrored_by_accident():
    along, _ = components(groups()[0])
    assert (along[np.abs(along).argmax(axis=0), np.arange(16)] > 0).all()


def test_tsne_keeps_groups_together_and_repeats_itself():
    vectors, labels = groups()
    along, _ = components(vectors)
    found = tsne(along)
    assert found.shape == (60, 2)
    assert agreement(found, labels) == 1
    assert np.array_equal(found, tsne(along))


@pytest.mark.parametrize("n_each", [1, 2, 4])
def test_tsne_takes_few_images_too(n_each):
    found = tsne(components(groups(n_each)[0])[0])
    assert found.shape == (3 * n_each, 2)
    assert np.isfinite(found).all()


def test_images_that_are_all_the_same_lie_somewhere():
    along, shares = components(np.ones((12, 5), np.float32))
    assert np.isfinite(along).all()
    assert np.isfinite(shares).all()
    assert np.isfinite(squared(along[:, :2])).all()


def test_agreement_by_hand():
    places = np.array([[0, 0], [0, 1], [5, 5], [5, 6.0], [0, 3]])
    assert agreement(places, [0, 0, 1, 0, 0]) == 0.6


def test_a_map_fills_the_square_in_its_proportions_and_upwards():
    found = squared(np.array([[0, 0], [4, 0], [0, 2.0]]))
    np.testing.assert_allclose(found, [[0, 0.75], [1, 0.75], [0, 0.25]])


def test_a_sample_is_drawn_by_lot_and_always_the_same():
    assert sampled(5, 10).tolist() == [0, 1, 2, 3, 4]
    found = sampled(1000, 10)
    assert len(set(found.tolist())) == 10
    assert found.tolist() == sorted(found.tolist()) == sampled(1000, 10).tolist()

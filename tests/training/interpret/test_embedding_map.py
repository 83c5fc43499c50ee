"""Embedding map: PCA, t-SNE and layout. Similar images are close, and results are reproducible."""

import numpy as np
import pytest

from graft.training.interpret.embedding_map import knn_label_agreement, normalize_layout, pca, sample_rows, tsne


def clusters(n_each: int = 20, spread: float = 0.05) -> tuple[np.ndarray, list[int]]:
    """Vectors (3 * n_each, 16) in three clusters."""
    random = np.random.default_rng(0)
    vectors = np.concatenate([np.eye(16)[group] + random.normal(0, spread, (n_each, 16)) for group in range(3)])
    return vectors.astype(np.float32), [row // n_each for row in range(3 * n_each)]


def test_scoresare_ordered_and_explain_all_variance():
    scores, explained = pca(clusters()[0])
    assert scores.shape == (60, 16)
    assert explained.sum() == pytest.approx(1)
    assert (np.diff(explained) <= 0).all()
    assert scores.var(axis=0) / scores.var(axis=0).sum() == pytest.approx(explained)


def test_pca_ignores_the_vector_norm():
    vectors, _ = clusters()
    lengths = np.random.default_rng(1).uniform(0.1, 10, (60, 1)).astype(np.float32)
    np.testing.assert_allclose(pca(vectors * lengths)[0], pca(vectors)[0], atol=1e-5)


def test_component_signs_are_fixed():
    scores, _ = pca(clusters()[0])
    assert (scores[np.abs(scores).argmax(axis=0), np.arange(16)] > 0).all()


def test_tsne_separates_clusters_and_is_reproducible():
    vectors, labels = clusters()
    scores, _ = pca(vectors)
    result = tsne(scores)
    assert result.shape == (60, 2)
    assert knn_label_agreement(result, labels) == 1
    assert np.array_equal(result, tsne(scores))


@pytest.mark.parametrize("n_each", [1, 2, 4])
def test_tsne_accepts_few_images(n_each):
    result = tsne(pca(clusters(n_each)[0])[0])
    assert result.shape == (3 * n_each, 2)
    assert np.isfinite(result).all()


def test_identical_images_give_finite_coordinates():
    scores, explained = pca(np.ones((12, 5), np.float32))
    assert np.isfinite(scores).all()
    assert np.isfinite(explained).all()
    assert np.isfinite(normalize_layout(scores[:, :2])).all()


def test_label_agreement_of_known_points():
    coordinates = np.array([[0, 0], [0, 1], [5, 5], [5, 6.0], [0, 3]])
    assert knn_label_agreement(coordinates, [0, 0, 1, 0, 0]) == 0.6


def test_layout_fills_the_unit_square_with_its_aspect_ratio():
    result = normalize_layout(np.array([[0, 0], [4, 0], [0, 2.0]]))
    np.testing.assert_allclose(result, [[0, 0.75], [1, 0.75], [0, 0.25]])


def test_sample_is_random_and_deterministic():
    assert sample_rows(5, 10).tolist() == [0, 1, 2, 3, 4]
    result = sample_rows(1000, 10)
    assert len(set(result.tolist())) == 10
    assert result.tolist() == sorted(result.tolist()) == sample_rows(1000, 10).tolist()

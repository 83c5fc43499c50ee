"""The nearest neighbors by cosine similarity: exact for few images, in buckets for many."""

import numpy as np
import pytest

from graft.training.data import vector_neighbors
from graft.training.data.vector_neighbors import BUCKETS_PER_IMAGE, N_NEIGHBORS, _buckets, nearest_pairs
from graft.training.features.feature_arrays import LazyFeatures


def random_vectors(n: int, width: int = 64) -> np.ndarray:
    """In ten clusters, of any length."""
    random = np.random.default_rng(0)
    clustered = random.standard_normal((10, width))[random.integers(0, 10, n)] + random.standard_normal((n, width))
    return (clustered * random.uniform(0.1, 10, (n, 1))).astype(np.float32)


def as_set(pairs: np.ndarray) -> set[tuple[int, int]]:
    return set(map(tuple, pairs.tolist()))


@pytest.mark.parametrize("n", [5, 300])
def test_pairs_are_those_of_the_nearest_neighbors(monkeypatch, n: int):
    monkeypatch.setattr(vector_neighbors, "ROWS", 64)
    monkeypatch.setattr(vector_neighbors, "COLUMNS", 50)
    vectors = random_vectors(n)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -2)
    nearest = np.argsort(-similarity, axis=1)[:, :N_NEIGHBORS]
    expected = {(min(row, other), max(row, other)) for row in range(n) for other in nearest[row].tolist()}
    assert as_set(nearest_pairs(vectors)) == expected


def test_copies_among_many_share_a_bucket(monkeypatch):
    monkeypatch.setattr(vector_neighbors, "MAX_EXACT", 300)
    monkeypatch.setattr(vector_neighbors, "BUCKET_SIZE", 100)
    vectors = random_vectors(2_000)
    vectors[1_000:1_200] = vectors[:200] + 0.05 * np.random.default_rng(1).standard_normal((200, 64)).astype(np.float32)
    found = as_set(nearest_pairs(vectors))
    assert np.mean([(row, 1_000 + row) in found for row in range(200)]) > 0.98
    assert len(found) <= 2_000 * N_NEIGHBORS * vector_neighbors.BUCKETS_PER_IMAGE


def test_each_image_is_in_two_of_the_buckets(monkeypatch):
    monkeypatch.setattr(vector_neighbors, "BUCKET_SIZE", 100)
    monkeypatch.setattr(vector_neighbors, "ROWS", 64)
    buckets = _buckets(random_vectors(1_950))
    assert len(buckets) == 20
    assert np.bincount(np.concatenate(buckets)).tolist() == [BUCKETS_PER_IMAGE] * 1_950
    assert all(len(set(bucket.tolist())) == len(bucket) for bucket in buckets)
    monkeypatch.setattr(vector_neighbors, "MAX_EXACT", 50)  # larger buckets are cut
    cut = _buckets(random_vectors(1_950))
    assert max(map(len, cut)) == 50
    assert np.bincount(np.concatenate(cut)).tolist() == [BUCKETS_PER_IMAGE] * 1_950


def test_vectors_that_are_not_in_memory_give_the_same(tmp_path):
    halves = random_vectors(100).astype(np.float16)
    rows = np.arange(100)[::-1]
    assert as_set(nearest_pairs(LazyFeatures(halves, rows))) == as_set(nearest_pairs(halves[rows].astype(np.float32)))


@pytest.mark.parametrize(("n", "expected"), [(0, []), (1, []), (2, [[0, 1]])])
def test_few_images_have_few_neighbors(n: int, expected: list):
    assert nearest_pairs(random_vectors(n)).tolist() == expected


def test_vectors_of_zeros_are_compared_like_any():
    assert len(nearest_pairs(np.zeros((4, 8), np.float32))) > 0

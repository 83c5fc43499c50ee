"""Outlier scores: the references, the distances to them, and that an image is no neighbor of itself."""

import tracemalloc

import numpy as np
import pytest
from reference_images import reference_images as samples

from graft.service.inference.neighbors import NeighborIndex, l2_normalize
from graft.training.data.dataset import Sample
from graft.training.evaluation.outliers import SharedClusters, build_neighbors, outlier_k, outlier_scores, reference_samples


@pytest.mark.parametrize(("n", "k"), [(1, 1), (20, 1), (60, 3), (200, 10), (5000, 10)])
def test_k_of_the_outlier_score(n: int, k: int):
    assert outlier_k(n) == k


def test_small_labels_are_completely_among_the_reference_samples(monkeypatch):
    from graft.training.evaluation import outliers

    monkeypatch.setattr(outliers, "MAX_NEIGHBORS", 30)
    chosen = reference_samples(samples({0: 500, 1: 5, 2: 500}), width=8)
    assert len(chosen) == 30
    assert [sum(sample.label == label for sample in chosen) for label in range(3)] == [13, 5, 12]


def test_very_wide_vectors_leave_one_reference():
    assert len(reference_samples(samples({0: 3}), width=10**9)) == 1


def test_one_file_listed_with_two_labels_is_two_references():
    twice = [Sample("a", (label,), digest=b"1") for label in (0, 1)]
    assert reference_samples(twice, width=8) == twice


def test_reference_samples_do_not_depend_on_order():
    given_samples = samples({0: 50, 1: 50})
    once = {sample.digest for sample in reference_samples(given_samples, width=4_000_000 // 20)}
    again = {sample.digest for sample in reference_samples(given_samples[::-1], width=4_000_000 // 20)}
    assert once == again
    assert len(once) == 20


def test_batched_outlier_scores_match_single_ones():
    vectors = np.random.default_rng(0).normal(size=(1_100, 8)).astype(np.float32)
    neighbors = build_neighbors(samples({0: 30}), vectors[:30])
    expected = [neighbors.outlier_score(vector, 3) for vector in vectors]
    np.testing.assert_allclose(outlier_scores(neighbors, vectors, 3), expected, atol=2e-6)
    assert outlier_scores(neighbors, vectors[:0], 3).shape == (0,)


def test_distances_do_not_leave_their_range_by_rounding():
    vectors = np.random.default_rng(1).normal(size=(300, 7)).astype(np.float32)
    for row in range(300):
        neighbors = NeighborIndex(l2_normalize(vectors[row : row + 1]), ((0,),), ("a",))
        same, opposite = outlier_scores(neighbors, np.stack([vectors[row], -vectors[row]]), 1)
        assert 0 <= same < 1e-6
        assert 2 - 1e-6 < opposite <= 2


def test_distance_matrix_is_never_completely_in_memory():
    vectors = np.random.default_rng(0).normal(size=(20_000, 8)).astype(np.float32)
    neighbors = build_neighbors(samples({0: 1_000}), vectors[:1_000])
    tracemalloc.start()
    outlier_scores(neighbors, vectors, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 20_000 * 1_000 / 2


def test_an_image_and_its_group_are_not_its_neighbors():
    vectors = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    images = [Sample(str(row), (0,), digest=bytes([row]), group=bytes([row // 4])) for row in range(40)]
    neighbors = build_neighbors(images[:32], vectors[:32])
    found = outlier_scores(neighbors, vectors, 2, SharedClusters.of(images, images[:32]))
    for row in range(40):
        others = [other for other in range(32) if other // 4 != row // 4]
        alone = build_neighbors([images[other] for other in others], vectors[others])
        assert found[row] == pytest.approx(alone.outlier_score(vectors[row], 2), abs=1e-6)


def test_held_out_scores_of_references_are_like_those_of_new_images():
    random = np.random.default_rng(0)
    vectors = (random.normal(size=(300, 12)) + 1).astype(np.float32)
    images = samples({0: 300})
    neighbors = build_neighbors(images, vectors)
    limit = np.quantile(outlier_scores(neighbors, vectors, 10, SharedClusters.of(images, images)), 0.95)
    fresh = (random.normal(size=(2_000, 12)) + 1).astype(np.float32)
    assert (outlier_scores(neighbors, fresh, 10) > limit).mean() == pytest.approx(0.05, abs=0.03)

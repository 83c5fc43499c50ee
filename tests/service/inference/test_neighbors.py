"""Nearest-neighbor distances computed by hand, and files without pickle."""

import numpy as np
import pytest

from graft.service.inference.neighbors import NeighborIndex, Thumbnails, l2_normalize
from graft.service.package_arrays import ContentError


@pytest.fixture
def cross() -> NeighborIndex:
    """Four unit vectors in a plane."""
    vectors = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
    return NeighborIndex(vectors, ((0,), (1,), (0, 1), ()), ("a.png", "ö/b.png", "c|d.png", "d.png"))


@pytest.mark.parametrize(("k", "distance"), [(1, 0), (2, 1), (3, 1), (4, 2)])
def test_the_score_is_the_distance_to_the_kth_nearest(cross: NeighborIndex, k: int, distance: float):
    assert cross.outlier_score(np.array([0, 5], np.float32), k) == pytest.approx(distance)


def test_scores_ignore_vector_length(cross: NeighborIndex):
    assert cross.outlier_score(np.array([3, 3], np.float32), 1) == pytest.approx(1 - np.sqrt(0.5), abs=1e-6)


def test_a_zero_vector_has_distance_one(cross: NeighborIndex):
    assert cross.outlier_score(np.zeros(2, np.float32), 1) == 1


def test_nearest_is_sorted_and_returns_at_most_all(cross: NeighborIndex):
    found = cross.nearest(np.array([1, 0.1], np.float32), 9)
    assert [near.path for near in found] == ["a.png", "ö/b.png", "d.png", "c|d.png"]
    assert [near.row for near in found] == [0, 1, 3, 2]
    assert found[1].labels == (1,)
    assert all(0 <= near.distance <= 2 for near in found)


def test_nearest_has_the_distances(cross: NeighborIndex):
    found = cross.nearest(np.array([3, 4], np.float32), 4)
    assert [near.distance for near in found] == pytest.approx([1 - 0.8, 1 - 0.6, 1 + 0.6, 1 + 0.8], abs=1e-6)


def test_equally_near_images_keep_their_order():
    vectors = np.tile(np.eye(2, dtype=np.float32), (50, 1))
    near = NeighborIndex(vectors, ((0,),) * 100, ("",) * 100)
    assert [one.row for one in near.nearest(vectors[0], 100)] == [*range(0, 100, 2), *range(1, 100, 2)]


def test_score_is_that_of_the_kth_of_many():
    vectors = l2_normalize(np.random.default_rng(2).normal(size=(20_000, 4)))
    near = NeighborIndex(vectors, ((0,),) * 20_000, ("",) * 20_000)
    distances = sorted(near.distances(vectors[7]).tolist())
    for k in (2, 3, 10, 99, 5_000, 12_345):
        assert near.outlier_score(vectors[7], k) == pytest.approx(distances[k - 1])


@pytest.mark.parametrize("length", [1e-6, 0.01, 1, 1e6])
def test_vectors_of_any_length_are_scaled_to_one(length: float):
    assert l2_normalize(np.array([3 * length, 4 * length], np.float32)) == pytest.approx([0.6, 0.8])
    assert l2_normalize(np.zeros((1, 2))).tolist() == [[0, 0]]


def test_scores_stay_in_range():
    random = np.random.default_rng(0)
    vectors = l2_normalize(random.normal(size=(200, 64)))
    near = NeighborIndex(vectors, ((0,),) * 200, ("",) * 200)
    assert all(0 <= near.outlier_score(vector, 1) < 1e-6 for vector in vectors)
    for vector in vectors:
        alone = NeighborIndex(vector[None], ((0,),), ("",))
        assert 2 - 1e-6 < alone.outlier_score(-vector, 1) <= 2
        assert 2 - 1e-6 < alone.nearest(-vector, 1)[0].distance <= 2


def test_save_and_load_round_trip(cross: NeighborIndex, tmp_path):
    cross.save(tmp_path / "neighbors.npz")
    found = NeighborIndex.load(tmp_path / "neighbors.npz")
    assert (found.vectors.tolist(), found.labels, found.paths) == (cross.vectors.tolist(), cross.labels, cross.paths)
    assert found.vectors.dtype == np.float32


def test_vectors_are_stored_as_float16(tmp_path):
    NeighborIndex(np.ones((1000, 100), np.float32), ((0,),) * 1000, ("",) * 1000).save(tmp_path / "neighbors.npz")
    assert (tmp_path / "neighbors.npz").stat().st_size < 210_000 + 10_000


def test_neighbors_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "neighbors.npz", vectors=np.array([print], object), index=np.zeros(1, np.uint8))
    with pytest.raises(ContentError, match=r"has vectors of type \|O"):
        NeighborIndex.load(tmp_path / "neighbors.npz")


def test_thumbnails_round_trip(tmp_path):
    Thumbnails.from_jpegs([b"", b"\xff\xd8one", b"", b"three\0", b""]).save(tmp_path / "thumbnails.npz")
    found = Thumbnails.load(tmp_path / "thumbnails.npz")
    assert [found[row] for row in range(5)] == [None, b"\xff\xd8one", None, b"three\0", None]
    assert len(found) == 5


def test_first_thumbnail_is_found():
    found = Thumbnails.from_jpegs([b"one", b"two"])
    assert [found[0], found[1]] == [b"one", b"two"]


def test_neighbors_without_thumbnails_are_counted(tmp_path):
    Thumbnails.from_jpegs([b""] * 3).save(tmp_path / "thumbnails.npz")
    found = Thumbnails.load(tmp_path / "thumbnails.npz")
    assert (len(found), found[0], found[2], found.content) == (3, None, None, b"")


def test_thumbnails_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "thumbnails.npz", content=np.array([print], object), ends=np.array([1]))
    with pytest.raises(ContentError, match=r"has content of type \|O"):
        Thumbnails.load(tmp_path / "thumbnails.npz")

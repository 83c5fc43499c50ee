"""Near-duplicates: all copies are found without comparing every pair."""

import numpy as np
import pytest

from graft.training.data import near_duplicates
from graft.training.data.near_duplicates import (
    THUMBNAIL_SIDE,
    UnionFind,
    candidate_pairs,
    connected_components,
    dhash,
    to_grayscale,
    verify_pairs,
)

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2)
GRAY = [to_grayscale(picture.astype(np.uint8)) for picture in PICTURES]


def pairs_of(image_ids: np.ndarray) -> np.ndarray:
    """Candidate pairs of images, where image i is `PICTURES[image_ids[i]]`."""
    hashes = np.array([dhash(picture) for picture in GRAY], np.uint64)[image_ids]
    return candidate_pairs(hashes[:, 0].copy(), hashes[:, 1].copy())


def clusters_of(image_ids: np.ndarray) -> list[set[int]]:
    same = verify_pairs(pairs_of(image_ids), lambda rows: (GRAY[image_ids[row]] for row in rows))
    return sorted((set(cluster) for cluster in connected_components(map(tuple, same.tolist()))), key=min)


@pytest.mark.parametrize("n_images", [10, 2_000])
def test_all_copies_of_an_image_form_one_cluster(n_images: int):
    image_ids = np.arange(n_images) % 5
    assert clusters_of(image_ids) == [set(range(number, n_images, 5)) for number in range(5)]


def test_connected_pairs_are_not_verified(monkeypatch):
    n_verified = []
    same = near_duplicates._is_same_image
    monkeypatch.setattr(near_duplicates, "_is_same_image", lambda one, other: n_verified.append(len(one)) or same(one, other))
    image_ids = np.arange(4_000) % 5
    pairs = pairs_of(image_ids)
    assert len(pairs) > 20 * len(image_ids)
    verify_pairs(pairs, lambda rows: (GRAY[image_ids[row]] for row in rows))
    assert sum(n_verified) < 3 * len(image_ids)


def test_hash_collision_is_rejected_by_the_thumbnails():
    pairs = np.array([[0, 1], [1, 2], [0, 2]], np.int32)
    other = np.where(np.indices((THUMBNAIL_SIDE, THUMBNAIL_SIDE)).sum(axis=0) % 2, 255, 0).astype(np.float32)
    thumbnails = [GRAY[0], other, GRAY[0]]
    assert verify_pairs(pairs, lambda rows: (thumbnails[row] for row in rows)).tolist() == [[0, 2]]


def test_union_is_transitive():
    components = UnionFind(5)
    one, other = np.array([0, 0, 3]), np.array([1, 2, 4])
    assert components.separate(one, other).tolist() == [True, True, True]
    components.union([(0, 1), (1, 2)])
    assert components.separate(one, other).tolist() == [False, False, True]


def test_no_images_have_no_pairs():
    empty = np.zeros(0, np.uint64)
    assert candidate_pairs(empty, empty).shape == (0, 2)

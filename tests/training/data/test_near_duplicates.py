"""Near-duplicates: all copies are found without comparing every pair."""

import numpy as np
import pytest

from graft.training.data.near_duplicates import (
    THUMBNAIL_SIDE,
    UnionFind,
    candidate_pairs,
    candidate_pairs_with_mirrors,
    connected_components,
    dhash,
    is_same_image,
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
    same = verify_pairs(pairs_of(image_ids), lambda rows: (GRAY[image_ids[row]] for row in rows), is_same_image)
    return sorted((set(cluster) for cluster in connected_components(map(tuple, same.tolist()))), key=min)


@pytest.mark.parametrize("n_images", [10, 2_000])
def test_all_copies_of_an_image_form_one_cluster(n_images: int):
    image_ids = np.arange(n_images) % 5
    assert clusters_of(image_ids) == [set(range(number, n_images, 5)) for number in range(5)]


def test_connected_pairs_are_not_verified():
    n_verified = []
    image_ids = np.arange(4_000) % 5
    pairs = pairs_of(image_ids)
    assert len(pairs) > 20 * len(image_ids)

    def are_same(one, other):
        n_verified.append(len(one))
        return is_same_image(one, other)

    verify_pairs(pairs, lambda rows: (GRAY[image_ids[row]] for row in rows), are_same)
    assert sum(n_verified) < 3 * len(image_ids)


def test_hash_collision_is_rejected_by_the_thumbnails():
    pairs = np.array([[0, 1], [1, 2], [0, 2]], np.int32)
    other = np.where(np.indices((THUMBNAIL_SIDE, THUMBNAIL_SIDE)).sum(axis=0) % 2, 255, 0).astype(np.float32)
    thumbnails = [GRAY[0], other, GRAY[0]]
    assert verify_pairs(pairs, lambda rows: (thumbnails[row] for row in rows), is_same_image).tolist() == [[0, 2]]


def test_union_is_transitive():
    components = UnionFind(5)
    one, other = np.array([0, 0, 3]), np.array([1, 2, 4])
    assert components.separate(one, other).tolist() == [True, True, True]
    components.union([(0, 1), (1, 2)])
    assert components.separate(one, other).tolist() == [False, False, True]


def test_no_images_have_no_pairs():
    empty = np.zeros(0, np.uint64)
    assert candidate_pairs(empty, empty).shape == (0, 2)


def test_mirror_images_are_paired_with_a_shifted_row():
    pictures = [GRAY[0], GRAY[1], GRAY[0][:, ::-1], GRAY[1], GRAY[2]]
    hashes, mirrored = (np.array([dhash(p) for p in views], np.uint64) for views in (pictures, [p[:, ::-1] for p in pictures]))
    assert candidate_pairs_with_mirrors(hashes, mirrored).tolist() == [[0, 2 + 5], [1, 3]]


def test_image_like_its_own_mirror_image_is_no_pair():
    symmetric = np.concatenate([GRAY[0][:, :16], GRAY[0][:, :16][:, ::-1]], axis=1)
    hashes = np.array([dhash(symmetric)], np.uint64)
    assert candidate_pairs_with_mirrors(hashes, hashes).shape == (0, 2)

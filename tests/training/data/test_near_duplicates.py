"""Near-duplicates: all copies are found without comparing every pair."""

import numpy as np
import pytest

from graft.training.data import near_duplicates
from graft.training.data.near_duplicates import SIDE, Kin, candidates, clusters, grey_of, hash_of, judged

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2)
GREY = [grey_of(picture.astype(np.uint8)) for picture in PICTURES]


def pairs_of(image_ids: np.ndarray) -> np.ndarray:
    """Candidate pairs of images, where image i is `PICTURES[image_ids[i]]`."""
    hashes = np.array([hash_of(picture) for picture in GREY], np.uint64)[image_ids]
    return candidates(hashes[:, 0].copy(), hashes[:, 1].copy())


def clusters_of(image_ids: np.ndarray) -> list[set[int]]:
    same = judged(pairs_of(image_ids), lambda rows: (GREY[image_ids[row]] for row in rows))
    return sorted((set(cluster) for cluster in clusters(map(tuple, same.tolist()))), key=min)


@pytest.mark.parametrize("n_images", [10, 2_000])
def test_all_copies_of_an_image_form_one_cluster(n_images: int):
    image_ids = np.arange(n_images) % 5
    assert clusters_of(image_ids) == [set(range(number, n_images, 5)) for number in range(5)]


def test_connected_pairs_are_not_verified(monkeypatch):
    n_verified = []
    same = near_duplicates._same
    monkeypatch.setattr(near_duplicates, "_same", lambda one, other: n_verified.append(len(one)) or same(one, other))
    image_ids = np.arange(4_000) % 5
    pairs = pairs_of(image_ids)
    assert len(pairs) > 20 * len(image_ids)
    judged(pairs, lambda rows: (GREY[image_ids[row]] for row in rows))
    assert sum(n_verified) < 3 * len(image_ids)


def test_hash_collision_is_rejected_by_the_thumbnails():
    pairs = np.array([[0, 1], [1, 2], [0, 2]], np.int32)
    other = np.where(np.indices((SIDE, SIDE)).sum(axis=0) % 2, 255, 0).astype(np.float32)
    thumbnails = [GREY[0], other, GREY[0]]
    assert judged(pairs, lambda rows: (thumbnails[row] for row in rows)).tolist() == [[0, 2]]


def test_union_is_transitive():
    components = Kin(5)
    one, other = np.array([0, 0, 3]), np.array([1, 2, 4])
    assert components.apart(one, other).tolist() == [True, True, True]
    components.join([(0, 1), (1, 2)])
    assert components.apart(one, other).tolist() == [False, False, True]


def test_no_images_have_no_pairs():
    empty = np.zeros(0, np.uint64)
    assert candidates(empty, empty).shape == (0, 2)

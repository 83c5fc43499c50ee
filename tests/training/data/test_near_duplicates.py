"""Crowds of pictures that show the same: found whole, without comparing each with each."""

import numpy as np
import pytest

from graft.training.data import near_duplicates
from graft.training.data.near_duplicates import SIDE, Kin, candidates, clusters, grey_of, hash_of, judged

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2)
GREY = [grey_of(picture.astype(np.uint8)) for picture in PICTURES]


def pairs_of(shown: np.ndarray) -> np.ndarray:
    """Candidates among images of which number i shows `PICTURES[shown[i]]`."""
    hashes = np.array([hash_of(picture) for picture in GREY], np.uint64)[shown]
    return candidates(hashes[:, 0].copy(), hashes[:, 1].copy())


def found(shown: np.ndarray) -> list[set[int]]:
    same = judged(pairs_of(shown), lambda rows: (GREY[shown[row]] for row in rows))
    return sorted((set(cluster) for cluster in clusters(map(tuple, same.tolist()))), key=min)


@pytest.mark.parametrize("n_images", [10, 2_000])
def test_all_copies_of_a_picture_hang_together(n_images: int):
    shown = np.arange(n_images) % 5
    assert found(shown) == [set(range(number, n_images, 5)) for number in range(5)]


def test_copies_that_hang_together_already_are_not_judged(monkeypatch):
    n_judged = []
    same = near_duplicates._same
    monkeypatch.setattr(near_duplicates, "_same", lambda one, other: n_judged.append(len(one)) or same(one, other))
    shown = np.arange(4_000) % 5
    pairs = pairs_of(shown)
    assert len(pairs) > 20 * len(shown)
    judged(pairs, lambda rows: (GREY[shown[row]] for row in rows))
    assert sum(n_judged) < 3 * len(shown)


def test_a_look_alike_by_its_hash_joins_nobody():
    pairs = np.array([[0, 1], [1, 2], [0, 2]], np.int32)
    other = np.where(np.indices((SIDE, SIDE)).sum(axis=0) % 2, 255, 0).astype(np.float32)
    thumbnails = [GREY[0], other, GREY[0]]
    assert judged(pairs, lambda rows: (thumbnails[row] for row in rows)).tolist() == [[0, 2]]


def test_kin_are_apart_until_they_are_joined_even_through_others():
    kin = Kin(5)
    one, other = np.array([0, 0, 3]), np.array([1, 2, 4])
    assert kin.apart(one, other).tolist() == [True, True, True]
    kin.join([(0, 1), (1, 2)])
    assert kin.apart(one, other).tolist() == [False, False, True]


def test_no_pairs_of_no_images():
    nothing = np.zeros(0, np.uint64)
    assert candidates(nothing, nothing).shape == (0, 2)

"""Near-duplicates: all copies are found without comparing every pair."""

import numpy as np
import pytest

from graft.training.data.near_duplicates import (
    MAX_HAMMING,
    THUMBNAIL_SIDE,
    UnionFind,
    _correlation,
    _high_pass,
    candidate_pairs,
    candidate_pairs_with_mirrors,
    connected_components,
    dhash,
    hamming_distances,
    is_same_image,
    to_bytes,
    to_grayscale,
    verify_pairs,
)

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2)
GRAY = [to_grayscale(picture.astype(np.uint8)) for picture in PICTURES]


def cells(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mean gray of each cell, by dividing each pixel into a whole number of parts per cell."""
    parts = picture.astype(np.float64).repeat(height, axis=0).repeat(width, axis=1)
    return parts.reshape(height, THUMBNAIL_SIDE, width, THUMBNAIL_SIDE).mean(axis=(1, 3))


def as_number(bits: np.ndarray) -> int:
    return int("".join("1" if bit else "0" for bit in bits.ravel()), 2)


@pytest.mark.parametrize("picture", [*GRAY, GRAY[0] / 40])
def test_hash_has_a_bit_for_each_step_up_of_more_than_two_gray_levels(picture: np.ndarray):
    across, down = cells(picture, 8, 9), cells(picture, 9, 8)
    assert dhash(picture) == (as_number(across[:, 1:] - across[:, :-1] > 2), as_number(down[1:] - down[:-1] > 2))


def test_hash_of_a_slope_has_all_bits_of_its_direction():
    slope = np.tile(np.arange(THUMBNAIL_SIDE, dtype=np.float32) * 3, (THUMBNAIL_SIDE, 1))
    assert [dhash(picture) for picture in (slope, slope.T, -slope)] == [(2**64 - 1, 0), (0, 2**64 - 1), (0, 0)]


def test_gray_levels_are_rounded():
    assert to_bytes(np.array([-3, 0.4, 0.6, 1.49, 254.7, 300], np.float32)).tolist() == [0, 0, 1, 1, 255, 255]


def test_distance_counts_the_bits_of_both_hashes():
    horizontal, vertical = np.array([0b1011, 0b0001], np.uint64), np.array([0b1, 0b0], np.uint64)
    assert hamming_distances(horizontal, vertical, np.array([0, 0, 1]), np.array([1, 0, 1])).tolist() == [3, 0, 0]


@pytest.mark.parametrize(("n_different", "found"), [(0, True), (MAX_HAMMING, True), (MAX_HAMMING + 1, False)])
def test_hashes_may_differ_in_eight_bits(n_different: int, found: bool):
    horizontal = np.array([2**32 - 1, 2**32 - 1], np.uint64)
    vertical = np.array([2**20 - 1, (2**20 - 1) ^ ((1 << n_different) - 1)], np.uint64)
    assert (len(candidate_pairs(horizontal, vertical)) == 1) == found


@pytest.mark.parametrize(("n_set", "found"), [(11, False), (12, True), (116, True), (117, False)])
def test_hashes_of_nearly_blank_images_are_passed_over(n_set: int, found: bool):
    bits = (1 << n_set) - 1
    horizontal, vertical = (np.array([value, value], np.uint64) for value in (bits & (2**64 - 1), bits >> 64))
    assert (len(candidate_pairs(horizontal, vertical)) == 1) == found


def test_details_are_what_a_binomial_filter_takes_away():
    images = np.stack(GRAY[:3])
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)), mode="edge")
    weights = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    smooth = sum(weights[y, x] * padded[:, y : y + 32, x : x + 32] for y in range(5) for x in range(5))
    np.testing.assert_allclose(_high_pass(images), images - smooth, atol=1e-3)


def test_correlation_is_that_of_pearson():
    one, other = np.stack(GRAY[:4]), np.stack([GRAY[1], 300 - GRAY[1], 2 * GRAY[2] + 9, np.full_like(GRAY[0], 7)])
    expected = [*(np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(one[:3], other[:3], strict=True)), 0]
    assert _correlation(one, other) == pytest.approx(expected, abs=1e-5)


def test_no_pairs_are_verified_without_reading_any_picture():
    assert verify_pairs(np.zeros((0, 2), np.int32), lambda rows: 1 / 0, is_same_image).shape == (0, 2)


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

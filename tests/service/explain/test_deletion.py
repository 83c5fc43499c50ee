"""The deletion metric: a correct map scores low, a meaningless one is detected."""

import numpy as np
import pytest

from graft.service.explain.deletion import Deletion, area_under_curve, deletion
from graft.service.explain.grids import mask_cells

GRAY = np.array([9, 9, 9], np.uint8)
BLACK = np.zeros((32, 32, 3), np.uint8)
OBJECT = np.s_[4:12, 20:28]  # of the pixels: 2x2 of the 8x8 cells
CORRECT = np.zeros((8, 8), np.float32)
CORRECT[1:3, 5:7] = 1


def visible_share(pixels: np.ndarray) -> float:
    """The fraction of the object that is not masked."""
    return float((pixels[OBJECT] != GRAY).mean())


def test_correct_map_scores_lower_than_its_transforms():
    result = deletion(visible_share, BLACK, CORRECT, GRAY)
    assert result.score < 0.2
    assert result.baseline > 0.4
    assert result.explains


def test_probability_drops_to_zero_for_a_correct_map():
    assert deletion(visible_share, BLACK, CORRECT, GRAY).probabilities == (1, 0, 0, 0, 0, 0, 0, 0, 0)


def test_map_of_another_resolution_is_resampled():
    coarse = np.zeros((4, 4), np.float32)
    coarse[0:2, 2:4] = [[1, 2], [1, 2]]
    assert deletion(visible_share, BLACK, coarse, GRAY).probabilities[2:] == (0,) * 7


def test_random_maps_are_rejected_nine_times_in_ten():
    random = np.random.default_rng(3)
    maps = [random.random((8, 8)).astype(np.float32) for _ in range(60)]
    false_positives = [deletion(visible_share, BLACK, map, GRAY, seed=seed).explains for seed, map in enumerate(maps)]
    assert sum(false_positives) <= 12  # 6 are expected


@pytest.mark.parametrize("map", [np.zeros((8, 8)), np.ones((3, 3)), -CORRECT])
def test_constant_and_inverted_maps_are_rejected(map):
    assert not deletion(visible_share, BLACK, map.astype(np.float32), GRAY).explains


def test_constant_probability_is_rejected():
    result = deletion(lambda _: 0.7, BLACK, CORRECT, GRAY)
    assert (result.score, result.baseline, result.fraction_beaten) == (pytest.approx(0.7), pytest.approx(0.7), 0)
    assert not result.explains


def test_deletion_is_deterministic():
    noise = np.random.default_rng(0).random((8, 8)).astype(np.float32)
    assert deletion(visible_share, BLACK, noise, GRAY) == deletion(visible_share, BLACK, noise, GRAY)


def test_number_of_forward_passes():
    calls = []
    deletion(lambda pixels: calls.append(pixels) or 0.5, BLACK, CORRECT, GRAY, n_steps=4, n_random_maps=5)
    assert len(calls) == 2 + 3 * 6
    assert len(calls[1].reshape(-1, 3)) == (calls[1] == GRAY).all(axis=-1).sum()


def test_cells_are_numbered_row_by_row_and_cover_uneven_sizes():
    pixels = np.zeros((30, 30, 3), np.uint8)
    assert (mask_cells(pixels, np.array([9]), GRAY)[4:8, 4:8] == 9).all()
    assert mask_cells(pixels, np.array([9]), GRAY).sum() == 4 * 4 * 27
    assert (mask_cells(pixels, np.arange(64), GRAY) == 9).all()
    assert not pixels.any()


def test_area_under_a_straight_line_is_half():
    assert area_under_curve((1.0, 0.75, 0.5, 0.25, 0.0)) == 0.5


@pytest.mark.parametrize(("beaten", "expected"), [(1.0, True), (18 / 19, True), (17 / 19, False), (0.0, False)])
def test_map_must_beat_nine_in_ten_transforms(beaten, expected):
    assert Deletion(0.1, 0.5, beaten, ()).explains is expected

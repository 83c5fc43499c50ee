"""Whether a map explains anything: a true one costs the label its probability, one that knows nothing is found out."""

import numpy as np
import pytest

from graft.service.explain.deletion import Deletion, area, deletion
from graft.service.explain.grids import covered

GREY = np.array([9, 9, 9], np.uint8)
BLACK = np.zeros((32, 32, 3), np.uint8)
OBJECT = np.s_[4:12, 20:28]  # of the pixels: 2x2 of the 8x8 cells
TRUE = np.zeros((8, 8), np.float32)
TRUE[1:3, 5:7] = 1


def seen(pixels: np.ndarray) -> float:
    """How much of the object is left."""
    return float((pixels[OBJECT] != GREY).mean())


def test_a_true_map_scores_lower_than_the_same_map_elsewhere():
    found = deletion(seen, BLACK, TRUE, GREY)
    assert found.score < 0.2
    assert found.chance > 0.4
    assert found.explains


def test_the_label_is_gone_once_a_true_map_is_covered():
    assert deletion(seen, BLACK, TRUE, GREY).probabilities == (1, 0, 0, 0, 0, 0, 0, 0, 0)


def test_a_map_on_another_grid_is_understood():
    coarse = np.zeros((4, 4), np.float32)
    coarse[0:2, 2:4] = [[1, 2], [1, 2]]
    assert deletion(seen, BLACK, coarse, GREY).probabilities[2:] == (0,) * 7


def test_maps_that_know_nothing_are_flagged_nine_times_in_ten():
    random = np.random.default_rng(3)
    maps = [random.random((8, 8)).astype(np.float32) for _ in range(60)]
    lucky = [deletion(seen, BLACK, map, GREY, seed=seed).explains for seed, map in enumerate(maps)]
    assert sum(lucky) <= 12  # 6 are expected


@pytest.mark.parametrize("map", [np.zeros((8, 8)), np.ones((3, 3)), -TRUE])
def test_an_empty_map_and_one_of_everything_else_are_flagged(map):
    assert not deletion(seen, BLACK, map.astype(np.float32), GREY).explains


def test_where_nothing_can_be_taken_away_nothing_is_explained():
    found = deletion(lambda _: 0.7, BLACK, TRUE, GREY)
    assert (found.score, found.chance, found.beaten) == (pytest.approx(0.7), pytest.approx(0.7), 0)
    assert not found.explains


def test_the_same_question_gets_the_same_answer():
    noise = np.random.default_rng(0).random((8, 8)).astype(np.float32)
    assert deletion(seen, BLACK, noise, GREY) == deletion(seen, BLACK, noise, GREY)


def test_the_network_is_asked_as_often_as_was_said():
    asked = []
    deletion(lambda pixels: asked.append(pixels) or 0.5, BLACK, TRUE, GREY, steps=4, moves=5)
    assert len(asked) == 2 + 3 * 6
    assert len(asked[1].reshape(-1, 3)) == (asked[1] == GREY).all(axis=-1).sum()


def test_cells_are_counted_row_by_row_and_cover_all_of_uneven_pixels():
    pixels = np.zeros((30, 30, 3), np.uint8)
    assert (covered(pixels, np.array([9]), GREY)[4:8, 4:8] == 9).all()
    assert covered(pixels, np.array([9]), GREY).sum() == 4 * 4 * 27
    assert (covered(pixels, np.arange(64), GREY) == 9).all()
    assert not pixels.any()


def test_the_area_under_a_straight_line_is_half():
    assert area((1.0, 0.75, 0.5, 0.25, 0.0)) == 0.5


@pytest.mark.parametrize(("beaten", "expected"), [(1.0, True), (18 / 19, True), (17 / 19, False), (0.0, False)])
def test_nine_in_ten_other_places_must_be_worse(beaten, expected):
    assert Deletion(0.1, 0.5, beaten, ()).explains is expected

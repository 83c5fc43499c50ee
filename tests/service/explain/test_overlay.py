"""An explanation as a picture: it glows where the label is spoken for, and nowhere else."""

import io

import numpy as np
import pytest
from PIL import Image

from graft.service.explain.explainer import Explanation, Region
from graft.service.explain.overlay import overlay, strength
from graft.service.imaging.preprocess import Decoded


def explained(map: list[list[float]], bias: float = 0.0, colour: int = 128) -> Explanation:
    decoded = Decoded(np.full((32, 32, 3), colour, np.uint8), 40, 40, "PNG", ())
    return Explanation("cat", 0.9, "cam", np.array(map, np.float32), bias, Region(4, 4, 32, 32), decoded)


def drawn(explanation: Explanation) -> np.ndarray:
    image = Image.open(io.BytesIO(overlay(explanation)))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (448, 448))
    return np.asarray(image).astype(int)


def test_overlay_glows_where_the_label_is_spoken_for_and_nowhere_else():
    picture = drawn(explained([[0, 0, 0, 0], [0, 0, 9, 0], [0, 0, 0, 0], [-5, 0, 0, 0]]))
    glow, quiet = picture[168, 280], picture[392, 56]
    assert glow[0] - glow[2] > 40  # warm
    assert glow.sum() > quiet.sum()
    assert np.abs(quiet - 128).max() <= 2


def test_overlay_of_what_nothing_speaks_for_is_the_picture():
    assert np.abs(drawn(explained([[-1, -2], [-3, 0]])) - 128).max() <= 1


def test_overlay_keeps_the_picture_visible_below_the_glow():
    dark, bright = (drawn(explained([[1, 1], [1, 1]], colour=colour)) for colour in (0, 255))
    assert (bright - dark).min() >= 100


@pytest.mark.parametrize(
    ("bias", "expected"),
    [(0, [[0, 0.5], [0.25, 1]]), (4, [[0, 2 / 3], [0.5, 1]]), (-4, [[0, 0], [0, 1]]), (-9, [[0, 0], [0, 0]])],
)
def test_strength_is_of_positions_whose_own_logit_is_above_zero(bias, expected):
    found = strength(explained([[-4, 4], [2, 8]], bias))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float32

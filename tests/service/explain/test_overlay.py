"""The heat map overlay: colored where the label is supported, unchanged elsewhere."""

import io

import numpy as np
import pytest
from PIL import Image

from graft.service.explain.explainer import Explanation, Region
from graft.service.explain.overlay import apply_colormap, contours, normalize, overlay
from graft.service.imaging.preprocess import DecodedImage


def make_explanation(map: list[list[float]], bias: float = 0.0, color: int = 128) -> Explanation:
    decoded = DecodedImage(np.full((32, 32, 3), color, np.uint8), 40, 40, "PNG", ())
    return Explanation("cat", 0.9, "cam", np.array(map, np.float32), bias, Region(4, 4, 32, 32), decoded)


def rendered(explanation: Explanation) -> np.ndarray:
    image = Image.open(io.BytesIO(overlay(explanation)))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (448, 448))
    return np.asarray(image).astype(int)


def test_overlay_is_colored_only_where_the_map_is_positive():
    picture = rendered(make_explanation([[0, 0, 0, 0], [0, 0, 9, 0], [0, 0, 0, 0], [-5, 0, 0, 0]]))
    hot, cold = picture[168, 280], picture[392, 56]
    assert hot[0] - hot[2] > 40  # warm
    assert hot.sum() > cold.sum()
    assert np.abs(cold - 128).max() <= 2


def test_overlay_without_positive_evidence_is_the_image():
    assert np.abs(rendered(make_explanation([[-1, -2], [-3, 0]])) - 128).max() <= 1


def test_image_stays_visible_below_the_heat_map():
    dark, bright = (rendered(make_explanation([[1, 1], [1, 1]], color=color)) for color in (0, 255))
    assert (bright - dark).min() >= 100


@pytest.mark.parametrize(
    ("bias", "expected"),
    [(0, [[0, 0.5], [0.25, 1]]), (4, [[0, 2 / 3], [0.5, 1]]), (-4, [[0, 0], [0, 1]]), (-9, [[0, 0], [0, 0]])],
)
def test_normalize_keeps_positions_with_a_positive_logit(bias, expected):
    found = normalize(make_explanation([[-4, 4], [2, 8]], bias))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float32


def test_contours_lie_on_both_sides_of_each_level():
    inner, outer = contours(np.array([[0.1, 0.1, 0.3, 0.3]], np.float32))
    assert inner.tolist() == [[False, False, True, False]]
    assert outer.tolist() == [[False, True, False, False]]


def test_strongest_evidence_is_yellow_and_the_weakest_violet():
    assert apply_colormap(np.array([0.0, 1.0], np.float32)).tolist() == [[68, 1, 84], [253, 231, 37]]

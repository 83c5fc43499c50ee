"""Each corruption changes pixels as documented."""

import numpy as np
import pytest

from graft.training.config.corruptions import COMMON_CORRUPTIONS
from graft.training.robustness.corruption_ops import (
    CORRUPTION_OPS,
    brightness,
    gaussian_blur,
    gaussian_noise,
    jpeg,
    occlude,
    rotate,
    scale,
    translate,
)


def dot(row: int, column: int, side: int = 9) -> np.ndarray:
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[row, column] = 255
    return pixels


def lit(pixels: np.ndarray) -> list[list[int]]:
    return np.argwhere(pixels[:, :, 0] > 100).tolist()


@pytest.fixture
def square(photo) -> np.ndarray:
    return np.ascontiguousarray(photo[:60, :60])


def random() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("down", "right", "place"), [(0, 0, [4, 4]), (2, 0, [6, 4]), (0, -3, [4, 1]), (-3, 3, [1, 7]), (1, 2, [5, 6])]
)
def test_translated_dot_is_at_the_expected_position(down: int, right: int, place: list[int]):
    assert lit(translate(dot(4, 4), down, right)) == [place]


def test_translation_uses_reflect_padding():
    assert lit(translate(dot(4, 2), 0, 4)) == [[4, 2], [4, 6]]  # reflected at the edge, column 0, which is now column 4


def test_rotation_is_counterclockwise(square):
    np.testing.assert_array_equal(rotate(square, 90), np.rot90(square))
    np.testing.assert_array_equal(rotate(square, -90), np.rot90(square, -1))
    np.testing.assert_array_equal(rotate(square, 180), square[::-1, ::-1])
    np.testing.assert_array_equal(rotate(square, 0), square)


def test_rotation_keeps_the_center_in_place():
    assert lit(rotate(dot(4, 4), 30)) == [[4, 4]]
    far = rotate(dot(50, 90, 101), 30)  # 40 to the right of the center: 20 up and 34.6 to the right of it
    assert np.unravel_index(far[:, :, 0].argmax(), (101, 101)) == (30, 85)


def test_rotated_image_has_no_black_corners():
    white = np.full((40, 40, 3), 255, np.uint8)
    assert (rotate(white, 45) == 255).all()


def test_scaling_up_shows_the_center(square):
    assert scale(square, 1).tolist() == square.tolist()
    middle = square[15:45, 15:45].astype(float).mean(axis=(0, 1))
    np.testing.assert_allclose(scale(square, 2).mean(axis=(0, 1)), middle, atol=1)


def test_scaling_down_shows_the_whole_image_in_the_center(square):
    small = scale(square, 0.5)
    assert small.shape == square.shape
    corner = small[16:44, 16:44].astype(float)  # inside the 30 x 30 pixels that show the whole image
    np.testing.assert_allclose(corner[0, 0], square[2:4, 2:4].mean(axis=(0, 1)), atol=3)
    np.testing.assert_allclose(corner[-1, -1], square[56:58, 56:58].mean(axis=(0, 1)), atol=3)


def test_brightness_multiplies_and_clips_at_white():
    gray = np.array([[[100, 200, 0]]], np.uint8)
    assert brightness(gray, 1.5).tolist() == [[[150, 255, 0]]]
    assert brightness(gray, 0.25).tolist() == [[[25, 50, 0]]]


def test_blurred_dot_is_a_gaussian():
    found = gaussian_blur(dot(15, 15, 31), 2).astype(float)[:, :, 0]
    assert found[15, 15] == found.max() == pytest.approx(255 / (2 * np.pi * 4), abs=2)
    assert found.sum() == pytest.approx(255, rel=0.3)  # rounding to integers removes much of the tails


def test_noise_has_the_requested_standard_deviation():
    gray = np.full((100, 100, 3), 128, np.uint8)
    found = gaussian_noise(gray, 16, random()).astype(float) - 128
    assert found.std() == pytest.approx(16, rel=0.05)
    assert found.mean() == pytest.approx(0, abs=0.5)


def test_jpeg_error_grows_with_quality_loss(square):
    noisy = gaussian_noise(square, 16, random())
    errors = [np.abs(jpeg(noisy, lost).astype(float) - noisy).mean() for lost in (5, 50, 95)]
    assert errors == sorted(errors)
    assert errors[2] > 1.5 * errors[0]


def test_occlusion_covers_a_fraction_of_the_side_with_the_mean_color():
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:20] = 200
    found = occlude(pixels, 0.5, random())
    rows, columns = np.nonzero(found[:, :, 0] == 100)
    assert len(rows) == 400
    assert (np.ptp(rows), np.ptp(columns)) == (19, 19)


@pytest.mark.parametrize("name", CORRUPTION_OPS)
def test_every_severity_keeps_the_size_and_does_not_modify_its_input(name: str, square):
    before = square.copy()
    [corruption] = (kind for kind in COMMON_CORRUPTIONS if kind.name == name)
    for severity in corruption.severities:
        found = CORRUPTION_OPS[name](square, severity, random())
        assert (found.shape, found.dtype) == ((60, 60, 3), np.uint8)
        assert not np.array_equal(found, square)
    np.testing.assert_array_equal(square, before)


@pytest.mark.parametrize("name", ["translation", "rotation"])
def test_direction_is_random(name: str, square):
    results = {
        CORRUPTION_OPS[name](square, 0.1 if name == "translation" else 30, np.random.default_rng(seed)).tobytes()
        for seed in range(9)
    }
    assert len(results) > 1

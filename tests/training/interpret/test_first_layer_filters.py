"""First-layer kernels: detection by shape, rendering as colors, and dead kernels."""

import io

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from graft.training.interpret.first_layer_filters import (
    Filters,
    describe,
    find_first_layer,
    first_filters,
    to_filters,
    to_png,
    to_rgb,
)


def kernels(*largest: float) -> np.ndarray:
    made = np.zeros((len(largest), 3, 3, 3), np.float32)
    made[:, 0, 0, 0] = largest
    return made


def test_default_backbone_has_32_kernels_of_3x3(fitted):
    filters = first_filters(fitted.artifact.weights, 128)
    assert (filters.name, filters.kernels.shape, filters.is_dense) == ("backbone.conv_stem.weight", (32, 3, 3, 3), False)
    assert "kernels of the first layer, 3x3 pixels each" in describe(filters)
    sheet = Image.open(io.BytesIO(to_png(filters)))
    assert (sheet.format, sheet.width) == ("PNG", 20 * 44 - 2)  # tiles of 42 pixels


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ({"b.1": (64, 3, 7, 7), "a.2": (64, 1, 3, 3), "a.3": (10, 64, 1, 1)}, "b.1"),
        ({"a.grouped": (8, 3, 3, 3), "z.stem": (64, 3, 7, 7)}, "z.stem"),
        ({"patch_embed.proj": (192, 3, 16, 16), "head": (10, 192)}, "patch_embed.proj"),
        ({"conv1": (6, 1, 5, 5), "conv2": (16, 6, 5, 5)}, "conv1"),
        ({"a.depthwise": (6, 1, 5, 5), "b.depthwise": (16, 1, 3, 3)}, None),
        ({"hidden": (300, 3 * 28 * 28), "head": (10, 300)}, "hidden"),
        ({"hidden": (300, 28 * 28), "head": (10, 300)}, "hidden"),
        ({"stem": (48, 48, 3, 3), "head": (10, 300)}, None),
    ],
)
def test_first_layer_is_found_by_shape(shapes, expected):
    assert find_first_layer(shapes, 28) == expected


def test_no_first_layer_gives_no_filters(tmp_path):
    save_file({"stem": np.zeros((4, 48, 3, 3), np.float32)}, tmp_path / "w.safetensors")
    assert first_filters(tmp_path / "w.safetensors", 28) is None


def test_dense_weights_are_reshaped_to_images():
    picture = np.arange(3 * 4 * 4, dtype=np.float32).reshape(3, 4, 4)
    filters = to_filters("hidden", picture.reshape(1, -1), 4)
    assert filters.is_dense
    assert np.array_equal(filters.kernels[0], picture.transpose(1, 2, 0))
    assert "weights for 4x4 pixels" in describe(filters)


def test_grayscale_kernels_are_gray():
    filters = to_filters("conv1", np.array([[[[1.0, -1.0]]]], np.float32), 28)
    assert to_rgb(filters.kernels)[0, 0].tolist() == [[255, 255, 255], [0, 0, 0]]


def test_zero_weight_is_gray_and_the_largest_is_saturated():
    made = kernels(2.0, -1.0)
    assert to_rgb(to_filters("a", made, 28).kernels)[:, 0, 0].tolist() == [[255, 128, 128], [0, 128, 128]]


def test_dead_kernel_stays_gray_and_is_counted():
    filters = to_filters("a", kernels(1.0, 0.001, -0.5), 28)
    assert filters.n_dead == 1
    assert np.abs(to_rgb(filters.kernels)[1].astype(int) - 127).max() <= 4
    assert "1 dead kernels (weights close to zero)." in describe(filters)


def test_strongest_filters_are_shown_in_order():
    filters = Filters(
        "a", np.linspace(1, 2, 300, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 1, 3), np.float32), False
    )
    assert len(filters.strongest()) == 128
    assert (np.diff(filters.strongest()[:, 0, 0, 0]) > 0).all()
    assert describe(filters).startswith("The 128 strongest of 300 kernels")


def test_zero_weights_are_gray():
    assert (to_rgb(to_filters("a", kernels(0.0), 28).kernels) == 128).all()

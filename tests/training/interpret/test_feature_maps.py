"""Feature maps of every stage: order, shapes, values and rendering."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from graft.service.networks import network as networks
from graft.training.interpret.feature_maps import (
    LAST_STAGE,
    StageExtractor,
    channel_image,
    export_stages,
    stage_maps,
    tile_channels,
    top_variance_channels,
)


def noise(side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "resnet18",
            {
                "stage1": (64, 32, 32),
                "stage2": (64, 16, 16),
                "stage3": (128, 8, 8),
                "stage4": (256, 4, 4),
                LAST_STAGE: (512, 2, 2),
            },
        ),
        ("vit_tiny_patch16_224", {"stage2": (192, 4, 4), LAST_STAGE: (192, 4, 4)}),
    ],
)
def test_stages_are_in_order_with_their_shapes(pack, tmp_path, name, expected):
    network = networks.load(pack(name, "last").artifact)
    result = stage_maps(export_stages(network, 64, tmp_path), noise())
    assert expected.items() <= {stage: feature_map.shape for stage, feature_map in result.items()}.items()
    assert list(result)[-1] == LAST_STAGE


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_exported_model_matches_torch(pack, tmp_path, name):
    network = networks.load(pack(name, "last").artifact).eval()
    result = stage_maps(export_stages(network, 64, tmp_path), noise())
    with torch.inference_mode():
        expected = StageExtractor(network).eval()(torch.from_numpy(noise())[None])
    assert list(result) == list(expected)
    for stage, feature_map in expected.items():
        np.testing.assert_allclose(result[stage], feature_map[0].numpy(), atol=1e-3 * float(feature_map.abs().max()))


def test_multilayer_perceptron_has_no_stages(pack, tmp_path):
    assert export_stages(networks.load(pack("mlp", "last").artifact), 64, tmp_path) is None


def test_mean_of_the_last_stage_is_the_feature_vector(model, clothes, tmp_path):
    pixels = model.decode(clothes[0][1]).pixels
    result = stage_maps(export_stages(networks.load(model.artifact), 128, tmp_path), pixels)
    vectors = model.engine(pixels[None]).vectors
    np.testing.assert_allclose(result[LAST_STAGE].mean(axis=(1, 2)), vectors[0], rtol=1e-2, atol=1e-3)


def test_top_variance_channels_are_in_ascending_order():
    feature_map = np.zeros((4, 2, 2), np.float32)
    feature_map[1, 0, 0], feature_map[3, 0, 0], feature_map[2] = 5, 9, 7
    assert top_variance_channels(feature_map, 2).tolist() == [1, 3]


def test_channel_image_is_dark_at_the_minimum_and_bright_at_the_maximum():
    result = channel_image(np.array([[-3.0, 1.0]], np.float32)).astype(int)
    assert result[0].tolist() == [[68, 1, 84], [253, 231, 37]]
    assert (channel_image(np.full((2, 2), 4.0, np.float32)) == channel_image(np.zeros((2, 2), np.float32))).all()


def test_twelve_channels_are_tiled_in_three_rows():
    result = Image.open(io.BytesIO(tile_channels(np.random.default_rng(0).random((20, 3, 3)).astype(np.float32))))
    assert result.size == (4 * 46 - 2, 3 * 46 - 2)

"""What each stage says of an image: the true maps, in order, as pictures."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from graft.service.networks import network as networks
from graft.training.interpret.feature_maps import LAST, Stages, channel_picture, liveliest, maps, stages, tiled


def noise(side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "resnet18",
            {"stage1": (64, 32, 32), "stage2": (64, 16, 16), "stage3": (128, 8, 8), "stage4": (256, 4, 4), LAST: (512, 2, 2)},
        ),
        ("vit_tiny_patch16_224", {"stage2": (192, 4, 4), LAST: (192, 4, 4)}),
    ],
)
def test_stages_come_in_their_order_with_their_sizes(pack, tmp_path, name, expected):
    network = networks.load(pack(name, "last").artifact)
    found = maps(stages(network, 64, tmp_path), noise())
    assert expected.items() <= {stage: map.shape for stage, map in found.items()}.items()
    assert list(found)[-1] == LAST


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_the_graph_says_what_torch_says(pack, tmp_path, name):
    network = networks.load(pack(name, "last").artifact).eval()
    found = maps(stages(network, 64, tmp_path), noise())
    with torch.inference_mode():
        expected = Stages(network).eval()(torch.from_numpy(noise())[None])
    assert list(found) == list(expected)
    for stage, map in expected.items():
        np.testing.assert_allclose(found[stage], map[0].numpy(), atol=1e-3 * float(map.abs().max()))


def test_a_perceptron_has_no_stages(pack, tmp_path):
    assert stages(networks.load(pack("mlp", "last").artifact), 64, tmp_path) is None


def test_the_last_maps_means_are_what_the_head_of_a_pooled_network_sees(model, clothes, tmp_path):
    pixels = model.decode(clothes[0][1]).pixels
    found = maps(stages(networks.load(model.artifact), 128, tmp_path), pixels)
    vectors = model.engine(pixels[None]).vectors
    np.testing.assert_allclose(found[LAST].mean(axis=(1, 2)), vectors[0], rtol=1e-2, atol=1e-3)


def test_the_channels_that_differ_most_are_shown_in_their_order():
    map = np.zeros((4, 2, 2), np.float32)
    map[1, 0, 0], map[3, 0, 0], map[2] = 5, 9, 7
    assert liveliest(map, 2).tolist() == [1, 3]


def test_a_channel_is_black_where_it_is_lowest_and_bright_where_it_is_highest():
    found = channel_picture(np.array([[-3.0, 1.0]], np.float32)).astype(int)
    assert found[0, 0].sum() < 10
    assert found[0, 1].sum() > 600
    assert (channel_picture(np.full((2, 2), 4.0, np.float32)) == channel_picture(np.zeros((2, 2), np.float32))).all()


def test_twelve_channels_stand_in_three_rows():
    found = Image.open(io.BytesIO(tiled(np.random.default_rng(0).random((20, 3, 3)).astype(np.float32))))
    assert found.size == (4 * 46 - 2, 3 * 46 - 2)

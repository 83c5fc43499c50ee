"""Sliding windows: their positions, dense evaluation against the network's own outputs, and their surroundings."""

import numpy as np
import pytest
from PIL import Image

from graft.service.inference.head import Head
from graft.service.inference.openvino import OpenVinoModel
from graft.training.inference import sliding_windows
from graft.training.inference.sliding_windows import (
    feature_map_size,
    neighbor_means,
    pool_windows,
    scaled_size,
    scan_crops,
    scan_dense,
    scan_windows,
    window_cells,
)

ONE_MAP = np.arange(12, dtype=np.float32).reshape(1, 3, 4)  # one channel of 3 x 4 cells
IDENTITY = Head(np.array([[1.0], [-1.0]]), np.array([0.0, 10.0]))


def random_image(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("width", "height", "side", "expected"),
    [(480, 320, 224, (224, 320)), (320, 480, 448, (672, 448)), (28, 28, 128, (128, 128)), (5000, 100, 64, (64, 3200))],
)
def test_image_size_is_a_multiple_of_the_stride(width: int, height: int, side: int, expected: tuple[int, int]):
    assert scaled_size(width, height, side, 32) == expected


def test_windows_are_square_wide_and_tall_at_every_position():
    found = window_cells(8, 10, 7).tolist()
    assert len(found) == 2 * 4 + 4 * 2  # 7 x 7 and 5 x 9; the map is too low for 9 x 5
    assert found[0] == [0, 0, 7, 7]
    assert found[-1] == [3, 1, 8, 10]
    assert [0, 0, 9, 5] in window_cells(9, 9, 7).tolist()


def test_window_logits_come_from_the_mean_of_its_cells():
    found = pool_windows({"maps": ONE_MAP}, IDENTITY, (3, 4), np.array([[0, 0, 2, 2], [1, 2, 3, 4]]), margin=1)
    assert found.logits.tolist() == [[2.5, 7.5], [8.5, 1.5]]  # of 0, 1, 4, 5 and of 6, 7, 10, 11
    assert found.vectors.tolist() == [[2.5], [8.5]]
    assert found.boxes.tolist() == [[0, 0, 0.5, 2 / 3], [0.5, 1 / 3, 1, 1]]


def test_surroundings_exclude_the_window():
    found = pool_windows({"maps": ONE_MAP}, IDENTITY, (3, 4), np.array([[0, 0, 2, 2], [0, 0, 3, 4]]), margin=1)
    assert found.context_logits[0].tolist() == [7.0, 3.0]  # of 2, 6, 8, 9, 10
    assert np.isnan(found.context_logits[1]).all()


def test_finer_maps_are_pooled_over_the_same_windows():
    fine = np.repeat(np.repeat(ONE_MAP, 2, axis=1), 2, axis=2) + 100
    head = Head(np.array([[1.0, 0.0], [0.0, 1.0]]), np.zeros(2))
    found = pool_windows({"stage1_maps": fine, "maps": ONE_MAP}, head, (3, 4), np.array([[1, 2, 3, 4]]), margin=1)
    assert found.logits.tolist() == [[108.5, 8.5]]
    assert found.vectors.tolist() == [[8.5]]


def test_neighbors_are_half_a_side_to_one_and_a_half_sides_away():
    corners = np.array([[0.0, 0.0], [0.0, 5.0], [0.0, 10.0], [0.0, 20.0]])
    found = neighbor_means(corners, 10, np.array([[1.0], [10.0], [100.0], [1000.0]]))
    assert found.ravel().tolist() == [100.0, 1000.0, 500.5, 55.0]


def test_single_window_has_no_neighbors():
    assert np.isnan(neighbor_means(np.zeros((1, 2)), 10, np.ones((1, 3)))).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "head_input", "n_centers"), [("resnet18", "last", 0), ("resnet18", "all", 0), ("resnet18", "all", 11)]
)
def test_window_over_the_whole_image_equals_the_networks_output(pack, monkeypatch, name: str, head_input: str, n_centers: int):
    monkeypatch.setattr(sliding_windows, "SCALES", (1.0, 2.0))
    packed = pack(name, head_input, n_centers)
    square = random_image(64, 64)
    [first, *_] = scan_dense(packed, square, feature_map_size(packed))
    expected = packed.engine(np.asarray(square)[None])
    assert first.boxes[0].tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(first.logits[0], expected.logits[0], atol=1e-4)
    np.testing.assert_allclose(first.vectors[0], expected.vectors[0], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18"])
def test_graph_of_a_larger_image_matches_torch(pack, name: str):
    import torch

    from graft.service.networks import network

    packed = pack(name, "all")
    pixels = np.array(random_image(160, 96))[None]
    names = packed.manifest.backbone.map_outputs
    found = OpenVinoModel(packed.artifact.graph, streams=1, output_names=names, size=(96, 160))(pixels)
    with torch.inference_mode():
        stages, last, _ = network.load(packed.artifact).eval().stage_maps(torch.from_numpy(pixels))
    for name_of_map, expected in zip(names, [*stages, last], strict=True):
        assert found[name_of_map].shape == tuple(expected.shape)
        np.testing.assert_allclose(found[name_of_map], expected.numpy(), atol=1e-3 * max(1.0, float(expected.abs().max())))


@pytest.mark.slow
def test_network_with_a_fixed_input_size_evaluates_cropped_windows(pack, monkeypatch):
    monkeypatch.setattr(sliding_windows, "MIN_MAP_SIZE", 1)
    monkeypatch.setattr(sliding_windows, "SCALES", (1.0, 2.0))
    packed = pack("swin_tiny_patch4_window7_224", "last")
    assert feature_map_size(packed) == 2
    assert scan_dense(packed, random_image(64, 64), 2) == []  # although the first size is the network's input size
    found, dense = scan_windows(packed, random_image(64, 64))
    assert not dense
    assert found.logits.shape == (len(found.boxes), 10)


def test_network_without_mean_pooling_evaluates_cropped_windows(pack, monkeypatch):
    monkeypatch.setattr(sliding_windows, "SCALES", (1.0, 2.0))
    packed = pack("lcnet_035", "last")
    assert feature_map_size(packed) == 0
    assert not scan_windows(packed, random_image(64, 64))[1]


def test_cropped_window_equals_the_prediction_of_that_crop(model):
    crop = model.manifest.preprocessing.crop
    scene = random_image(2 * crop, 2 * crop)
    found = scan_crops(model, scene, 2.0)
    assert len(found.boxes) == 16
    assert found.boxes[0].tolist() == [0, 0, 0.5, 0.5]
    assert found.boxes[-1].tolist() == [0.5, 0.5, 1, 1]
    expected = model.engine(np.asarray(scene)[None, crop:, crop:])
    np.testing.assert_allclose(found.logits[-1], expected.logits[0], atol=1e-4)
    np.testing.assert_allclose(found.vectors[-1], expected.vectors[0], atol=1e-4)

"""Top activations of channels: position, receptive field, and selection of channels."""

import numpy as np
import pytest

from graft.training.architecture.receptive_field import ReceptiveField, SlidingWindow
from graft.training.interpret.max_activations import (
    ChannelMaxima,
    activating_patch,
    channel_maxima,
    covers_image,
    crop,
    discriminative_channels,
    label_channels,
    top_images,
)

FIELD = ReceptiveField().after(SlidingWindow((3, 3), (2, 2), (1, 1), (1, 1))).after(SlidingWindow((3, 3)))  # 7x7 every 2 pixels


def test_maximum_has_value_mean_and_position():
    maps = np.zeros((2, 3, 4, 5), np.float32)  # two images of three channels
    maps[0, 1, 2, 3], maps[1, 1, 0, 4], maps[1, 2] = 7, 9, -1
    maps[1, 2, 3, 0] = -0.5
    maxima = channel_maxima(maps)
    assert maxima.values.tolist() == [[0, 7, 0], [0, 9, -0.5]]
    assert maxima.means[0].tolist() == pytest.approx([0, 7 / 20, 0])
    assert (maxima.rows[0, 1], maxima.columns[0, 1]) == (2, 3)
    assert (maxima.rows[1, 1], maxima.columns[1, 1]) == (0, 4)
    assert (maxima.rows[1, 2], maxima.columns[1, 2]) == (3, 0)


def test_patch_contains_a_planted_spot():
    """A channel that averages its field has its maximum where the field covers the bright spot."""
    images = np.zeros((3, 32, 32, 3), np.uint8)
    images[1, 12:15, 20:23] = 200  # within a field of 7x7 around some position
    means = []
    for image in images:
        n = (32 + 1 - 7 + 1) // 2  # positions of FIELD along a side, whose first begins at -1
        boxes = [[FIELD.box(row, column) for column in range(n)] for row in range(n)]
        means.append(np.array([[[float(crop(image, box).sum()) for box in line] for line in boxes]], np.float32))
    maxima = channel_maxima(means)
    assert top_images(maxima, 0, 2) == [1]
    window = activating_patch(images[1], maxima, 1, 0, FIELD)
    assert window.shape == (7, 7, 3)
    assert window.sum() == images[1].sum()


def test_patch_is_padded_at_the_image_border():
    pixels = np.full((32, 32, 3), 200, np.uint8)
    one = np.ones((1, 1), np.float32)
    maxima = ChannelMaxima(one, one, np.zeros((1, 1), int), np.full((1, 1), 12))
    window = activating_patch(pixels, maxima, 0, 0, FIELD)  # from row -1 and column 23 on
    assert window.shape == (7, 7, 3)
    assert (window[0] == 128).all()
    assert (window[1:] == 200).all()


def test_crop_is_clipped_to_the_image():
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    assert np.array_equal(crop(pixels, (-2, -3, 4, 5)), pixels[:5, :4])
    assert np.array_equal(crop(pixels, (6, 1, 99, 99)), pixels[1:, 6:])


def test_images_without_activation_are_left_out():
    values = np.array([[0.0], [3.0], [0.0], [5.0]], np.float32)
    maxima = ChannelMaxima(values, values / 9, np.zeros((4, 1), int), np.zeros((4, 1), int))
    assert top_images(maxima, 0, 3) == [3, 1]


def test_mean_activation_breaks_ties():
    maps = np.zeros((4, 1, 2, 2), np.float32)
    maps[1, 0, 0, 0] = maps[2, 0, 0] = maps[3] = 6
    assert top_images(channel_maxima(maps), 0, 4) == [3, 2, 1]


@pytest.mark.parametrize(("side", "expected"), [(7, True), (8, False)])
def test_field_as_large_as_the_image_covers_it(side, expected):
    assert covers_image(FIELD, side) is expected


def test_label_channels_contribute_most_to_the_label():
    vectors = np.array([[2.0, 5.0, 0.0], [2.0, 5.0, 0.1], [0.0, 5.0, 1.0], [0.0, 5.0, 1.1]])
    weights = np.array([[1.0, 9.0, -2.0], [-1.0, 9.0, 2.0]])  # the second channel never changes
    assert label_channels(weights, vectors, [0, 0, 1, 1], 1) == [(0, 0), (1, 2)]
    assert label_channels(weights, vectors, [0, 0, 1, 1], 3) == [(0, 0), (1, 2)]


def test_label_channels_are_distinct_and_need_images():
    vectors = np.array([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    assert label_channels(np.array([[0.5, 0.1], [2.0, 1.0], [3.0, 1.0], [9.0, 9.0]]), vectors, [0, 1, 2], 1) == [(1, 0), (2, 1)]


def test_most_discriminative_channel_comes_first():
    random = np.random.default_rng(0)
    values = random.normal(size=(30, 8)).astype(np.float32)
    labels = [row % 3 for row in range(30)]
    values[:, 5] += 10 * np.array(labels)
    values[:, 2] = 4  # constant
    channels = discriminative_channels(values, labels, 8)
    assert channels[0] == 5
    assert channels[-1] == 2

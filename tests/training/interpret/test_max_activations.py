"""What excites a channel: the true place in the right image, cut as the receptive field says."""

import numpy as np
import pytest

from graft.training.architecture.receptive_field import ReceptiveField, Window
from graft.training.interpret.max_activations import Peaks, cut, patch, peaks, sees_all, speaking, strongest, telling

FIELD = ReceptiveField().through(Window((3, 3), (2, 2), (1, 1), (1, 1))).through(Window((3, 3)))  # 7x7 every 2 pixels


def test_a_peak_is_where_a_channel_answers_most():
    maps = np.zeros((2, 3, 4, 5), np.float32)  # two images of three channels
    maps[0, 1, 2, 3], maps[1, 1, 0, 4], maps[1, 2] = 7, 9, -1
    maps[1, 2, 3, 0] = -0.5
    found = peaks(maps)
    assert found.values.tolist() == [[0, 7, 0], [0, 9, -0.5]]
    assert found.means[0].tolist() == pytest.approx([0, 7 / 20, 0])
    assert (found.rows[0, 1], found.columns[0, 1]) == (2, 3)
    assert (found.rows[1, 1], found.columns[1, 1]) == (0, 4)
    assert (found.rows[1, 2], found.columns[1, 2]) == (3, 0)


def test_the_patch_is_what_the_network_saw_of_a_planted_spot():
    """A channel that is the mean over its field answers most where the field holds all of a bright spot."""
    images = np.zeros((3, 32, 32, 3), np.uint8)
    images[1, 12:15, 20:23] = 200  # within a field of 7x7 around some position
    means = []
    for image in images:
        n = (32 + 1 - 7 + 1) // 2  # positions of FIELD along a side, whose first begins at -1
        boxes = [[FIELD.box(row, column) for column in range(n)] for row in range(n)]
        means.append(np.array([[[float(cut(image, box).sum()) for box in line] for line in boxes]], np.float32))
    found = peaks(means)
    assert strongest(found, 0, 2) == [1]
    shown = patch(images[1], found, 1, 0, FIELD)
    assert shown.shape == (7, 7, 3)
    assert shown.sum() == images[1].sum()


def test_a_patch_keeps_its_size_at_the_edge_of_an_image():
    pixels = np.full((32, 32, 3), 200, np.uint8)
    one = np.ones((1, 1), np.float32)
    found = Peaks(one, one, np.zeros((1, 1), int), np.full((1, 1), 12))
    shown = patch(pixels, found, 0, 0, FIELD)  # from row -1 and column 23 on
    assert shown.shape == (7, 7, 3)
    assert (shown[0] == 128).all()
    assert (shown[1:] == 200).all()


def test_a_field_that_reaches_over_the_edge_is_cut_off_there():
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    assert np.array_equal(cut(pixels, (-2, -3, 4, 5)), pixels[:5, :4])
    assert np.array_equal(cut(pixels, (6, 1, 99, 99)), pixels[1:, 6:])


def test_images_to_which_a_channel_does_not_answer_are_left_out():
    values = np.array([[0.0], [3.0], [0.0], [5.0]], np.float32)
    found = Peaks(values, values / 9, np.zeros((4, 1), int), np.zeros((4, 1), int))
    assert strongest(found, 0, 3) == [3, 1]


def test_of_equally_strong_answers_the_one_over_more_of_the_image_comes_first():
    maps = np.zeros((4, 1, 2, 2), np.float32)
    maps[1, 0, 0, 0] = maps[2, 0, 0] = maps[3] = 6
    assert strongest(peaks(maps), 0, 4) == [3, 2, 1]


@pytest.mark.parametrize(("side", "expected"), [(7, True), (8, False)])
def test_a_field_as_large_as_the_image_sees_all_of_it(side, expected):
    assert sees_all(FIELD, side) is expected


def test_the_channels_that_speak_for_a_label_are_those_that_raise_it_in_its_own_images():
    vectors = np.array([[2.0, 5.0, 0.0], [2.0, 5.0, 0.1], [0.0, 5.0, 1.0], [0.0, 5.0, 1.1]])
    weights = np.array([[1.0, 9.0, -2.0], [-1.0, 9.0, 2.0]])  # the second channel never changes
    assert speaking(weights, vectors, [0, 0, 1, 1], 1) == [(0, 0), (1, 2)]
    assert speaking(weights, vectors, [0, 0, 1, 1], 3) == [(0, 0), (1, 2)]


def test_no_channel_speaks_for_two_labels_or_for_one_without_images():
    vectors = np.array([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    assert speaking(np.array([[0.5, 0.1], [2.0, 1.0], [3.0, 1.0], [9.0, 9.0]]), vectors, [0, 1, 2], 1) == [(1, 0), (2, 1)]


def test_the_channel_that_tells_labels_apart_comes_first():
    random = np.random.default_rng(0)
    values = random.normal(size=(30, 8)).astype(np.float32)
    labels = [row % 3 for row in range(30)]
    values[:, 5] += 10 * np.array(labels)
    values[:, 2] = 4  # says nothing at all
    found = telling(values, labels, 8)
    assert found[0] == 5
    assert found[-1] == 2

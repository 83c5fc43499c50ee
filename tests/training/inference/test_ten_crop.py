"""Ten-crop evaluation: positions of the crops, and averaging of their probabilities."""

import numpy as np
import pytest

from graft.service.errors import ImageError
from graft.service.imaging.preprocess import decode, decode_resized
from graft.service.inference.engine import Outputs, Pixels
from graft.service.manifest import Preprocessing
from graft.training.inference.ten_crop import ten_crop, ten_crops

FITTED = Preprocessing(resize=40, crop=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class FirstPixel:
    """A network that returns the red and green of the first pixel as logits."""

    device, streams, max_batch = "cpu", 2, 4

    def __call__(self, batch: Pixels) -> Outputs:
        return Outputs(batch[:, 0, 0, :2].astype(np.float32) / 50, np.zeros((len(batch), 4), np.float32))


def test_crops_are_four_corners_the_center_and_their_flips(encode, photo):
    found, resized = ten_crops(encode(photo), FITTED), decode_resized(encode(photo), FITTED)
    height, width, _ = resized.shape
    assert found.shape == (10, 32, 32, 3)
    assert (height, width) == (40, 54)
    corners = [resized[:32, :32], resized[:32, 22:], resized[8:, :32], resized[8:, 22:], resized[4:36, 11:43]]
    np.testing.assert_array_equal(found[:5], corners)
    np.testing.assert_array_equal(found[5:], found[:5, :, ::-1])


def test_center_crop_matches_the_single_crop(encode, photo):
    # Only approximately: the single crop is resampled in one step, not cropped after resizing.
    difference = ten_crops(encode(photo), FITTED)[4].astype(int) - decode(encode(photo), FITTED).pixels
    assert np.abs(difference).mean() < 2


@pytest.mark.parametrize("fit", ["squash", "letterbox"])
def test_square_resize_has_two_crops(encode, photo, fit):
    preprocessing = FITTED.model_copy(update={"fit": fit})
    found = ten_crops(encode(photo), preprocessing)
    np.testing.assert_array_equal(found[0], decode(encode(photo), preprocessing).pixels)
    np.testing.assert_array_equal(found[1], found[0][:, ::-1])
    assert len(found) == 2


def test_image_of_the_crop_size_works(encode):
    preprocessing = FITTED.model_copy(update={"resize": 32})
    assert ten_crops(encode(np.zeros((5, 5, 3), np.uint8)), preprocessing).shape == (10, 32, 32, 3)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_single_label_probabilities_are_averaged(encode, photo, temperature):
    logits = ten_crops(encode(photo), FITTED)[:, 0, 0, :2] / 50 / temperature
    expected = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).mean(axis=0)
    [found] = ten_crop(FirstPixel(), FITTED, [lambda: encode(photo)], temperature, multilabel=False)
    np.testing.assert_allclose(np.exp(found) / np.exp(found).sum(), expected, rtol=1e-5)


def test_multilabel_probabilities_are_averaged(encode, photo):
    logits = ten_crops(encode(photo), FITTED)[:, 0, 0, :2] / 50
    expected = (1 / (1 + np.exp(-logits))).mean(axis=0)
    [found] = ten_crop(FirstPixel(), FITTED, [lambda: encode(photo)], 1.0, multilabel=True)
    np.testing.assert_allclose(1 / (1 + np.exp(-found)), expected, rtol=1e-5)


def test_many_images_are_predicted_in_order(encode):
    shades = [np.full((40, 40, 3), 5 * number, np.uint8) for number in range(40)]
    for shade in shades:
        shade[..., 1] = 0
    found = ten_crop(FirstPixel(), FITTED, [lambda shade=shade: encode(shade) for shade in shades], 1.0, multilabel=False)
    assert found.shape == (40, 2)
    assert np.diff(found[:, 0] - found[:, 1]) == pytest.approx(0.1, abs=1e-4)


def test_non_image_raises_an_image_error():
    with pytest.raises(ImageError, match="is empty"):
        ten_crop(FirstPixel(), FITTED, [lambda: b""], 1.0, multilabel=False)


def test_ten_crop_accuracy_is_close_to_single_crop(fitted, model, clothes):
    names = model.manifest.labels
    readers = [lambda encoded=encoded: encoded for _, encoded in clothes]
    found = ten_crop(model.engine, model.manifest.preprocessing, readers, model.manifest.temperature, multilabel=False)
    assert sum(names[best] == label for best, (label, _) in zip(found.argmax(axis=1), clothes, strict=True)) >= 6

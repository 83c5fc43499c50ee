"""Copies are told from similar pictures, whatever was done to them."""

import numpy as np
import pytest
from copied_pictures import COPIES, jpeg, picture
from PIL import Image

from graft.service.imaging.preprocess import load_preview
from graft.training.data.copy_alignment import PICTURE_SIDE, are_copies, may_be_copies, to_thumbnail
from graft.training.data.near_duplicates import to_bytes, to_grayscale


def gray(image: Image.Image) -> np.ndarray:
    return to_grayscale(load_preview(jpeg(image), PICTURE_SIDE).pixels)


def compare(images: list[Image.Image], others: list[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    """Which pairs of images may be copies, judged by their thumbnails, and which are."""
    one, other = ([gray(image) for image in side] for side in (images, others))
    likely = may_be_copies(*(np.stack([to_thumbnail(picture) for picture in side]) for side in (one, other)))
    return likely, are_copies(*(np.stack([to_bytes(picture) for picture in side]) for side in (one, other)))


@pytest.mark.parametrize("copy", [pytest.param(copy, id=kind) for kind, copy in COPIES.items() if "mirrored" not in kind])
def test_copy_of_each_kind_is_found(copy):
    images = [picture(seed) for seed in range(12)]
    likely, same = compare(images, [copy(image) for image in images])
    assert likely.all()
    assert same.all()


def test_brighter_copy_with_less_contrast_is_found():
    images = [picture(seed) for seed in range(6)]
    assert compare(images, [image.point(lambda value: 80 + value // 2) for image in images])[1].all()


def test_other_pictures_are_no_copies():
    assert not compare([picture(seed) for seed in range(40)], [picture(seed) for seed in range(40, 80)])[1].any()


def test_mirror_image_is_no_copy_until_it_is_mirrored():
    images = [picture(seed) for seed in range(6)]
    assert not compare(images, [COPIES["mirrored"](image) for image in images])[1].any()


def on_a_table(thing: Image.Image, x: int, y: int) -> Image.Image:
    """A small picture on an empty white table."""
    table = Image.fromarray(np.random.default_rng(x).normal(225, 2, (192, 192, 3)).astype(np.uint8))
    table.paste(thing.resize((70, 60)), (x, y))
    return table


def test_same_thing_elsewhere_on_the_same_table_is_no_copy():
    things = [picture(seed) for seed in range(12)]
    assert not compare([on_a_table(t, 30, 40) for t in things], [on_a_table(t, 75, 70) for t in things])[1].any()


def test_enlarged_tiny_pictures_are_not_compared():
    tiny = [picture(seed).resize((24, 24)).resize((160, 160), Image.Resampling.BICUBIC) for seed in range(6)]
    assert not compare(tiny, tiny)[1].any()


def test_blank_pictures_are_no_copies():
    assert not compare([Image.new("RGB", (128, 128), "gray")], [Image.new("RGB", (128, 128), "gray")])[1].any()


def test_no_pairs_are_no_copies():
    none = np.zeros((0, PICTURE_SIDE, PICTURE_SIDE), np.uint8)
    assert are_copies(none, none).tolist() == []

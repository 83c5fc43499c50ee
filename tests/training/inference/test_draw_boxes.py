"""Marked pictures: boxes where they belong, words that fit on any picture."""

import io

import numpy as np
import pytest
from PIL import Image

from graft.training.inference.detector import Box
from graft.training.inference.draw_boxes import COLOURS, marked

LABELS = ("ants", "bees")


def box(label: str, *edges: int) -> Box:
    return Box(label, 0.97, 3.0, 0.4, edges)


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


def colour(label: str) -> tuple[int, ...]:
    code = COLOURS[LABELS.index(label)][0]
    return tuple(int(code[start : start + 2], 16) for start in (1, 3, 5))


@pytest.mark.parametrize(("size", "expected"), [((28, 28), (640, 640)), ((3000, 1500), (1600, 800)), ((800, 600), (800, 600))])
def test_picture_has_room_for_words(size: tuple[int, int], expected: tuple[int, int]):
    assert opened(marked(Image.new("RGB", size), size, [box("bees", 2, 2, 20, 20)], LABELS)).size == expected


@pytest.mark.parametrize("ground", ["black", "white", colour("bees")])
def test_edge_stands_out_on_any_ground(ground):
    png = marked(Image.new("RGB", (800, 600), ground), (400, 300), [box("bees", 100, 100, 300, 200)], LABELS)
    found = np.asarray(opened(png))
    across = found[300, 195:215]  # where the left edge, at 200, is crossed
    assert (across == colour("bees")).all(axis=1).any()
    assert (across == 0).all(axis=1).any()


def test_every_label_has_its_colour():
    boxes = [box("ants", 100, 100, 200, 200), box("bees", 300, 100, 400, 200)]
    found = np.asarray(opened(marked(Image.new("RGB", (800, 600)), (800, 600), boxes, LABELS)))
    assert (found[150, 102] == colour("ants")).all()
    assert (found[150, 302] == colour("bees")).all()


@pytest.mark.parametrize("edges", [(0, 0, 800, 600), (790, 590, 800, 600), (0, 300, 5, 310)])
def test_words_stay_on_the_picture(edges: tuple[int, ...]):
    found = np.asarray(opened(marked(Image.new("RGB", (800, 600), "white"), (800, 600), [box("bees", *edges)], LABELS)))
    written = (found == colour("bees")).all(axis=2)
    assert written.sum() > 800  # a plaque, and not its rest


def test_without_boxes_the_picture_stays_as_it_is(photo):
    picture = Image.fromarray(np.tile(photo, (12, 12, 1)))
    np.testing.assert_array_equal(np.asarray(opened(marked(picture, picture.size, [], LABELS))), np.asarray(picture))

"""Drawn boxes are at the right position, and their labels are legible on any image."""

import io

import numpy as np
import pytest
from PIL import Image

from graft.training.inference.detector import Box
from graft.training.inference.draw_boxes import PALETTE, draw_boxes

LABELS = ("ants", "bees")


def box(label: str, *edges: int) -> Box:
    return Box(label, 0.97, 3.0, 0.4, edges)


def open_png(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


def color(label: str) -> tuple[int, ...]:
    code = PALETTE[LABELS.index(label)][0]
    return tuple(int(code[start : start + 2], 16) for start in (1, 3, 5))


@pytest.mark.parametrize(("size", "expected"), [((28, 28), (640, 640)), ((3000, 1500), (1600, 800)), ((800, 600), (800, 600))])
def test_image_is_resized_to_make_room_for_labels(size: tuple[int, int], expected: tuple[int, int]):
    assert open_png(draw_boxes(Image.new("RGB", size), size, [box("bees", 2, 2, 20, 20)], LABELS)).size == expected


@pytest.mark.parametrize("background", ["black", "white", color("bees")])
def test_edge_is_visible_on_any_background(background):
    png = draw_boxes(Image.new("RGB", (800, 600), background), (400, 300), [box("bees", 100, 100, 300, 200)], LABELS)
    found = np.asarray(open_png(png))
    across = found[300, 195:215]  # crosses the left edge, at 200
    assert (across == color("bees")).all(axis=1).any()
    assert (across == 0).all(axis=1).any()


def test_every_label_has_its_color():
    boxes = [box("ants", 100, 100, 200, 200), box("bees", 300, 100, 400, 200)]
    found = np.asarray(open_png(draw_boxes(Image.new("RGB", (800, 600)), (800, 600), boxes, LABELS)))
    assert (found[150, 102] == color("ants")).all()
    assert (found[150, 302] == color("bees")).all()


@pytest.mark.parametrize("edges", [(0, 0, 800, 600), (790, 590, 800, 600), (0, 300, 5, 310)])
def test_label_stays_inside_the_image(edges: tuple[int, ...]):
    found = np.asarray(open_png(draw_boxes(Image.new("RGB", (800, 600), "white"), (800, 600), [box("bees", *edges)], LABELS)))
    label_pixels = (found == color("bees")).all(axis=2)
    assert label_pixels.sum() > 800  # a whole label, not a clipped one


def test_image_without_boxes_is_unchanged(photo):
    picture = Image.fromarray(np.tile(photo, (12, 12, 1)))
    np.testing.assert_array_equal(np.asarray(open_png(draw_boxes(picture, picture.size, [], LABELS))), np.asarray(picture))

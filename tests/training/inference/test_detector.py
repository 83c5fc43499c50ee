"""Boxes: that they lie on what was planted, that nothing is found where nothing is, and which of two windows stays."""

import json

import numpy as np
import pytest
from PIL import Image

from graft.service.imaging.preprocess import EXIF_ORIENTATION, decode
from graft.training.inference import sliding_windows
from graft.training.inference.detector import Claims, Found, area, as_json, claims, in_pixels, locate, suppressed, text
from graft.training.inference.sliding_windows import Windows

BOXES = np.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [2, 2, 5, 5], [8, 8, 18, 18]])


@pytest.fixture(scope="module")
def boot(clothes) -> np.ndarray:
    """The picture of an ankle boot, uint8 (28, 28, 3)."""
    import io

    return np.asarray(Image.open(io.BytesIO(clothes[0][1])).convert("RGB"))


def planted(boot: np.ndarray, left: int, top: int, ground: np.ndarray) -> Image.Image:
    scene = ground.copy()
    scene[top : top + 28, left : left + 28] = boot
    return Image.fromarray(scene)


def common(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Intersection over union."""
    wide, high = (max(0, min(one[side + 2], other[side + 2]) - max(one[side], other[side])) for side in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return wide * high / (sum(areas) - wide * high)


@pytest.mark.parametrize(("left", "top"), [(70, 28), (8, 50)])
@pytest.mark.parametrize("noisy", [False, True])
def test_planted_boot_is_found_where_it_is(model, boot, encode, left: int, top: int, noisy: bool):
    ground = np.random.default_rng(1).integers(0, 256 if noisy else 1, (84, 112, 3), dtype=np.uint8)
    found = locate(model, encode(planted(boot, left, top, ground)), 0.9)
    best = found.boxes[0]
    assert (best.label, (found.width, found.height)) == ("ankle boot", (112, 84))
    assert common(best.box, (left, top, left + 28, top + 28)) > 0.4
    assert all(common(box.box, (left, top, left + 28, top + 28)) > 0.1 for box in found.boxes)


def test_planted_boot_is_found_by_one_pass_a_size_too(model, boot, encode, monkeypatch):
    monkeypatch.setattr(sliding_windows, "FEWEST_CELLS", 1)
    found = locate(model, encode(planted(boot, 70, 28, np.zeros((84, 112, 3), np.uint8))), 0.9)
    assert found.shared
    assert found.boxes[0].label == "ankle boot"
    assert common(found.boxes[0].box, (70, 28, 98, 56)) > 0.3


def test_boxes_are_those_of_the_image_as_a_person_sees_it(model, boot, encode):
    scene = planted(boot, 70, 28, np.zeros((84, 112, 3), np.uint8))
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6  # the camera stored it turned to the left
    stored = encode(scene.transpose(Image.Transpose.ROTATE_90), exif=exif)
    assert decode(stored, model.manifest.preprocessing).width == 112
    assert locate(model, stored, 0.9) == locate(model, encode(scene), 0.9)


@pytest.mark.parametrize("most", [1, 256])
def test_nothing_is_found_where_nothing_is(model, encode, most: int):
    empty = np.random.default_rng(1).integers(0, most, (84, 112, 3), dtype=np.uint8)
    found = locate(model, encode(empty), 0.9)
    assert found.boxes == ()
    assert text(found).startswith("nothing that the network knows: the clearest window is ")


def test_of_boxes_that_overlap_the_clearest_stays():
    # 0 and 1 share 90 of 110; 3 lies in both; 4 shares 4 of 196 with 0, and 6 of 194 with 1.
    assert suppressed(BOXES, np.array([5.0, 6, 1, 9, 2])) == [3, 4, 2]
    assert suppressed(BOXES, np.array([9.0, 6, 1, 5, 2])) == [0, 4, 2]


def test_how_much_overlap_is_too_much_can_be_said():
    assert suppressed(BOXES[:2], np.array([1.0, 2.0]), overlap=0.82, inside=1.0) == [1, 0]  # 90 / 110 = 0.818
    assert suppressed(BOXES[:2], np.array([1.0, 2.0]), overlap=0.81, inside=1.0) == [1]


def test_no_boxes_leave_none():
    assert suppressed(np.empty((0, 4)), np.empty(0)) == []


def test_area_of_a_box_that_ends_before_it_begins_is_nothing():
    assert area(np.array([[0.0, 0, 3, 4], [3, 0, 0, 4]])).tolist() == [12, 0]


def seen(logits: list[list[float]], around: list[list[float]]) -> Windows:
    n_windows = len(logits)
    return Windows(np.zeros((n_windows, 4)), np.array(logits), np.array(around), np.zeros((n_windows, 2), np.float32))


def test_window_claims_its_most_probable_label():
    found = claims(seen([[0.0, 4.0], [2.0, 0.0]], [[0.0, 1.0], [np.nan, np.nan]]), temperature=2.0, multilabel=False)
    assert found.labels.tolist() == [1, 0]
    assert found.clearness.tolist() == pytest.approx([1.5, 1.0])
    assert found.chances.tolist() == pytest.approx([0.8808, 0.7311], abs=1e-4)


def test_where_an_image_may_have_several_labels_each_is_claimed_by_itself():
    found = claims(seen([[3.0, -1.0]], [[1.0, 0.0]]), temperature=1.0, multilabel=True)
    assert isinstance(found, Claims)
    assert (found.rows.tolist(), found.labels.tolist(), found.clearness.tolist()) == ([0, 0], [0, 1], [2.0, -1.0])


def test_box_is_told_in_whole_pixels():
    assert in_pixels(np.array([0.1, 0.25, 0.5, 1.0]), 112, 84) == (11, 21, 56, 84)


def test_json_holds_the_boxes_the_size_and_the_rule(model, boot, encode, tmp_path):
    found = locate(model, encode(planted(boot, 70, 28, np.zeros((84, 112, 3), np.uint8))), 0.9)
    told = json.loads(as_json(found, tmp_path / "package", tmp_path / "a.png"))
    assert told["image"] == {"width": 112, "height": 84}
    assert set(told["boxes"][0]) == {"label", "probability", "clearness", "outlier_score", "box"}
    assert told["boxes"][0]["box"] == list(found.boxes[0].box)
    assert "at least 0.9" in told["rule"]


def test_line_names_label_probability_and_place(model, boot, encode):
    found = locate(model, encode(planted(boot, 70, 28, np.zeros((84, 112, 3), np.uint8))), 0.9)
    left, top, right, bottom = found.boxes[0].box
    assert text(found).splitlines()[0] == f"ankle boot\t{found.boxes[0].probability:.1%}\tfrom {left},{top} to {right},{bottom}"
    assert isinstance(found, Found)

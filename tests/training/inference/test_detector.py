"""Detection: boxes cover the pasted object, an empty image has none, and non-maximum suppression removes duplicates."""

import json

import numpy as np
import pytest
from PIL import Image

from graft.service.imaging.preprocess import EXIF_ORIENTATION, decode
from graft.training.inference import sliding_windows
from graft.training.inference.detector import (
    Detections,
    WindowScores,
    area,
    locate,
    nms,
    score_windows,
    to_json,
    to_pixels,
    to_text,
)
from graft.training.inference.sliding_windows import WindowOutputs

BOXES = np.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [2, 2, 5, 5], [8, 8, 18, 18]])


@pytest.fixture(scope="module")
def boot(clothes) -> np.ndarray:
    """The image of an ankle boot, uint8 (28, 28, 3)."""
    import io

    return np.asarray(Image.open(io.BytesIO(clothes[0][1])).convert("RGB"))


def paste(boot: np.ndarray, left: int, top: int, background: np.ndarray) -> Image.Image:
    scene = background.copy()
    scene[top : top + 28, left : left + 28] = boot
    return Image.fromarray(scene)


def iou(first: tuple[int, ...], second: tuple[int, ...]) -> float:
    """Intersection over union."""
    width, height = (max(0, min(first[axis + 2], second[axis + 2]) - max(first[axis], second[axis])) for axis in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (sum(areas) - width * height)


@pytest.mark.parametrize(("left", "top"), [(70, 28), (8, 50)])
@pytest.mark.parametrize("noisy", [False, True])
def test_pasted_boot_is_detected_at_its_position(model, boot, encode, left: int, top: int, noisy: bool):
    background = np.random.default_rng(1).integers(0, 256 if noisy else 1, (84, 112, 3), dtype=np.uint8)
    found = locate(model, encode(paste(boot, left, top, background)), 0.9)
    best = found.boxes[0]
    assert (best.label, (found.width, found.height)) == ("ankle boot", (112, 84))
    assert iou(best.box, (left, top, left + 28, top + 28)) > 0.4
    assert all(iou(box.box, (left, top, left + 28, top + 28)) > 0.1 for box in found.boxes)


@pytest.mark.slow
def test_pasted_boot_is_detected_by_dense_evaluation(model, boot, encode, monkeypatch):
    monkeypatch.setattr(sliding_windows, "MIN_MAP_SIZE", 1)
    found = locate(model, encode(paste(boot, 70, 28, np.zeros((84, 112, 3), np.uint8))), 0.9)
    assert found.dense
    assert found.boxes[0].label == "ankle boot"
    assert iou(found.boxes[0].box, (70, 28, 98, 56)) > 0.3


@pytest.mark.slow
def test_boxes_refer_to_the_upright_image(model, boot, encode):
    scene = paste(boot, 70, 28, np.zeros((84, 112, 3), np.uint8))
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6  # stored rotated to the left
    stored = encode(scene.transpose(Image.Transpose.ROTATE_90), exif=exif)
    assert decode(stored, model.manifest.preprocessing).width == 112
    assert locate(model, stored, 0.9) == locate(model, encode(scene), 0.9)


@pytest.mark.parametrize("upper_bound", [1, 256])
def test_empty_image_has_no_detections(model, encode, upper_bound: int):
    empty = np.random.default_rng(1).integers(0, upper_bound, (84, 112, 3), dtype=np.uint8)
    found = locate(model, encode(empty), 0.9)
    assert found.boxes == ()
    assert to_text(found).startswith("no objects detected: the best window is ")


def test_nms_keeps_the_best_of_overlapping_boxes():
    # Intersection over union: 90/110 for boxes 0 and 1, 4/196 for 0 and 4, 6/194 for 1 and 4. Box 3 lies inside 0 and 1.
    assert nms(BOXES, np.array([5.0, 6, 1, 9, 2])) == [3, 4, 2]
    assert nms(BOXES, np.array([9.0, 6, 1, 5, 2])) == [0, 4, 2]


def test_nms_threshold_is_configurable():
    assert nms(BOXES[:2], np.array([1.0, 2.0]), iou_threshold=0.82, containment_threshold=1.0) == [1, 0]  # 90 / 110 = 0.818
    assert nms(BOXES[:2], np.array([1.0, 2.0]), iou_threshold=0.81, containment_threshold=1.0) == [1]


def test_nms_of_no_boxes_is_empty():
    assert nms(np.empty((0, 4)), np.empty(0)) == []


def test_area_of_an_inverted_box_is_0():
    assert area(np.array([[0.0, 0, 3, 4], [3, 0, 0, 4]])).tolist() == [12, 0]


def make_windows(logits: list[list[float]], around: list[list[float]]) -> WindowOutputs:
    n_windows = len(logits)
    return WindowOutputs(np.zeros((n_windows, 4)), np.array(logits), np.array(around), np.zeros((n_windows, 2), np.float32))


def test_window_is_scored_for_its_most_probable_label():
    found = score_windows(
        make_windows([[0.0, 4.0], [2.0, 0.0]], [[0.0, 1.0], [np.nan, np.nan]]), temperature=2.0, multilabel=False
    )
    assert found.labels.tolist() == [1, 0]
    assert found.clearness.tolist() == pytest.approx([1.5, 1.0])
    assert found.probabilities.tolist() == pytest.approx([0.8808, 0.7311], abs=1e-4)


def test_multilabel_window_is_scored_for_every_label():
    found = score_windows(make_windows([[3.0, -1.0]], [[1.0, 0.0]]), temperature=1.0, multilabel=True)
    assert isinstance(found, WindowScores)
    assert (found.window_indices.tolist(), found.labels.tolist(), found.clearness.tolist()) == ([0, 0], [0, 1], [2.0, -1.0])


def test_box_is_converted_to_whole_pixels():
    assert to_pixels(np.array([0.1, 0.25, 0.5, 1.0]), 112, 84) == (11, 21, 56, 84)


def test_json_contains_boxes_image_size_and_rule(model, boot, encode, tmp_path):
    found = locate(model, encode(paste(boot, 70, 28, np.zeros((84, 112, 3), np.uint8))), 0.9)
    output = json.loads(to_json(found, tmp_path / "package", tmp_path / "a.png"))
    assert output["image"] == {"width": 112, "height": 84}
    assert set(output["boxes"][0]) == {"label", "probability", "clearness", "outlier_score", "box"}
    assert output["boxes"][0]["box"] == list(found.boxes[0].box)
    assert "at least 0.9" in output["rule"]


def test_line_shows_label_probability_and_position(model, boot, encode):
    found = locate(model, encode(paste(boot, 70, 28, np.zeros((84, 112, 3), np.uint8))), 0.9)
    left, top, right, bottom = found.boxes[0].box
    assert (
        to_text(found).splitlines()[0] == f"ankle boot\t{found.boxes[0].probability:.1%}\tfrom {left},{top} to {right},{bottom}"
    )
    assert isinstance(found, Detections)

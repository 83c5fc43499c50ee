"""Object detection with a trained classifier: boxes from sliding windows. No torch, no training on boxes.

A classifier has no "background" class: its probabilities sum to 1 on any input. So a window becomes a detection only if

1. the calibrated probability of its label reaches a minimum;
2. its log-odds exceed those of its surroundings by at least 2 nats (odds 7.4 times as high) and by at least half the margin
   of the image's best window. An object differs from its surroundings; texture does not;
3. it is not an outlier: its feature vector is as close to the training images as the package requires of a whole image.

Overlapping windows with the same label are reduced to the best one by greedy non-maximum suppression (Felzenszwalb
et al. 2010). The boxes are as tight as the training images were, and they may include context that always occurs with an
object, such as the flower under a bee.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graft.service.imaging.preprocess import decode_resized, image_size
from graft.service.inference.model import Model
from graft.service.inference.postprocess import log_odds
from graft.training.inference.sliding_windows import SCALES, Floats, WindowOutputs, scan_windows

MIN_CLEARNESS = 2.0  # nats: minimum margin of the log-odds inside a window over those around it
MIN_RELATIVE_CLEARNESS = 0.5  # minimum margin relative to the best window of the image
IOU_THRESHOLD = 0.2  # intersection over union at which two windows count as the same object
CONTAINMENT_THRESHOLD = 0.5  # intersection over the smaller area at which they do, too
DETECTION_RULE = (
    "A window is a detection if its label has a calibrated probability of at least {min_probability:g}, if its odds are at"
    " least {min_odds_ratio:.1f} times those of its surroundings (and the log-odds margin is at least half that of the best"
    " window), and if its outlier score is at most the package's {max_outlier_score:.3g}. Non-maximum suppression then removes"
    " overlapping windows of the same label."
)


@dataclass(frozen=True)
class Box:
    """One detection.

    Attributes:
        probability: calibrated probability of the label in the window.
        clearness: nats by which the log-odds inside the window exceed those around it.
        outlier_score: cosine distance, in [0, 2], as for a whole image.
        box: left, top, right and bottom in pixels of the upright image.
    """

    label: str
    probability: float
    clearness: float
    outlier_score: float
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Detections:
    """The detections in one image, best first.

    Attributes:
        width, height: of the upright image, in pixels.
        n_windows: number of windows evaluated.
        dense: whether the windows of one scale shared a forward pass.
        rule: the detection rule, in words.
        no_detection_reason: why there are no detections; "" if there are some.
    """

    width: int
    height: int
    boxes: tuple[Box, ...]
    n_windows: int
    dense: bool
    rule: str
    no_detection_reason: str = ""

    def to_dict(self) -> dict[str, object]:
        """The content of `--json`."""
        return {
            "image": {"width": self.width, "height": self.height},
            "boxes": [vars(box) | {"box": list(box.box)} for box in self.boxes],
            "windows": self.n_windows,
            "one_pass_a_size": self.dense,
            "rule": self.rule,
        }


class WindowScores(NamedTuple):
    """M scored (window, label) pairs out of K windows.

    Attributes:
        window_indices: int (M,), indices of the windows.
        labels: int (M,).
        probabilities: (M,), calibrated probabilities of the labels.
        clearness: (M,), nats by which the labels' log-odds inside exceed those around.
    """

    window_indices: NDArray[np.intp]
    labels: NDArray[np.intp]
    probabilities: Floats
    clearness: Floats


def locate(model: Model, encoded: bytes, min_probability: float) -> Detections:
    """Detects the objects in an image file.

    Args:
        min_probability: the minimum calibrated probability of a box, in (0, 1).

    Raises:
        ImageError: if the file is not a usable image.
    """
    image, (width, height) = load_upright(model, encoded)
    candidates, dense = scan_windows(model, image)
    manifest = model.manifest
    window_scores = score_windows(candidates, manifest.temperature, manifest.multilabel)
    accepted = _filter_windows(model, candidates, window_scores, min_probability)
    boxes = tuple(
        Box(
            manifest.labels[window_scores.labels[index]],
            float(window_scores.probabilities[index]),
            float(window_scores.clearness[index]),
            accepted[index],
            to_pixels(candidates.boxes[window_scores.window_indices[index]], width, height),
        )
        for index in _nms_per_label(candidates, window_scores, np.array(sorted(accepted), np.intp))
    )
    rule = DETECTION_RULE.format(
        min_probability=min_probability,
        min_odds_ratio=np.exp(MIN_CLEARNESS),
        max_outlier_score=manifest.calibration.outlier_threshold,
    )
    reason = "" if boxes else _explain_no_detection(window_scores, manifest.labels, min_probability)
    return Detections(width, height, boxes, len(candidates.boxes), dense, rule, reason)


def load_upright(model: Model, encoded: bytes) -> tuple[Image.Image, tuple[int, int]]:
    """The whole image in RGB with its EXIF orientation applied, no larger than the largest scale needs; and its full size.

    Returns:
        The image, and (width, height) of the original in pixels.
    """
    decoded, preprocessing = model.decode(encoded), model.manifest.preprocessing
    side = min(*image_size(encoded, model.limits), round(SCALES[-1] * preprocessing.crop))
    pixels = decode_resized(encoded, preprocessing.model_copy(update={"resize": side}), model.limits)
    return Image.fromarray(pixels), (decoded.width, decoded.height)


def score_windows(candidates: WindowOutputs, temperature: float, multilabel: bool) -> WindowScores:
    """Scores each window: its most probable label, or every label if the model is multi-label.

    A window without surroundings is compared with log-odds of 0.
    """
    inside, around = candidates.logits / temperature, candidates.context_logits / temperature
    if multilabel:
        rows, labels = (indices.ravel() for indices in np.indices(inside.shape))
        odds_inside, odds_around = inside[rows, labels], around[rows, labels]
    else:
        rows, labels = np.arange(len(inside)), inside.argmax(axis=1)
        odds_inside, odds_around = log_odds(inside, labels), log_odds(around, labels)
    # Not computed from the probability, which rounds to 1 long before the odds stop growing.
    return WindowScores(rows, labels, 0.5 * (1 + np.tanh(0.5 * odds_inside)), odds_inside - np.nan_to_num(odds_around))


def _filter_windows(
    model: Model, candidates: WindowOutputs, window_scores: WindowScores, min_probability: float
) -> dict[int, float]:
    """The outlier scores of the pairs that pass all three rules, by their index."""
    calibration = model.manifest.calibration
    probable_rows = np.flatnonzero(
        (window_scores.probabilities >= min_probability) & (window_scores.clearness >= MIN_CLEARNESS)
    )
    outlier_scores = model.neighbors.outlier_scores(
        candidates.vectors[window_scores.window_indices[probable_rows]], calibration.outlier_k
    )
    inliers = outlier_scores <= calibration.outlier_threshold
    min_margin = MIN_RELATIVE_CLEARNESS * window_scores.clearness[probable_rows[inliers]].max(initial=0)
    pairs = zip(probable_rows[inliers].tolist(), outlier_scores[inliers].tolist(), strict=True)
    return {index: score for index, score in pairs if window_scores.clearness[index] >= min_margin}


def _nms_per_label(candidates: WindowOutputs, window_scores: WindowScores, accepted: NDArray[np.intp]) -> list[int]:
    """Per-label non-maximum suppression of the accepted pairs: the remaining indices, best first."""
    remaining: list[int] = []
    for label in np.unique(window_scores.labels[accepted]):
        same_label = accepted[window_scores.labels[accepted] == label]
        keep = nms(candidates.boxes[window_scores.window_indices[same_label]], window_scores.clearness[same_label])
        remaining += same_label[keep].tolist()
    return sorted(remaining, key=lambda index: -window_scores.clearness[index])


def nms(
    boxes: Floats, scores: Floats, iou_threshold: float = IOU_THRESHOLD, containment_threshold: float = CONTAINMENT_THRESHOLD
) -> list[int]:
    """Greedy non-maximum suppression: the indices of the boxes to keep, best first.

    Args:
        boxes: (K, 4), left, top, right, bottom.
        scores: (K,); of equal scores the first box wins.
        iou_threshold: a box is removed if its intersection over union with a better one is at least this,
        containment_threshold: or if at least this fraction of the smaller of the two is covered by the other.
    """
    areas, keep = area(boxes), []
    remaining = np.argsort(-scores, kind="stable")
    while len(remaining):
        best, remaining = remaining[0], remaining[1:]
        keep.append(int(best))
        intersection = area(
            np.hstack([np.maximum(boxes[remaining, :2], boxes[best, :2]), np.minimum(boxes[remaining, 2:], boxes[best, 2:])])
        )
        union, smaller = areas[remaining] + areas[best] - intersection, np.minimum(areas[remaining], areas[best])
        remaining = remaining[(intersection < iou_threshold * union) & (intersection < containment_threshold * smaller)]
    return keep


def area(boxes: Floats) -> Floats:
    """Areas (K,) of boxes (K, 4); 0 for an empty box, whose right or bottom edge lies before the left or top one."""
    areas: Floats = np.clip(boxes[:, 2] - boxes[:, 0], 0, None) * np.clip(boxes[:, 3] - boxes[:, 1], 0, None)
    return areas


def to_pixels(box: Floats, width: int, height: int) -> tuple[int, int, int, int]:
    """Converts a box in fractions of the image to whole pixels."""
    left, top, right, bottom = (round(float(edge) * length) for edge, length in zip(box, (width, height) * 2, strict=True))
    return left, top, right, bottom


def _explain_no_detection(window_scores: WindowScores, labels: tuple[str, ...], min_probability: float) -> str:
    """Names the best window of an image without detections, and the rule that it failed."""
    passes = window_scores.probabilities >= min_probability
    best = int((np.where(passes, window_scores.clearness, -np.inf) if passes.any() else window_scores.probabilities).argmax())
    start = f"the best window is {labels[window_scores.labels[best]]} with {window_scores.probabilities[best]:.1%}"
    if not passes.any():
        return f"{start}, below {min_probability:.0%}"
    if window_scores.clearness[best] < MIN_CLEARNESS:
        return f"{start}, but its surroundings score nearly the same"
    return f"{start}, but it is an outlier: unlike the training images"


def to_text(detections: Detections) -> str:
    """One line per box, for the terminal."""
    if not detections.boxes:
        return f"no objects detected: {detections.no_detection_reason}"
    lines = []
    for box in detections.boxes:
        left, top, right, bottom = box.box
        lines.append(f"{box.label}\t{box.probability:.1%}\tfrom {left},{top} to {right},{bottom}")
    return "\n".join(lines)


def to_json(detections: Detections, package: Path, image: Path) -> str:
    """One JSON object."""
    return json.dumps({"package": str(package), "path": str(image)} | detections.to_dict(), ensure_ascii=False)

"""Where in an image something is that a classifier knows: boxes, from windows. No torch.

A classifier has no label for "nothing": whatever it is shown, its probabilities sum to 1. So a window counts only if

1. its label is probable enough, by the calibrated probability;
2. its odds inside are at least e^2 = 7.4 times the odds around it, and at least the root of that of the clearest window of
   the image (half of it in nats): what speaks no more for a label than its surroundings do is no thing of its own;
3. it is no outlier: its vector is as near to training images as the package asks of a whole image.

Of windows with one label that overlap, the clearest stays (greedy non-maximum suppression, as in Felzenszwalb et al. 2010).
Nothing here has learned from boxes: they are as tight as the training images were, and what always lies near a thing, as a
flower does near a bee, may count as part of it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graft.service.imaging.preprocess import dimensions, shrink
from graft.service.inference.model import Model
from graft.service.inference.postprocess import log_odds
from graft.training.inference.sliding_windows import ZOOMS, Numbers, Windows, windows

CLEAR = 2.0  # nats that the log-odds inside a window must exceed those around it by
SHARE = 0.5  # of the clearest window's nats
OVERLAP = 0.2  # intersection over union from which on two windows show the same thing
INSIDE = 0.5  # or so much of the smaller one lies in the other
RULE = (
    "A box is a window whose label has a calibrated probability of at least {probable:g}, whose odds are at least {clear:.1f}"
    " times those of its surroundings (and, in nats, half as far above them as the clearest window's), and whose outlier"
    " score is at most the package's {outlier:.3g}; of overlapping ones the clearest stays."
)


@dataclass(frozen=True)
class Box:
    """Something known, and where.

    Attributes:
        probability: calibrated, of the window.
        clearness: by how many nats the log-odds inside exceed those around.
        outlier_score: as for a whole image, in [0, 2].
        box: left, top, right and bottom in pixels of the upright image.
    """

    label: str
    probability: float
    clearness: float
    outlier_score: float
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Found:
    """What was found in one image, clearest first.

    Attributes:
        width, height: of the upright image, in pixels.
        n_windows: that were looked at.
        shared: whether they shared one pass for each size.
        rule: by which a window became a box, in words.
        nearly: why nothing was found, if nothing was.
    """

    width: int
    height: int
    boxes: tuple[Box, ...]
    n_windows: int
    shared: bool
    rule: str
    nearly: str = ""

    def facts(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "image": {"width": self.width, "height": self.height},
            "boxes": [vars(box) | {"box": list(box.box)} for box in self.boxes],
            "windows": self.n_windows,
            "one_pass_a_size": self.shared,
            "rule": self.rule,
        }


class Claims(NamedTuple):
    """What windows claim: M claims of K windows, each of one label.

    Attributes:
        rows: int (M,), of the windows.
        labels: int (M,).
        chances: (M,), the labels' calibrated probabilities.
        clearness: (M,), by how many nats the labels' log-odds inside exceed those around.
    """

    rows: NDArray[np.intp]
    labels: NDArray[np.intp]
    chances: Numbers
    clearness: Numbers


def locate(model: Model, encoded: bytes, probable: float) -> Found:
    """What a model knows in an image file, and where.

    Args:
        probable: the least calibrated probability of a box, in (0, 1).

    Raises:
        ImageError: if the file is no image that can be used.
    """
    picture, (width, height) = upright(model, encoded)
    seen, shared = windows(model, picture)
    manifest = model.manifest
    claimed = claims(seen, manifest.temperature, manifest.multilabel)
    known = _known(model, seen, claimed, probable)
    boxes = tuple(
        Box(
            manifest.labels[claimed.labels[claim]],
            float(claimed.chances[claim]),
            float(claimed.clearness[claim]),
            known[claim],
            in_pixels(seen.boxes[claimed.rows[claim]], width, height),
        )
        for claim in _apart(seen, claimed, np.array(sorted(known), np.intp))
    )
    rule = RULE.format(probable=probable, clear=np.exp(CLEAR), outlier=manifest.calibration.outlier_threshold)
    nearly = "" if boxes else _nearly(claimed, manifest.labels, probable)
    return Found(width, height, boxes, len(seen.boxes), shared, rule, nearly)


def upright(model: Model, encoded: bytes) -> tuple[Image.Image, tuple[int, int]]:
    """The whole image in RGB as a person sees it, no larger than the scan needs; and its own width and height."""
    decoded, preprocessing = model.decode(encoded), model.manifest.preprocessing
    side = min(*dimensions(encoded, model.limits), round(ZOOMS[-1] * preprocessing.crop))
    whole = shrink(encoded, preprocessing.model_copy(update={"resize": side}), model.limits)
    return Image.fromarray(whole), (decoded.width, decoded.height)


def claims(seen: Windows, temperature: float, multilabel: bool) -> Claims:
    """What each window claims: its most probable label; where an image may have several, each label by itself.

    Where nothing lies around a window, it is compared with indifference: log-odds of 0.
    """
    inside, around = seen.logits / temperature, seen.around / temperature
    if multilabel:
        rows, labels = (found.ravel() for found in np.indices(inside.shape))
        odds, others = inside[rows, labels], around[rows, labels]
    else:
        rows, labels = np.arange(len(inside)), inside.argmax(axis=1)
        odds, others = log_odds(inside, labels), log_odds(around, labels)
    # Not from the probability: that is 1 to all digits long before the odds stop growing.
    return Claims(rows, labels, 0.5 * (1 + np.tanh(0.5 * odds)), odds - np.nan_to_num(others))


def _known(model: Model, seen: Windows, claimed: Claims, probable: float) -> dict[int, float]:
    """The claims that count, by the three rules; of each the outlier score."""
    calibration = model.manifest.calibration
    likely = np.flatnonzero((claimed.chances >= probable) & (claimed.clearness >= CLEAR))
    scores = model.neighbours.outlier_scores(seen.vectors[claimed.rows[likely]], calibration.outlier_k)
    known = scores <= calibration.outlier_threshold
    least = SHARE * claimed.clearness[likely[known]].max(initial=0)
    found = zip(likely[known].tolist(), scores[known].tolist(), strict=True)
    return {claim: score for claim, score in found if claimed.clearness[claim] >= least}


def _apart(seen: Windows, claimed: Claims, known: NDArray[np.intp]) -> list[int]:
    """Of these claims those that no clearer one of the same label stands for, clearest first."""
    kept: list[int] = []
    for label in np.unique(claimed.labels[known]):
        mine = known[claimed.labels[known] == label]
        places = suppressed(seen.boxes[claimed.rows[mine]], claimed.clearness[mine])
        kept += mine[places].tolist()
    return sorted(kept, key=lambda claim: -claimed.clearness[claim])


def suppressed(boxes: Numbers, scores: Numbers, overlap: float = OVERLAP, inside: float = INSIDE) -> list[int]:
    """Which boxes stay, best first, when each takes away those of a lower score that show the same.

    Args:
        boxes: (K, 4), left, top, right, bottom.
        scores: (K,); of equal ones the first counts as higher.
        overlap: the intersection over union from which on two show the same.
        inside: or so much of the smaller one is common to both.
    """
    areas, kept = area(boxes), []
    waiting = np.argsort(-scores, kind="stable")
    while len(waiting):
        best, waiting = waiting[0], waiting[1:]
        kept.append(int(best))
        common = area(
            np.hstack([np.maximum(boxes[waiting, :2], boxes[best, :2]), np.minimum(boxes[waiting, 2:], boxes[best, 2:])])
        )
        union, smaller = areas[waiting] + areas[best] - common, np.minimum(areas[waiting], areas[best])
        waiting = waiting[(common < overlap * union) & (common < inside * smaller)]
    return kept


def area(boxes: Numbers) -> Numbers:
    """(K,), of boxes (K, 4); 0 of those that end before they begin."""
    found: Numbers = np.clip(boxes[:, 2] - boxes[:, 0], 0, None) * np.clip(boxes[:, 3] - boxes[:, 1], 0, None)
    return found


def in_pixels(box: Numbers, width: int, height: int) -> tuple[int, int, int, int]:
    """A box of shares as whole pixels."""
    left, top, right, bottom = (round(float(share) * length) for share, length in zip(box, (width, height) * 2, strict=True))
    return left, top, right, bottom


def _nearly(claimed: Claims, names: tuple[str, ...], probable: float) -> str:
    """Which window came nearest to being a box, and what it lacked."""
    likely = claimed.chances >= probable
    best = int((np.where(likely, claimed.clearness, -np.inf) if likely.any() else claimed.chances).argmax())
    what = f"the clearest window is {names[claimed.labels[best]]} with {claimed.chances[best]:.1%}"
    if not likely.any():
        return f"{what}, less than {probable:.0%}"
    if claimed.clearness[best] < CLEAR:
        return f"{what}, but its surroundings say nearly the same"
    return f"{what}, but is unlike all that the network learned from"


def text(found: Found) -> str:
    """A line for each box, for a person."""
    if not found.boxes:
        return f"nothing that the network knows: {found.nearly}"
    lines = []
    for box in found.boxes:
        left, top, right, bottom = box.box
        lines.append(f"{box.label}\t{box.probability:.1%}\tfrom {left},{top} to {right},{bottom}")
    return "\n".join(lines)


def as_json(found: Found, package: Path, image: Path) -> str:
    """One JSON object."""
    return json.dumps({"package": str(package), "path": str(image)} | found.facts(), ensure_ascii=False)

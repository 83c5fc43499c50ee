"""Heat maps for some correctly classified and some misclassified images. No torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from graft.service.explain.deletion import Deletion
from graft.service.explain.explainer import Explainer, Explanation, Method
from graft.service.explain.overlay import glowing, strength
from graft.service.imaging.preprocess import Decoded
from graft.training.visualization import contact_sheet
from graft.training.visualization.charts import percent
from graft.training.visualization.gallery import Answers
from graft.training.visualization.thumbnails import data_uri

SIDE = 176  # pixels
WORD = {"cam": "class activation maps", "gradcam": "Grad-CAM", "occlusion": "occlusion maps"}


@dataclass(frozen=True)
class Glow:
    """One heat map.

    Attributes:
        picture: a data URI.
        deletion: the deletion score; None if not measured.
    """

    label: str
    probability: float
    picture: str
    judged: Deletion | None


@dataclass(frozen=True)
class Heat:
    """One image with its heat maps.

    Attributes:
        true_labels: their names.
        picture: a data URI of the preprocessed image.
        heatmaps: for the predicted label; for an error, also for the true label.
    """

    path: str
    truth: str
    right: bool
    picture: str
    glows: tuple[Glow, ...]


@dataclass(frozen=True)
class Heats:
    """Heat maps by one method, with a summary of their deletion scores."""

    method: str
    shown: tuple[Heat, ...]

    @property
    def sentence(self) -> str:
        """Whether the deletion test confirms the heat maps."""
        deletions = [heatmap.judged for image in self.shown for heatmap in image.glows if heatmap.judged]
        n_confirmed, n = sum(deletion.explains for deletion in deletions), len(deletions)
        score, chance = (float(np.mean([getattr(deletion, name) for deletion in deletions])) for name in ("score", "chance"))
        return (
            f"The deletion test confirms {n_confirmed or 'none'} of {n} maps: the mean probability is"
            f" {percent(score)} with the highlighted region occluded, and {percent(chance)} with other regions occluded."
        )


def telling(answers: Answers, n_each: int) -> list[int]:
    """Rows of correct predictions with typical confidence, from many labels, then of the most confident errors."""
    predicted, confidence = answers.probabilities.argmax(axis=1), answers.probabilities.max(axis=1)
    correct = np.array([label in target for label, target in zip(predicted.tolist(), answers.truth, strict=True)], bool)
    wrong = [row for row in np.argsort(-confidence, kind="stable").tolist() if not correct[row]]
    by_label = [
        _from_the_middle(np.flatnonzero(correct & (predicted == label)), confidence) for label in np.unique(predicted[correct])
    ]
    round_robin = [rows[turn] for turn in range(n_each) for rows in by_label if turn < len(rows)]
    return [*round_robin[:n_each], *wrong[:n_each]]


def _from_the_middle(rows: np.ndarray, sure: np.ndarray) -> list[int]:
    """Rows sorted by the distance of their confidence rank to the median."""
    ranked = rows[np.argsort(sure[rows], kind="stable")]
    nearest = np.argsort(np.abs(np.arange(len(ranked)) - (len(ranked) - 1) / 2), kind="stable")
    result: list[int] = ranked[nearest].tolist()
    return result


def heats(
    explainer: Explainer,
    answers: Answers,
    labels: Sequence[str],
    decoded: Callable[[str], Decoded | None],
    rows: Sequence[int],
    method: Method | None,
    steps: int,
    moves: int,
) -> Heats | None:
    """Heat maps for some rows of the predictions; None without a readable image.

    Args:
        decode: returns the preprocessed image at a path; None if the file is unreadable.
        method: as for `Explainer.explain`.
        steps, moves: number of steps of the deletion test, and of random placements of the mask.
    """
    images: list[Heat] = []
    method_name = ""
    for row in rows:
        path, target, image = answers.paths[row], answers.truth[row], decoded(answers.paths[row])
        if image is None:
            continue
        predicted = int(answers.probabilities[row].argmax())
        explained = [predicted] if predicted in target or not target else [predicted, target[0]]
        explanations = [explainer.explain(image, label, method) for label in explained]
        deletion = explainer.deletion(explanations[0], steps=steps, moves=moves)
        heatmaps = [_glow(explanation, None if index else deletion) for index, explanation in enumerate(explanations)]
        true_labels = ", ".join(labels[label] for label in target) or "no label"
        picture = data_uri(contact_sheet.photo(image.pixels, SIDE))
        images.append(Heat(path, true_labels, predicted in target, picture, tuple(heatmaps)))
        method_name = WORD[explanations[0].method]
    return Heats(method_name, tuple(images)) if images else None


def _glow(explanation: Explanation, judged: Deletion | None) -> Glow:
    picture = glowing(explanation.decoded.pixels, strength(explanation), SIDE)
    return Glow(explanation.label, explanation.probability, data_uri(contact_sheet.photo(picture, SIDE)), judged)

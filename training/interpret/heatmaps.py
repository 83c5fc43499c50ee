"""Heat maps for some correctly classified and some misclassified images. No torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from graft.service.explain.deletion import Deletion
from graft.service.explain.explainer import Explainer, Explanation, Method
from graft.service.explain.overlay import blend, normalize
from graft.service.imaging.preprocess import DecodedImage
from graft.training.runtime.progress import step
from graft.training.visualization import contact_sheet
from graft.training.visualization.charts import percent
from graft.training.visualization.gallery import ImagePredictions
from graft.training.visualization.thumbnails import data_uri

IMAGE_SIZE = 176  # pixels
METHOD_NAMES = {"cam": "class activation maps", "gradcam": "Grad-CAM", "occlusion": "occlusion maps"}


@dataclass(frozen=True)
class Heatmap:
    """One heat map.

    Attributes:
        picture: a data URI.
        deletion: the deletion score; None if not measured.
    """

    label: str
    probability: float
    picture: str
    deletion: Deletion | None


@dataclass(frozen=True)
class ExplainedImage:
    """One image with its heat maps.

    Attributes:
        true_labels: their names.
        picture: a data URI of the preprocessed image.
        heatmaps: for the predicted label; for an error, also for the true label.
    """

    path: str
    true_labels: str
    correct: bool
    picture: str
    heatmaps: tuple[Heatmap, ...]


@dataclass(frozen=True)
class HeatmapGallery:
    """Heat maps by one method, with a summary of their deletion scores."""

    method: str
    images: tuple[ExplainedImage, ...]

    @property
    def summary(self) -> str:
        """Whether the deletion test confirms the heat maps."""
        deletions = [heatmap.deletion for image in self.images for heatmap in image.heatmaps if heatmap.deletion]
        n_confirmed, n = sum(deletion.explains for deletion in deletions), len(deletions)
        score, chance = (float(np.mean([getattr(deletion, name) for deletion in deletions])) for name in ("score", "baseline"))
        return (
            f"The deletion test confirms {n_confirmed or 'none'} of {n} maps: the mean probability is"
            f" {percent(score)} with the highlighted region occluded, and {percent(chance)} with other regions occluded."
        )


def select_examples(predictions: ImagePredictions, n_each: int) -> list[int]:
    """Rows of correct predictions with typical confidence, from many labels, then of the most confident errors."""
    predicted, confidence = predictions.probabilities.argmax(axis=1), predictions.probabilities.max(axis=1)
    correct = np.array([label in target for label, target in zip(predicted.tolist(), predictions.targets, strict=True)], bool)
    wrong = [row for row in np.argsort(-confidence, kind="stable").tolist() if not correct[row]]
    by_label = [
        _nearest_median(np.flatnonzero(correct & (predicted == label)), confidence) for label in np.unique(predicted[correct])
    ]
    round_robin = [rows[turn] for turn in range(n_each) for rows in by_label if turn < len(rows)]
    return [*round_robin[:n_each], *wrong[:n_each]]


def _nearest_median(rows: np.ndarray, confidence: np.ndarray) -> list[int]:
    """Rows sorted by the distance of their confidence rank to the median."""
    ranked = rows[np.argsort(confidence[rows], kind="stable")]
    nearest = np.argsort(np.abs(np.arange(len(ranked)) - (len(ranked) - 1) / 2), kind="stable")
    result: list[int] = ranked[nearest].tolist()
    return result


@step("computing heat maps")
def explain_images(
    explainer: Explainer,
    predictions: ImagePredictions,
    labels: Sequence[str],
    decode: Callable[[str], DecodedImage | None],
    rows: Sequence[int],
    method: Method | None,
    steps: int,
    moves: int,
) -> HeatmapGallery | None:
    """Heat maps for some rows of the predictions; None without a readable image.

    Args:
        decode: returns the preprocessed image at a path; None if the file is unreadable.
        method: as for `Explainer.explain`.
        steps, moves: number of steps of the deletion test, and of random placements of the mask.
    """
    images: list[ExplainedImage] = []
    method_name = ""
    for row in rows:
        path, target, image = predictions.paths[row], predictions.targets[row], decode(predictions.paths[row])
        if image is None:
            continue
        predicted = int(predictions.probabilities[row].argmax())
        explained = [predicted] if predicted in target or not target else [predicted, target[0]]
        explanations = [explainer.explain(image, label, method) for label in explained]
        deletion = explainer.deletion(explanations[0], n_steps=steps, n_random_maps=moves)
        heatmaps = [_heatmap(explanation, None if index else deletion) for index, explanation in enumerate(explanations)]
        true_labels = ", ".join(labels[label] for label in target) or "no label"
        picture = data_uri(contact_sheet.square_webp(image.pixels, IMAGE_SIZE))
        images.append(ExplainedImage(path, true_labels, predicted in target, picture, tuple(heatmaps)))
        method_name = METHOD_NAMES[explanations[0].method]
    return HeatmapGallery(method_name, tuple(images)) if images else None


def _heatmap(explanation: Explanation, deletion: Deletion | None) -> Heatmap:
    picture = blend(explanation.decoded.pixels, normalize(explanation), IMAGE_SIZE)
    return Heatmap(
        explanation.label, explanation.probability, data_uri(contact_sheet.square_webp(picture, IMAGE_SIZE)), deletion
    )

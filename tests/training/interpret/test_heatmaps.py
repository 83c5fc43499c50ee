"""Heat maps of correct and misclassified images: selection, content and the deletion summary."""

import numpy as np
import pytest

from graft.service.explain.deletion import Deletion
from graft.service.explain.explainer import Explainer
from graft.training.interpret.heatmaps import ExplainedImage, Heatmap, HeatmapGallery, explain_images, select_examples
from graft.training.visualization.gallery import ImagePredictions


def answers(*rows: tuple[int, list[float]]) -> ImagePredictions:
    """(true label, probabilities) of each image."""
    probabilities = np.array([row_probabilities for _, row_probabilities in rows], np.float32)
    return ImagePredictions(
        tuple(f"{row}.png" for row in range(len(rows))), tuple((truth,) for truth, _ in rows), probabilities
    )


def test_correct_examples_cover_every_label_with_median_confidence():
    predictions = answers(
        (0, [0.99, 0.01]), (0, [0.7, 0.3]), (0, [0.8, 0.2]), (1, [0.4, 0.6]), (1, [0.1, 0.9]), (1, [0.2, 0.8])
    )  # fmt: skip
    assert select_examples(predictions, 2) == [2, 5]


def test_most_confident_errors_follow():
    predictions = answers((0, [0.9, 0.1]), (1, [0.6, 0.4]), (1, [0.8, 0.2]), (0, [0.3, 0.7]))
    assert select_examples(predictions, 2) == [0, 2, 3] or select_examples(predictions, 2)[1:] == [2, 3]
    assert select_examples(predictions, 1) == [0, 2]


def test_perfect_predictions_have_no_errors():
    assert select_examples(answers((0, [0.9, 0.1]), (1, [0.2, 0.8])), 4) == [0, 1]


def test_errors_have_heatmaps_for_predicted_and_true_label(model, clothes):
    (truth, encoded), explainer = clothes[3], Explainer(model.artifact)
    labels, decoded = model.manifest.labels, model.decode(encoded)
    probabilities = np.zeros((2, 10), np.float32)
    probabilities[0, labels.index(truth)] = probabilities[1, 7] = 1
    target = (labels.index(truth),)
    predictions = ImagePredictions(("right.png", "wrong.png"), (target, target), probabilities)
    gallery = explain_images(explainer, predictions, labels, lambda _: decoded, [0, 1], None, 2, 9)
    correct, wrong = gallery.images
    assert (gallery.method, correct.correct, wrong.correct) == ("class activation maps", True, False)
    assert [heatmap.label for heatmap in correct.heatmaps] == [truth]
    assert [heatmap.label for heatmap in wrong.heatmaps] == [labels[7], truth]
    assert all(heatmap.picture.startswith("data:image/webp") for image in gallery.images for heatmap in image.heatmaps)
    assert wrong.heatmaps[1].deletion is None
    assert wrong.heatmaps[0].deletion is not None


def test_no_images_give_no_gallery(model):
    assert (
        explain_images(Explainer(model.artifact), answers((0, [1.0, 0.0])), ("a", "b"), lambda _: None, [], None, 2, 9) is None
    )


@pytest.mark.parametrize(
    ("chances", "expected"),
    [((1.0, 1.0, 0.2), "The deletion test confirms 2 of 3 maps"), ((0.3, 0.1), "The deletion test confirms none of 2 maps")],
)
def test_summary_reports_the_deletion_test(chances, expected):
    shown = tuple(
        ExplainedImage("a.png", "a", True, "", (Heatmap("a", 0.9, "", Deletion(0.25, 0.5, share, ())),)) for share in chances
    )
    summary = HeatmapGallery("class activation maps", shown).summary
    assert summary.startswith(expected)
    assert "25.0% with the highlighted region occluded, and 50.0% with other regions occluded." in summary

"""The tables of `graft evaluate`: the weakest classes, the confusion matrix or the most confused pairs."""

import numpy as np
import pytest

from graft.service.manifest import Calibration
from graft.training.cli import show
from graft.training.cli.evaluation_tables import confused_pairs, confusion_matrix, n_confused_pairs, per_class
from graft.training.evaluation.per_class import multiclass_metrics, multilabel_metrics
from graft.training.results import Evaluation


def evaluation(labels: tuple[str, ...], pairs: list[tuple[int, int]]) -> Evaluation:
    """Of images with these true and predicted labels."""
    truth, predicted = np.array(pairs).T
    probabilities = np.eye(len(labels))[predicted] * 0.9 + 0.01
    return record(labels, *multiclass_metrics(probabilities, truth, labels, calibration(len(labels))), truth, predicted)


def calibration(n_labels: int) -> Calibration:
    return Calibration(
        n_images=100,
        target_precision=0.95,
        thresholds=(0.5,) * n_labels,
        coverage=0.9,
        set_thresholds=(0.1,) * n_labels,
        covered_by_label=(True,) * n_labels,
        outlier_k=1,
        outlier_threshold=1.0,
    )


def record(labels, metrics, by_label, truth=None, predicted=None) -> Evaluation:
    confusion = None
    if truth is not None:
        confusion = tuple(
            tuple(int(((truth == row) & (predicted == column)).sum()) for column in range(len(labels)))
            for row in range(len(labels))
        )
    return Evaluation(
        n=sum(scores.support for scores in by_label),
        multilabel=truth is None,
        temperature=1.0,
        metrics=metrics,
        labels=by_label,
        confusion=confusion,
        reliability_before=(),
        reliability_after=(),
        conformal=None,
        outliers=None,
    )


# 4 cats of which 3 are found, 2 dogs of which 1 is found, no bird.
PETS = evaluation(("cat", "dog", "bird"), [(0, 0), (0, 0), (0, 0), (0, 1), (1, 1), (1, 0)])


def test_weakest_class_comes_first_and_a_class_without_images_last():
    table = per_class(PETS)
    assert table.headers == ("label", "images", "precision", "recall", "F1", "95 % interval")
    assert [row[:5] for row in table.rows] == [
        ("dog", "2", "50.0%", "50.0%", "50.0%"),
        ("cat", "4", "75.0%", "75.0%", "75.0%"),
        ("bird", "0", "–", "–", "–"),
    ]


def test_multilabel_classes_are_sorted_by_average_precision():
    targets = np.array([[True, True], [False, True], [True, False], [False, False]])
    probabilities = np.array([[0.9, 0.2], [0.1, 0.3], [0.8, 0.9], [0.2, 0.1]])
    found = record(("red", "round"), *multilabel_metrics(probabilities, targets, ("red", "round"), calibration(2)))
    table = per_class(found)
    assert table.headers[:3] == ("label", "images", "average precision")
    # "round": the positives have ranks 2 and 3, so (1/2 + 2/3) / 2.
    assert [row[:3] for row in table.rows] == [("round", "2", "58.3%"), ("red", "2", "100.0%")]


def test_confusion_matrix_has_true_labels_in_rows():
    table = confusion_matrix(PETS)
    assert table.headers == ("true label", "cat", "dog", "bird")
    assert table.rows == (("cat", "3", "1", "0"), ("dog", "1", "1", "0"), ("bird", "0", "0", "0"))
    assert table.cell_styles[0, 1] == "green"
    assert table.cell_styles[0, 2] == "red"
    assert table.cell_styles[0, 3] == "dim"


def test_numbers_stand_for_labels_that_do_not_fit():
    assert confusion_matrix(PETS, 20).headers == ("true label", "cat", "dog", "bird")
    table = confusion_matrix(PETS, 19)
    assert table.headers == ("true label", "1", "2", "3")
    assert [row[0] for row in table.rows] == [" 1 cat", " 2 dog", " 3 bird"]


def test_pairs_are_sorted_by_their_number_of_images():
    labels = tuple(f"label {number}" for number in range(30))
    found = evaluation(labels, [(0, 1)] * 3 + [(0, 0)] * 3 + [(5, 6)] * 4 + [(7, 7)] * 9)
    table = confused_pairs(found)
    assert table.rows == (("label 5", "label 6", "4", "100.0%"), ("label 0", "label 1", "3", "50.0%"))
    assert n_confused_pairs(found) == 2


def many_labels(n_labels: int) -> Evaluation:
    labels = tuple(f"label {number}" for number in range(n_labels))
    pairs = [(label, (label + 1) % n_labels if image == 0 else label) for label in range(n_labels) for image in range(4)]
    return evaluation(labels, pairs)


@pytest.mark.parametrize(("n_labels", "has_matrix"), [(12, True), (13, False)])
def test_many_labels_have_a_list_of_pairs_in_place_of_a_matrix(n_labels: int, has_matrix: bool, capsys):
    show._classes(many_labels(n_labels))
    output = capsys.readouterr().out
    assert ("confusion matrix: true labels in rows" in output) == has_matrix
    assert ("most confused pairs" in output) != has_matrix


def test_rows_that_are_left_out_are_counted(capsys):
    show._classes(many_labels(50))
    lines = capsys.readouterr().out.splitlines()
    assert lines.count("and 30 more; --json has all") == 2  # classes, and pairs
    assert sum(line.startswith("label ") for line in lines) == 41  # 20 rows each, and the header of the classes


def test_faultless_model_has_no_pairs(capsys):
    labels = tuple(f"label {number}" for number in range(13))
    show._classes(evaluation(labels, [(label, label) for label in range(13)]))
    assert capsys.readouterr().out.endswith("no image was misclassified\n")

"""Scores by label and over labels: worked out on paper, and the same as scikit-learn's."""

import numpy as np
import pytest
from sklearn import metrics

from graft.service.artifact import Calibration
from graft.training.evaluation.per_class import average_precisions, confusion, macro_precision, several, single

# Rows are images; their labels are 0, 0, 1, 1, 2. The last image of label 0 is taken for a 1.
CHANCES = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.2, 0.7, 0.1], [0.1, 0.9, 0.0], [0.2, 0.2, 0.6]])
TARGETS = np.array([0, 0, 1, 1, 2])


def rule(*thresholds: float | None, sets: bool = True) -> Calibration:
    return Calibration(
        wanted_precision=0.95,
        thresholds=thresholds,
        coverage=0.9 if sets else None,
        set_threshold=0.5 if sets else None,
        outlier_k=1,
        outlier_threshold=1,
    )


def drawn_single(seed: int, n: int = 300, n_labels: int = 7) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, n_labels)) * 2
    labels = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels


def drawn_several(seed: int, n: int = 300, n_labels: int = 5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, n_labels)) + random.normal(size=(n, 1)) - 1
    return 1 / (1 + np.exp(-logits)), random.random(logits.shape) < 1 / (1 + np.exp(-logits))


def test_confusion_counts_images_of_a_row_given_a_column():
    assert confusion(CHANCES, TARGETS).tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 1]]


def test_scores_by_label_by_hand():
    _, by_label = single(CHANCES, TARGETS, ("ant", "bee", "cow"), rule(None, None, None))
    found = [
        (scores.label, scores.support, scores.precision.value, scores.recall.value, scores.f1.value) for scores in by_label
    ]
    assert found == [
        ("ant", 2, 1.0, 0.5, pytest.approx(2 / 3)),
        ("bee", 2, pytest.approx(2 / 3), 1.0, pytest.approx(0.8)),
        ("cow", 1, 1.0, 1.0, 1.0),
    ]


def test_scores_over_labels_by_hand():
    found, _ = single(CHANCES, TARGETS, ("ant", "bee", "cow"), rule(None, None, None))
    assert {name: estimate.value for name, estimate in found.items()} == {
        "accuracy": 0.8,
        "balanced_accuracy": pytest.approx((0.5 + 1 + 1) / 3),
    }


def test_a_precision_above_a_threshold_counts_only_what_is_above():
    _, by_label = single(CHANCES, TARGETS, ("ant", "bee", "cow"), rule(None, 0.7, 0.95))
    assert by_label[1].precision_above.value == 1  # the bee that is an ant has 0.6
    assert by_label[0].precision_above is None
    assert by_label[2].precision_above is None


@pytest.mark.parametrize("seed", range(3))
def test_one_label_an_image_is_scored_as_scikit_learn_does(seed: int):
    chances, labels = drawn_single(seed)
    said = chances.argmax(axis=1)
    found, by_label = single(chances, labels, tuple("abcdefg"), rule(*[None] * 7))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(labels, said)
    np.testing.assert_allclose([scores.precision.value for scores in by_label], precision)
    np.testing.assert_allclose([scores.recall.value for scores in by_label], recall)
    np.testing.assert_allclose([scores.f1.value for scores in by_label], f1)
    assert [scores.support for scores in by_label] == support.tolist()
    assert found["accuracy"].value == pytest.approx(metrics.accuracy_score(labels, said))
    assert found["balanced_accuracy"].value == pytest.approx(metrics.balanced_accuracy_score(labels, said))
    assert found["top5"].value == pytest.approx(metrics.top_k_accuracy_score(labels, chances, k=5))
    np.testing.assert_array_equal(confusion(chances, labels), metrics.confusion_matrix(labels, said))


@pytest.mark.parametrize("seed", range(3))
def test_several_labels_an_image_are_scored_as_scikit_learn_does(seed: int):
    chances, targets = drawn_several(seed)
    thresholds = (0.5, 0.4, 0.3, 0.2, 0.6)
    said = chances >= thresholds
    found, by_label = several(chances, targets, tuple("abcde"), rule(*thresholds, sets=False))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(targets, said)
    np.testing.assert_allclose([scores.precision.value for scores in by_label], precision)
    np.testing.assert_allclose([scores.recall.value for scores in by_label], recall)
    np.testing.assert_allclose([scores.f1.value for scores in by_label], f1)
    assert [scores.support for scores in by_label] == support.tolist()
    expected = metrics.average_precision_score(targets, chances, average=None)
    np.testing.assert_allclose([scores.average_precision.value for scores in by_label], expected)
    assert found["map"].value == pytest.approx(metrics.average_precision_score(targets, chances))
    assert found["micro_f1"].value == pytest.approx(metrics.f1_score(targets, said, average="micro"))
    assert found["macro_f1"].value == pytest.approx(metrics.f1_score(targets, said, average="macro"))
    assert found["exact_match"].value == pytest.approx(metrics.accuracy_score(targets, said))


def test_every_value_lies_in_its_interval():
    for found, by_label in (
        single(*drawn_single(0), tuple("abcdefg"), rule(*[0.9] * 7)),
        several(*drawn_several(0), tuple("abcde"), rule(*[0.5] * 5, sets=False)),
    ):
        estimates = [*found.values()]
        for scores in by_label:
            measured = (scores.precision, scores.recall, scores.f1, scores.average_precision, scores.precision_above)
            estimates += [estimate for estimate in measured if estimate is not None]
        assert all(0 <= estimate.low <= estimate.value <= estimate.high <= 1 for estimate in estimates)


@pytest.mark.parametrize("name", ["map", "micro_f1", "macro_f1", "exact_match"])
def test_intervals_over_labels_hold_as_often_as_they_say(name: str):
    everything = drawn_several(0, n=40_000)
    labels, calibration = tuple("abcde"), rule(*[0.4] * 5, sets=False)
    true = several(*everything, labels, calibration)[0][name].value
    found = [several(*drawn_several(seed, n=150), labels, calibration)[0][name] for seed in range(1, 301)]
    assert np.mean([estimate.low <= true <= estimate.high for estimate in found]) > 0.91


def test_top_5_of_equal_chances_keeps_the_labels_order():
    found, _ = single(np.full((7, 7), 1 / 7), np.arange(7), tuple("abcdefg"), rule(*[None] * 7))
    assert found["top5"].value == 5 / 7


@pytest.mark.parametrize("n_labels", [2, 5])
def test_few_labels_have_no_top_5(n_labels: int):
    found, _ = single(*drawn_single(0, n_labels=n_labels), tuple("abcde")[:n_labels], rule(*[None] * n_labels))
    assert "top5" not in found


def test_a_label_without_test_images_has_no_recall_and_does_not_count():
    chances, labels = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]]), np.array([0, 1])
    found, by_label = single(chances, labels, ("ant", "bee", "cow"), rule(None, None, None))
    assert (by_label[2].support, by_label[2].precision, by_label[2].recall, by_label[2].f1) == (0, None, None, None)
    assert found["balanced_accuracy"].value == 1


def test_a_label_that_no_image_has_is_left_out_of_the_mean_average_precision():
    chances, targets = np.array([[0.9, 0.5], [0.1, 0.4]]), np.array([[True, False], [False, False]])
    mean, parts = macro_precision(*average_precisions(chances, targets), targets)
    assert (mean.value, parts[1]) == (1, None)


def test_images_without_any_label_cannot_be_ranked():
    with pytest.raises(ValueError, match="None of the images has any label"):
        several(np.array([[0.9, 0.5]]), np.zeros((1, 2), bool), ("ant", "bee"), rule(0.5, 0.5, sets=False))


def test_images_that_are_rightly_given_nothing_are_an_exact_match():
    chances, targets = np.array([[0.1, 0.1], [0.9, 0.1]]), np.array([[False, False], [True, False]])
    found, _ = several(chances, targets, ("ant", "bee"), rule(0.5, 0.5, sets=False))
    assert found["exact_match"].value == 1
    assert found["micro_f1"].value == 1

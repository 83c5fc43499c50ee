"""Per-class and averaged metrics: computed by hand, and against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics

from graft.service.manifest import Calibration
from graft.training.evaluation.average_precision import average_precisions, macro_average_precision
from graft.training.evaluation.clusters import variance_inflation
from graft.training.evaluation.confidence_intervals import design_effect, f1_interval, macro_mean_interval, proportion, ratio
from graft.training.evaluation.per_class import confusion_matrix, multiclass_metrics, multilabel_metrics
from graft.training.results import Estimate

# Rows are images; their labels are 0, 0, 1, 1, 2. The last image of label 0 is predicted as 1.
PROBABILITIES = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.2, 0.7, 0.1], [0.1, 0.9, 0.0], [0.2, 0.2, 0.6]])
TARGETS = np.array([0, 0, 1, 1, 2])


def calibrated(*thresholds: float | None, sets: bool = True) -> Calibration:
    return Calibration(
        n_images=100,
        target_precision=0.95,
        thresholds=thresholds,
        coverage=0.9 if sets else None,
        set_thresholds=(0.5,) * len(thresholds) if sets else None,
        covered_by_label=(True,) * len(thresholds),
        outlier_k=1,
        outlier_threshold=1,
    )


def random_single_label(seed: int, n: int = 300, n_labels: int = 7) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, n_labels)) * 2
    labels = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels


def random_multilabel(seed: int, n: int = 300, n_labels: int = 5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, n_labels)) + random.normal(size=(n, 1)) - 1
    return 1 / (1 + np.exp(-logits)), random.random(logits.shape) < 1 / (1 + np.exp(-logits))


def test_confusion_matrix_by_hand():
    assert confusion_matrix(PROBABILITIES, TARGETS).tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 1]]


def test_per_class_metrics_by_hand():
    _, by_label = multiclass_metrics(PROBABILITIES, TARGETS, ("ant", "bee", "cow"), calibrated(None, None, None))
    results = [
        (scores.label, scores.support, scores.precision.value, scores.recall.value, scores.f1.value) for scores in by_label
    ]
    assert results == [
        ("ant", 2, 1.0, 0.5, pytest.approx(2 / 3)),
        ("bee", 2, pytest.approx(2 / 3), 1.0, pytest.approx(0.8)),
        ("cow", 1, 1.0, 1.0, 1.0),
    ]


def test_averaged_metrics_by_hand():
    results, _ = multiclass_metrics(PROBABILITIES, TARGETS, ("ant", "bee", "cow"), calibrated(None, None, None))
    assert {name: estimate.value for name, estimate in results.items()} == {
        "accuracy": 0.8,
        "balanced_accuracy": pytest.approx((0.5 + 1 + 1) / 3),
        "macro_f1": pytest.approx((2 / 3 + 4 / 5 + 1) / 3),
    }


def test_precision_above_a_threshold_counts_only_predictions_above_it():
    _, by_label = multiclass_metrics(PROBABILITIES, TARGETS, ("ant", "bee", "cow"), calibrated(None, 0.7, 0.95))
    assert by_label[1].precision_above.value == 1  # the ant predicted as bee has 0.6
    assert by_label[0].precision_above is None
    assert by_label[2].precision_above is None


@pytest.mark.parametrize("seed", range(3))
def test_single_label_metrics_match_scikit_learn(seed: int):
    probabilities, labels = random_single_label(seed)
    predicted = probabilities.argmax(axis=1)
    results, by_label = multiclass_metrics(probabilities, labels, tuple("abcdefg"), calibrated(*[None] * 7))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(labels, predicted)
    np.testing.assert_allclose([scores.precision.value for scores in by_label], precision)
    np.testing.assert_allclose([scores.recall.value for scores in by_label], recall)
    np.testing.assert_allclose([scores.f1.value for scores in by_label], f1)
    assert [scores.support for scores in by_label] == support.tolist()
    assert results["accuracy"].value == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert results["balanced_accuracy"].value == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
    assert results["top5"].value == pytest.approx(metrics.top_k_accuracy_score(labels, probabilities, k=5))
    np.testing.assert_array_equal(confusion_matrix(probabilities, labels), metrics.confusion_matrix(labels, predicted))


@pytest.mark.parametrize("seed", range(3))
def test_multilabel_metrics_match_scikit_learn(seed: int):
    probabilities, targets = random_multilabel(seed)
    thresholds = (0.5, 0.4, 0.3, 0.2, 0.6)
    predicted = probabilities >= thresholds
    results, by_label = multilabel_metrics(probabilities, targets, tuple("abcde"), calibrated(*thresholds, sets=False))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(targets, predicted)
    np.testing.assert_allclose([scores.precision.value for scores in by_label], precision)
    np.testing.assert_allclose([scores.recall.value for scores in by_label], recall)
    np.testing.assert_allclose([scores.f1.value for scores in by_label], f1)
    assert [scores.support for scores in by_label] == support.tolist()
    expected = metrics.average_precision_score(targets, probabilities, average=None)
    np.testing.assert_allclose([scores.average_precision.value for scores in by_label], expected)
    assert results["map"].value == pytest.approx(metrics.average_precision_score(targets, probabilities))
    assert results["micro_f1"].value == pytest.approx(metrics.f1_score(targets, predicted, average="micro"))
    assert results["macro_f1"].value == pytest.approx(metrics.f1_score(targets, predicted, average="macro"))
    assert results["exact_match"].value == pytest.approx(metrics.accuracy_score(targets, predicted))


def test_every_value_lies_in_its_interval():
    for results, by_label in (
        multiclass_metrics(*random_single_label(0), tuple("abcdefg"), calibrated(*[0.9] * 7)),
        multilabel_metrics(*random_multilabel(0), tuple("abcde"), calibrated(*[0.5] * 5, sets=False)),
    ):
        estimates = [*results.values()]
        for scores in by_label:
            measured = (scores.precision, scores.recall, scores.f1, scores.average_precision, scores.precision_above)
            estimates += [estimate for estimate in measured if estimate is not None]
        assert all(0 <= estimate.low <= estimate.value <= estimate.high <= 1 for estimate in estimates)


@pytest.mark.parametrize("name", ["map", "micro_f1", "macro_f1", "exact_match"])
def test_coverage_of_intervals_of_averaged_metrics(name: str):
    population = random_multilabel(0, n=40_000)
    labels, calibration = tuple("abcde"), calibrated(*[0.4] * 5, sets=False)
    true = multilabel_metrics(*population, labels, calibration)[0][name].value
    results = [multilabel_metrics(*random_multilabel(seed, n=150), labels, calibration)[0][name] for seed in range(1, 301)]
    assert np.mean([estimate.low <= true <= estimate.high for estimate in results]) > 0.91


def test_top_5_breaks_ties_by_label_index():
    results, _ = multiclass_metrics(np.full((7, 7), 1 / 7), np.arange(7), tuple("abcdefg"), calibrated(*[None] * 7))
    assert results["top5"].value == 5 / 7


@pytest.mark.parametrize("n_labels", [2, 5])
def test_five_or_fewer_labels_have_no_top_5(n_labels: int):
    outputs = random_single_label(0, n_labels=n_labels)
    results, _ = multiclass_metrics(*outputs, tuple("abcde")[:n_labels], calibrated(*[None] * n_labels))
    assert "top5" not in results


def test_label_without_test_images_has_no_recall_and_is_not_averaged():
    probabilities, labels = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]]), np.array([0, 1])
    results, by_label = multiclass_metrics(probabilities, labels, ("ant", "bee", "cow"), calibrated(None, None, None))
    assert (by_label[2].support, by_label[2].precision, by_label[2].recall, by_label[2].f1) == (0, None, None, None)
    assert results["balanced_accuracy"].value == 1


def test_mean_average_precision_excludes_labels_without_images():
    probabilities, targets = np.array([[0.9, 0.5], [0.1, 0.4]]), np.array([[True, False], [False, False]])
    mean, by_label = macro_average_precision(*average_precisions(probabilities, targets), targets)
    assert (mean.value, by_label[1]) == (1, None)


def test_six_labels_have_a_top_5():
    results, _ = multiclass_metrics(np.eye(6), np.arange(6)[::-1].copy(), tuple("abcdef"), calibrated(*[None] * 6))
    assert results["top5"].value == 5 / 6  # the sixth has the last of five equal probabilities


def check(found: Estimate | None, expected: Estimate | None) -> None:
    assert (found is None) == (expected is None)
    if found and expected:
        assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high), rel=1e-9)


def naive_f1(both: np.ndarray, either: np.ndarray, clusters: np.ndarray) -> Estimate | None:
    n_both, n = both.sum(), either.sum()
    return f1_interval(n_both, n, variance_inflation(both - n_both / n * either, either.astype(float), clusters)) if n else None


GROUPS = np.random.default_rng(9).permutation(np.arange(120) // 4)


def test_intervals_of_a_label_are_those_of_its_own_images_in_their_groups():
    random, labels = np.random.default_rng(5), np.random.default_rng(6).integers(0, 6, 120)
    probabilities = random.dirichlet(np.ones(7), 120)
    probabilities[np.arange(80), labels[:80]] += 0.5  # no image has the last label
    calibration = calibrated(0.3, 0.5, None, 0.6, 0.4, 0.2, 0.9)
    results, by_label = multiclass_metrics(probabilities, labels, tuple("abcdefg"), calibration, GROUPS)
    predicted, confidences = probabilities.argmax(axis=1), probabilities.max(axis=1)
    correct, covered = predicted == labels, probabilities[np.arange(120), labels] >= 0.5
    covered |= correct  # a set is never empty
    for label, scores in enumerate(by_label):
        has, is_predicted = labels == label, predicted == label
        above = is_predicted & (confidences >= (calibration.thresholds[label] or 2))
        check(scores.recall, ratio(correct & has, has, GROUPS))
        check(scores.precision, ratio(correct & is_predicted, is_predicted, GROUPS))
        check(scores.precision_above, ratio(correct & above, above, GROUPS))
        check(scores.coverage, ratio(covered & has, has, GROUPS))
        check(scores.f1, naive_f1(has & is_predicted, has | is_predicted, GROUPS))
        assert scores.threshold == calibration.thresholds[label]
        assert scores.covered_by_label is True
    check(results["accuracy"], ratio(correct, np.ones(120), GROUPS))
    recall, support = np.array([correct[labels == label].mean() for label in range(6)]), np.bincount(labels)
    influences = (correct - recall[labels]) / support[labels]
    inflation = variance_inflation(influences, 1 / support[labels], GROUPS)
    check(results["balanced_accuracy"], macro_mean_interval(recall, support / inflation))


def f1_with_weights(predicted: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return 2 * (weights @ (predicted & targets)) / (weights @ (predicted.astype(int) + targets))


@pytest.mark.parametrize("groups", [np.arange(120), GROUPS])
def test_intervals_of_several_labels_are_those_of_their_own_images_in_their_groups(groups):
    random = np.random.default_rng(7)
    targets = random.random((120, 4)) < [0.5, 0.3, 0.1, 0.4]
    probabilities = np.clip(0.4 * targets + 0.6 * random.random((120, 4)), 0, 1)
    predicted = probabilities >= 0.5
    results, by_label = multilabel_metrics(probabilities, targets, tuple("abcd"), calibrated(*[0.5] * 4, sets=False), groups)
    both, either = predicted & targets, predicted | targets
    for label, scores in enumerate(by_label):
        check(scores.recall, ratio(both[:, label], targets[:, label], groups))
        check(scores.precision, ratio(both[:, label], predicted[:, label], groups))
        check(scores.f1, naive_f1(both[:, label], either[:, label], groups))
        assert scores.precision_above == scores.precision
    check(results["exact_match"], ratio((predicted == targets).all(axis=1), np.ones(120), groups))
    steps = 1e-4 * np.eye(120)
    influences = np.array([f1_with_weights(predicted, targets, 1 + one) for one in steps])
    influences = (influences - np.array([f1_with_weights(predicted, targets, 1 - one) for one in steps])) / 2e-4
    inflation = variance_inflation(influences.sum(axis=1), either @ (1 / either.sum(axis=0)), groups)
    # The variance of F1 = 2 J / (1 + J) is that of J times (2 / (1 + J)^2)^2; as J (1 - J) / n = F1 (1 - F1) / m:
    jaccard = both.sum(axis=0) / either.sum(axis=0)
    sizes = either.sum(axis=0) * (1 + jaccard) ** 2 / 2
    found, expected = (
        results["macro_f1"],
        macro_mean_interval(2 * jaccard / (1 + jaccard), sizes / inflation, design_effect(influences)),
    )
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high), abs=1e-6)


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_macro_f1_of_one_label_per_image_is_that_of_as_many_yes_and_no_answers(groups):
    random = np.random.default_rng(5)
    probabilities = random.dirichlet(np.ones(3), 120)
    targets = random.integers(0, 3, 120)
    single, _ = multiclass_metrics(probabilities, targets, tuple("abc"), calibrated(None, None, None), groups)
    one_hot = np.eye(3)
    several, _ = multilabel_metrics(
        one_hot[probabilities.argmax(axis=1)],
        one_hot[targets] > 0,
        tuple("abc"),
        calibrated(0.5, 0.5, 0.5, sets=False),
        groups,
    )
    assert single["macro_f1"] == several["macro_f1"]


@pytest.mark.parametrize(("groups", "inflation"), [(None, 3), (np.array([0, 0, 1, 1]), 6)])
def test_labels_of_one_image_do_not_count_as_independent_in_micro_f1(groups, inflation):
    # Two images have 3 labels and are right, two have none and are given 3: each image counts once.
    targets = np.repeat([[True, True, True], [False, False, False]], 2, axis=0)
    calibration = calibrated(0.5, 0.5, 0.5, sets=False)
    results, _ = multilabel_metrics(np.ones((4, 3)), targets, tuple("abc"), calibration, groups)
    check(results["micro_f1"], f1_interval(6, 12, inflation))


def test_micro_f1_without_errors_counts_every_label():
    targets = np.array([[True, True], [True, False], [False, True]])
    results, _ = multilabel_metrics(targets.astype(float), targets, tuple("ab"), calibrated(0.5, 0.5, sets=False))
    check(results["micro_f1"], f1_interval(4, 4))
    check(results["exact_match"], proportion(3, 3))


def test_images_without_any_label_cannot_be_ranked():
    with pytest.raises(ValueError, match="None of the images has any label"):
        multilabel_metrics(np.array([[0.9, 0.5]]), np.zeros((1, 2), bool), ("ant", "bee"), calibrated(0.5, 0.5, sets=False))


def test_images_without_labels_can_be_an_exact_match():
    probabilities, targets = np.array([[0.1, 0.1], [0.9, 0.1]]), np.array([[False, False], [True, False]])
    results, _ = multilabel_metrics(probabilities, targets, ("ant", "bee"), calibrated(0.5, 0.5, sets=False))
    assert results["exact_match"].value == 1
    assert results["micro_f1"].value == 1

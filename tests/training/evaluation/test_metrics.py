"""Metrics: published values, scikit-learn's values, and properties of simulated data."""

from dataclasses import replace

import numpy as np
import pytest

from graft.service.inference import postprocess
from graft.service.inference.neighbors import NeighborIndex
from graft.training.data.dataset import Sample
from graft.training.evaluation import selective
from graft.training.evaluation.calibration import CalibrationSet, calibrate, per_sample_nll, temperature
from graft.training.evaluation.calibration_error import expected_calibration_error, reliability_bins
from graft.training.evaluation.confidence_intervals import mean_interval
from graft.training.evaluation.metrics import (
    accuracy_score,
    calibration_errors,
    evaluate,
    exact_match_score,
    log_loss,
    mean_average_precision,
    n_errors,
)
from graft.training.evaluation.outliers import build_neighbors, outlier_k, outlier_scores
from graft.training.evaluation.paired import paired_difference, paired_log_loss, per_sample_score
from graft.training.evaluation.predictions import Predictions
from graft.training.results import Estimate, Evaluation, LabelScores, never_predicted_warning


def predictions(right: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of n images; the first `right` images are predicted correctly."""
    logits = np.tile(np.array([[1.0, 0.0]], np.float32), (n, 1))
    return logits, np.array([0] * right + [1] * (n - right), np.int64)


@pytest.mark.parametrize(
    ("right", "n", "accuracy", "low", "high"),
    [
        (146, 153, 0.9542, 0.9086, 0.9777),
        (0, 10, 0.0, 0.0, 0.2775),
        (10, 10, 1.0, 0.7225, 1.0),
        (81, 263, 0.3080, 0.2553, 0.3662),
    ],
)
def test_accuracy_has_the_wilson_interval(right: int, n: int, accuracy: float, low: float, high: float):
    result = accuracy_score(*predictions(right, n))
    assert [result.accuracy, result.low, result.high] == pytest.approx([accuracy, low, high], abs=5e-5)
    assert result.n == n


def test_accuracy_of_no_images_is_unknown():
    result = accuracy_score(np.zeros((0, 3), np.float32), np.zeros(0, np.int64))
    assert (result.accuracy, result.low, result.high, result.n) == (0, 0, 1, 0)


@pytest.mark.parametrize("n", range(1, 60))
def test_accuracy_lies_in_its_interval(n: int):
    for right in range(n + 1):
        result = accuracy_score(*predictions(right, n))
        assert 0 <= result.low <= result.accuracy <= result.high <= 1


def test_errors_are_counted_by_image_or_by_decision():
    logits = np.array([[2.0, 1, 0], [0, 3, 1], [-1, 0, -2]], np.float32)
    assert n_errors(logits, np.array([0, 2, 1])) == 1
    # Positive logits are yes: 1 is no error of the first image, 2 are of the second, and 0 is a no in the third.
    targets = np.array([[True, True, False], [True, True, False], [False, True, False]])
    assert n_errors(logits, targets) == 3


def test_log_loss_of_a_guess_between_two_is_ln_2():
    assert log_loss(np.zeros((4, 2), np.float32), np.array([0, 1, 1, 0])) == pytest.approx(0.693147, abs=1e-6)


def test_log_loss_is_the_mean_over_images():
    logits = np.log(np.array([[0.9, 0.1], [0.5, 0.5]], np.float32))
    assert log_loss(logits, np.array([0, 1])) == pytest.approx(0.399254, abs=1e-5)


def test_confident_error_has_a_finite_log_loss():
    assert np.isfinite(log_loss(np.array([[5000.0, 0.0]], np.float32), np.array([1])))


def test_difference_from_itself_is_zero():
    logits, labels = predictions(7, 10)
    assert paired_difference(logits, logits, labels) == (0, 0, 0)


def test_difference_is_positive_if_the_first_is_better():
    better, labels = predictions(90, 100)
    worse = better.copy()
    worse[:30] = [0.0, 1.0]
    assert paired_difference(better, worse, labels)[0] == pytest.approx(0.3)
    assert paired_difference(worse, better, labels)[0] == pytest.approx(-0.3)


def test_interval_of_a_difference_is_binomial():
    better, labels = predictions(100, 100)
    worse = better.copy()
    worse[:30] = [0.0, 1.0]
    difference, low, high = paired_difference(better, worse, labels)
    # 30 of 100: the central 95 % of the binomial distribution is 21 to 39.
    assert (difference, low, high) == pytest.approx((0.30, 0.21, 0.39), abs=0.011)


def test_shared_errors_do_not_widen_the_interval():
    logits, labels = predictions(50, 100)
    shifted = logits + np.float32(0.5)  # other logits, same predictions
    assert paired_difference(logits, shifted, labels) == (0, 0, 0)


def random_outputs(n: int, seed: int = 0, scale: float = 1.0, several: bool = False) -> Predictions:
    """Outputs with targets sampled from the probabilities of the logits, which are then multiplied by `scale`."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, 6)) * 2
    sigmoids = random.random(logits.shape) < 1 / (1 + np.exp(-logits))
    targets = sigmoids if several else (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
    vectors = (random.normal(size=(n, 8)) + 1).astype(np.float32)
    return Predictions((scale * logits).astype(np.float32), vectors, targets, np.arange(len(targets)))


def held_out(validation: Predictions, neighbors: NeighborIndex) -> CalibrationSet:
    k = outlier_k(len(neighbors.paths))
    return CalibrationSet(validation, outlier_scores(neighbors, validation.vectors, k), k)


def evaluated(several: bool, scale: float = 1.5, n: int = 400) -> Evaluation:
    validation, test = random_outputs(n, 1, scale, several), random_outputs(n, 2, scale, several)
    samples = [Sample(str(number), (0,), digest=number.to_bytes(2)) for number in range(300)]
    neighbors = build_neighbors(samples, np.random.default_rng(3).normal(size=(300, 8)) + 1)
    fitted = temperature(validation.logits, validation.targets)
    calibration = calibrate(held_out(validation, neighbors), fitted)
    return evaluate(test, tuple("abcdef"), fitted, calibration, neighbors, ten_crop=test.logits)


@pytest.fixture(scope="module")
def single_label() -> Evaluation:
    return evaluated(several=False)


@pytest.fixture(scope="module")
def multi_label() -> Evaluation:
    return evaluated(several=True)


def test_metric_names_of_single_label_data(single_label: Evaluation):
    names = {"accuracy", "top5", "balanced_accuracy", "macro_f1", "log_loss", "brier", "ece_before", "ece_after"}
    assert (set(single_label.metrics), single_label.multilabel, single_label.n) == (names, False, 400)


def test_metric_names_of_multilabel_data(multi_label: Evaluation):
    names = {"map", "micro_f1", "macro_f1", "exact_match", "log_loss", "brier", "ece_before", "ece_after"}
    assert (set(multi_label.metrics), multi_label.multilabel) == (names, True)
    assert (multi_label.confusion, multi_label.conformal) == (None, None)


def test_single_label_losses_match_scikit_learn(single_label: Evaluation):
    from sklearn.metrics import brier_score_loss, log_loss

    test = random_outputs(400, 2, 1.5)
    probabilities = postprocess.to_probabilities(test.logits, single_label.temperature)
    assert single_label.metrics["log_loss"].value == pytest.approx(log_loss(test.targets, probabilities))
    expected = brier_score_loss(test.targets, probabilities, scale_by_half=False, labels=range(6))
    assert single_label.metrics["brier"].value == pytest.approx(expected)


def test_multilabel_losses_match_the_mean_over_labels_of_scikit_learn(multi_label: Evaluation):
    from sklearn.metrics import brier_score_loss, log_loss

    test = random_outputs(400, 2, 1.5, several=True)
    probabilities = postprocess.to_probabilities(test.logits, multi_label.temperature, multilabel=True)
    pairs = [(test.targets[:, label], probabilities[:, label]) for label in range(6)]
    assert multi_label.metrics["log_loss"].value == pytest.approx(np.mean([log_loss(*pair) for pair in pairs]))
    assert multi_label.metrics["brier"].value == pytest.approx(np.mean([brier_score_loss(*pair) for pair in pairs]))


@pytest.mark.parametrize("several", [False, True])
def test_temperature_reduces_the_calibration_error(several: bool):
    metrics = evaluated(several, scale=3, n=2000).metrics
    assert metrics["ece_before"].low > metrics["ece_after"].high
    assert metrics["ece_after"].low == 0


@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
def test_every_estimate_lies_in_its_interval(kind: str, request):
    metrics = request.getfixturevalue(kind).metrics
    assert all(estimate.low <= estimate.value <= estimate.high for estimate in metrics.values())
    assert all(estimate.low < estimate.high for estimate in metrics.values())


def test_confusion_matrix_counts_every_image(single_label: Evaluation):
    assert sum(map(sum, single_label.confusion)) == 400
    right = sum(single_label.confusion[label][label] for label in range(6))
    assert single_label.metrics["accuracy"].value == right / 400


def test_coverage_is_measured(single_label: Evaluation):
    assert single_label.conformal.promised == 0.9
    assert single_label.conformal.coverage.low < 0.9 < single_label.conformal.coverage.high + 0.03
    assert sum(single_label.conformal.sizes.values()) == 400
    mean = sum(size * count for size, count in single_label.conformal.sizes.items()) / 400
    assert single_label.conformal.mean_size == pytest.approx(mean)
    assert min(single_label.conformal.sizes) >= 1


@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
def test_about_five_percent_of_images_are_flagged(kind: str, request):
    outliers = request.getfixturevalue(kind).outliers
    assert outliers.flagged.low <= 0.07
    assert outliers.flagged.high >= 0.03


def top_labels(outputs: Predictions, divisor: float) -> tuple[np.ndarray, np.ndarray]:
    """The probability of each image's top label, (N, 1), and whether it is right."""
    probabilities = postprocess.to_probabilities(outputs.logits, divisor)
    return probabilities.max(axis=1)[:, None], (probabilities.argmax(axis=1) == outputs.targets)[:, None]


def test_calibration_is_measured_without_and_with_the_temperature(single_label: Evaluation):
    before, after = (top_labels(random_outputs(400, 2, 1.5), divisor) for divisor in (1, single_label.temperature))
    assert single_label.reliability_before == reliability_bins(*before)
    assert single_label.reliability_after == reliability_bins(*after)
    assert single_label.metrics["ece_before"] == expected_calibration_error(*before)
    assert single_label.metrics["ece_after"] == expected_calibration_error(*after)


def test_calibration_of_groups_counts_them():
    outputs = replace(random_outputs(400, 2, 3), clusters=np.arange(400) // 20)
    expected = tuple(expected_calibration_error(*top_labels(outputs, one), clusters=outputs.clusters) for one in (1, 2))
    assert calibration_errors(outputs, 2) == expected
    assert calibration_errors(replace(outputs, clusters=np.arange(400)), 2) != expected


def test_interval_of_the_losses_is_that_of_their_mean(single_label: Evaluation):
    test = random_outputs(400, 2, 1.5)
    expected = mean_interval(per_sample_nll(test.logits, test.targets, single_label.temperature), clusters=test.clusters)
    assert single_label.metrics["log_loss"] == expected
    assert expected.low > 0


def test_only_single_labels_have_selective_predictions(single_label: Evaluation, multi_label: Evaluation):
    assert multi_label.selective is None
    assert single_label.selective is not None
    assert single_label.selective.curve[-1].error.value == 1 - single_label.metrics["accuracy"].value
    assert len(single_label.selective.curve) == selective.MAX_POINTS


def test_equal_ten_crop_logits_have_no_gain(single_label: Evaluation):
    assert (single_label.ten_crop.value, single_label.ten_crop.low, single_label.ten_crop.high) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
def test_evaluation_survives_json(kind: str, request):
    result = request.getfixturevalue(kind)
    assert Evaluation.model_validate_json(result.model_dump_json()) == result


def test_evaluation_is_deterministic(single_label: Evaluation):
    assert evaluated(several=False) == single_label


def test_no_test_images_raise_an_error():
    empty = Predictions(np.zeros((0, 6), np.float32), np.zeros((0, 8), np.float32), *np.zeros((2, 0), np.int64))
    validation = random_outputs(50)
    neighbors = build_neighbors([Sample("a", (0,))], np.ones((1, 8)))
    with pytest.raises(ValueError, match="no test images"):
        evaluate(empty, tuple("abcdef"), 1.0, calibrate(held_out(validation, neighbors), 1.0), neighbors)


def test_mean_of_per_sample_scores_is_the_score():
    outputs = random_outputs(200, several=True)
    mean = mean_average_precision(outputs.logits, outputs.targets)
    assert per_sample_score(outputs.logits, outputs.targets).mean() == pytest.approx(mean.value)


def test_difference_in_mean_average_precision_matches_a_bootstrap():
    outputs, random = random_outputs(300, several=True), np.random.default_rng(5)
    baseline = outputs.logits + random.normal(size=outputs.logits.shape).astype(np.float32) * 2
    result = paired_difference(outputs.logits, baseline, outputs.targets)
    samples = []
    for rows in random.integers(0, 300, (300, 300)):
        first, second = (mean_average_precision(logits[rows], outputs.targets[rows]) for logits in (outputs.logits, baseline))
        samples.append(first.value - second.value)
    assert result == pytest.approx((np.mean(samples), *np.quantile(samples, [0.025, 0.975])), abs=0.012)
    assert result[1] > 0


@pytest.mark.parametrize("several", [False, True])
def test_log_loss_difference_is_positive_if_the_first_is_lower(several: bool):
    outputs = random_outputs(300, several=several)
    better, low, high = paired_log_loss(outputs.logits, outputs.logits * 3, outputs.targets)
    expected = log_loss(outputs.logits * 3, outputs.targets) - log_loss(outputs.logits, outputs.targets)
    assert better == pytest.approx(expected)
    assert 0 < low < better < high


def test_baseline_has_its_own_temperature():
    outputs = random_outputs(100)
    result = paired_log_loss(outputs.logits, outputs.logits * 2, outputs.targets, 1.0, 2.0)
    assert result == pytest.approx((0, 0, 0), abs=1e-6)


def test_exact_match_needs_all_labels():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.9], [0.1, 0.1], [0.6, 0.1]])
    targets = np.array([[True, False], [True, False], [False, False], [True, False]])
    result = exact_match_score(probabilities, targets, np.array([0.7, 0.5]))
    assert (result.accuracy, result.n) == (0.5, 4)


def evaluated_at(divisor: float) -> Evaluation:
    """Outputs of a calibrated network, evaluated at a temperature."""
    validation, test = random_outputs(300, 1), random_outputs(800, 2)
    samples = [Sample(str(number), (0,), digest=number.to_bytes(2)) for number in range(300)]
    neighbors = build_neighbors(samples, np.random.default_rng(3).normal(size=(300, 8)) + 1)
    return evaluate(test, tuple("abcdef"), divisor, calibrate(held_out(validation, neighbors), divisor), neighbors)


def test_temperature_that_makes_calibration_worse_is_named():
    evaluation = evaluated_at(3.0)
    before, after = evaluation.metrics["ece_before"].value, evaluation.metrics["ece_after"].value
    expected = f"temperature scaling made calibration worse on test: {before:.1%} before, {after:.1%} after"
    assert evaluation.warnings == (expected,)


@pytest.mark.parametrize("divisor", [1.0, 1.02])
def test_temperature_that_may_be_worse_by_chance_is_not_named(divisor: float):
    assert evaluated_at(divisor).warnings == ()


def test_label_that_is_never_predicted_is_named():
    def scores(label: str, support: int, precision: float | None) -> LabelScores:
        found = None if precision is None else Estimate(value=precision, low=0, high=1)
        return LabelScores(label=label, support=support, precision=found, recall=None, f1=None)

    predicted, rare = scores("cat", 90, 0.9), scores("crack", 7, None)
    assert never_predicted_warning([predicted, rare]) == "1 label is never predicted: crack (7 test images)"
    assert never_predicted_warning([predicted, scores("crack", 4, None)]) == ""
    many = [scores(f"label {number}", 5, None) for number in range(8)]
    expected = "8 labels are never predicted: label 0, label 1, label 2, label 3, label 4, … (40 test images)"
    assert never_predicted_warning([predicted, *many]) == expected


def test_evaluation_warns_of_a_label_that_is_never_predicted():
    validation, test = random_outputs(300, 1), random_outputs(800, 2)
    samples = [Sample(str(number), (0,), digest=number.to_bytes(2)) for number in range(300)]
    neighbors = build_neighbors(samples, np.random.default_rng(3).normal(size=(300, 8)) + 1)
    calibration = calibrate(held_out(validation, neighbors), 1.0)
    test.logits[:, 4] = -50
    evaluation = evaluate(test, tuple("abcdef"), 1.0, calibration, neighbors)
    assert any(warning.startswith("1 label is never predicted: e (") for warning in evaluation.warnings)

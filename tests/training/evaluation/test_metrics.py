"""Numbers that other people have published, or that follow from how the data were made."""

import numpy as np
import pytest

from graft.service.inference.postprocess import probabilities
from graft.training.data.dataset import Sample
from graft.training.evaluation.calibration import calibrate, neighbours_of, temperature
from graft.training.evaluation.metrics import (
    by_image,
    evaluate,
    log_loss,
    mean_average_precision,
    paired_difference,
    paired_log_loss,
    score,
    score_several,
)
from graft.training.evaluation.predictions import Answered
from graft.training.results import Evaluation


def answers(right: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of two labels of which the first `right` are right."""
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
def test_interval_is_wilsons(right: int, n: int, accuracy: float, low: float, high: float):
    found = score(*answers(right, n))
    assert [found.accuracy, found.low, found.high] == pytest.approx([accuracy, low, high], abs=5e-5)
    assert found.n == n


def test_no_images_say_nothing():
    found = score(np.zeros((0, 3), np.float32), np.zeros(0, np.int64))
    assert (found.low, found.high, found.n) == (0, 1, 0)


@pytest.mark.parametrize("n", range(1, 60))
def test_accuracy_lies_in_its_interval(n: int):
    for right in range(n + 1):
        found = score(*answers(right, n))
        assert 0 <= found.low <= found.accuracy <= found.high <= 1


def test_log_loss_of_a_guess_between_two_is_ln_2():
    assert log_loss(np.zeros((4, 2), np.float32), np.array([0, 1, 1, 0])) == pytest.approx(0.693147, abs=1e-6)


def test_log_loss_is_the_mean_over_images():
    logits = np.log(np.array([[0.9, 0.1], [0.5, 0.5]], np.float32))
    assert log_loss(logits, np.array([0, 1])) == pytest.approx(0.399254, abs=1e-5)


def test_certain_and_wrong_costs_much_but_not_infinitely():
    assert np.isfinite(log_loss(np.array([[5000.0, 0.0]], np.float32), np.array([1])))


def test_difference_from_itself_is_zero():
    logits, labels = answers(7, 10)
    assert paired_difference(logits, logits, labels) == (0, 0, 0)


def test_difference_counts_for_the_first():
    better, labels = answers(90, 100)
    worse = better.copy()
    worse[:30] = [0.0, 1.0]
    assert paired_difference(better, worse, labels)[0] == pytest.approx(0.3)
    assert paired_difference(worse, better, labels)[0] == pytest.approx(-0.3)


def test_interval_of_a_difference_is_the_binomials():
    better, labels = answers(100, 100)
    worse = better.copy()
    worse[:30] = [0.0, 1.0]
    difference, low, high = paired_difference(better, worse, labels)
    # 30 of 100: a binomial's middle 95 % goes from 21 to 39.
    assert (difference, low, high) == pytest.approx((0.30, 0.21, 0.39), abs=0.011)


def test_what_both_get_wrong_does_not_widen_the_interval():
    one, labels = answers(50, 100)
    other = one + np.float32(0.5)  # other numbers, same answers
    assert paired_difference(one, other, labels) == (0, 0, 0)


def drawn(n: int, seed: int = 0, boast: float = 1.0, several: bool = False) -> Answered:
    """Answers whose targets were drawn from the very probabilities of their logits, which are then made to boast."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, 6)) * 2
    sigmoids = random.random(logits.shape) < 1 / (1 + np.exp(-logits))
    targets = sigmoids if several else (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
    vectors = (random.normal(size=(n, 8)) + 1).astype(np.float32)
    return Answered((boast * logits).astype(np.float32), vectors, targets)


def evaluated(several: bool, boast: float = 1.5, n: int = 400) -> Evaluation:
    validation, test = drawn(n, 1, boast, several), drawn(n, 2, boast, several)
    samples = [Sample(str(number), (0,), digest=number.to_bytes(2)) for number in range(300)]
    neighbours = neighbours_of(samples, np.random.default_rng(3).normal(size=(300, 8)) + 1)
    found = temperature(validation.logits, validation.targets)
    calibration = calibrate(validation, found, neighbours)
    return evaluate(test, tuple("abcdef"), found, calibration, neighbours, ten_crop=test.logits)


@pytest.fixture(scope="module")
def one() -> Evaluation:
    return evaluated(several=False)


@pytest.fixture(scope="module")
def many() -> Evaluation:
    return evaluated(several=True)


def test_metrics_of_one_label_an_image(one: Evaluation):
    names = {"accuracy", "top5", "balanced_accuracy", "log_loss", "brier", "ece_before", "ece_after"}
    assert (set(one.metrics), one.multilabel, one.n) == (names, False, 400)


def test_metrics_of_several_labels_an_image(many: Evaluation):
    names = {"map", "micro_f1", "macro_f1", "exact_match", "log_loss", "brier", "ece_before", "ece_after"}
    assert (set(many.metrics), many.multilabel, many.confusion, many.conformal) == (names, True, None, None)


def test_losses_of_one_label_are_scikit_learns(one: Evaluation):
    from sklearn.metrics import brier_score_loss, log_loss

    test = drawn(400, 2, 1.5)
    chances = probabilities(test.logits, one.temperature)
    assert one.metrics["log_loss"].value == pytest.approx(log_loss(test.targets, chances))
    expected = brier_score_loss(test.targets, chances, scale_by_half=False, labels=range(6))
    assert one.metrics["brier"].value == pytest.approx(expected)


def test_losses_of_several_labels_are_scikit_learns_mean_over_labels(many: Evaluation):
    from sklearn.metrics import brier_score_loss, log_loss

    test = drawn(400, 2, 1.5, several=True)
    chances = probabilities(test.logits, many.temperature, multilabel=True)
    pairs = [(test.targets[:, label], chances[:, label]) for label in range(6)]
    assert many.metrics["log_loss"].value == pytest.approx(np.mean([log_loss(*pair) for pair in pairs]))
    assert many.metrics["brier"].value == pytest.approx(np.mean([brier_score_loss(*pair) for pair in pairs]))


@pytest.mark.parametrize("several", [False, True])
def test_the_temperature_mends_the_calibration(several: bool):
    metrics = evaluated(several, boast=3, n=2000).metrics
    assert metrics["ece_before"].low > metrics["ece_after"].high
    assert metrics["ece_after"].low == 0


@pytest.mark.parametrize("kind", ["one", "many"])
def test_every_estimate_lies_in_its_interval(kind: str, request):
    metrics = request.getfixturevalue(kind).metrics
    assert all(estimate.low <= estimate.value <= estimate.high for estimate in metrics.values())
    assert all(estimate.low < estimate.high for estimate in metrics.values())


def test_the_confusion_matrix_holds_every_image(one: Evaluation):
    assert sum(map(sum, one.confusion)) == 400
    right = sum(one.confusion[label][label] for label in range(6))
    assert one.metrics["accuracy"].value == right / 400


def test_the_promised_coverage_is_measured(one: Evaluation):
    assert one.conformal.promised == 0.9
    assert one.conformal.coverage.low < 0.9 < one.conformal.coverage.high + 0.03
    assert sum(one.conformal.sizes.values()) == 400
    mean = sum(size * count for size, count in one.conformal.sizes.items()) / 400
    assert one.conformal.mean_size == pytest.approx(mean)
    assert min(one.conformal.sizes) >= 1


@pytest.mark.parametrize("kind", ["one", "many"])
def test_about_one_in_twenty_images_is_flagged(kind: str, request):
    outliers = request.getfixturevalue(kind).outliers
    assert outliers.flagged.low <= 0.07
    assert outliers.flagged.high >= 0.03


def test_ten_looks_that_see_the_same_gain_nothing(one: Evaluation):
    assert (one.ten_crop.value, one.ten_crop.low, one.ten_crop.high) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["one", "many"])
def test_an_evaluation_survives_its_file(kind: str, request):
    found = request.getfixturevalue(kind)
    assert Evaluation.model_validate_json(found.model_dump_json()) == found


def test_the_same_answers_give_the_same_evaluation(one: Evaluation):
    assert evaluated(several=False) == one


def test_no_test_images_are_refused():
    empty = Answered(np.zeros((0, 6), np.float32), np.zeros((0, 8), np.float32), np.zeros(0, np.int64))
    validation = drawn(50)
    neighbours = neighbours_of([Sample("a", (0,))], np.ones((1, 8)))
    with pytest.raises(ValueError, match="no test images"):
        evaluate(empty, tuple("abcdef"), 1.0, calibrate(validation, 1.0, neighbours), neighbours)


def test_one_number_an_image_has_the_score_as_its_mean():
    answered = drawn(200, several=True)
    mean = mean_average_precision(answered.logits, answered.targets)
    assert by_image(answered.logits, answered.targets).mean() == pytest.approx(mean.value)


def test_a_difference_in_mean_average_precision_is_that_of_a_bootstrap():
    answered, random = drawn(300, several=True), np.random.default_rng(5)
    rival = answered.logits + random.normal(size=answered.logits.shape).astype(np.float32) * 2
    found = paired_difference(answered.logits, rival, answered.targets)
    draws = []
    for rows in random.integers(0, 300, (300, 300)):
        ours, theirs = (mean_average_precision(logits[rows], answered.targets[rows]) for logits in (answered.logits, rival))
        draws.append(ours.value - theirs.value)
    assert found == pytest.approx((np.mean(draws), *np.quantile(draws, [0.025, 0.975])), abs=0.012)
    assert found[1] > 0


@pytest.mark.parametrize("several", [False, True])
def test_a_difference_in_log_loss_counts_for_the_lower(several: bool):
    answered = drawn(300, several=several)
    better, low, high = paired_log_loss(answered.logits, answered.logits * 3, answered.targets)
    expected = log_loss(answered.logits * 3, answered.targets) - log_loss(answered.logits, answered.targets)
    assert better == pytest.approx(expected)
    assert 0 < low < better < high


def test_a_rival_is_judged_at_its_own_temperature():
    answered = drawn(100)
    found = paired_log_loss(answered.logits, answered.logits * 2, answered.targets, 1.0, 2.0)
    assert found == pytest.approx((0, 0, 0), abs=1e-6)


def test_several_labels_are_right_only_if_all_are():
    chances = np.array([[0.9, 0.1], [0.9, 0.9], [0.1, 0.1], [0.6, 0.1]])
    targets = np.array([[True, False], [True, False], [False, False], [True, False]])
    found = score_several(chances, targets, np.array([0.7, 0.5]))
    assert (found.accuracy, found.n) == (0.5, 4)

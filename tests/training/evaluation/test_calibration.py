"""What validation teaches: promises that hold on new images, and honesty where there were too few to promise by."""

import tracemalloc

import numpy as np
import pytest

from graft.service.inference.postprocess import conforming, given, probabilities
from graft.training.data.dataset import Sample
from graft.training.evaluation.calibration import (
    best_f1,
    calibrate,
    chosen_neighbours,
    exceeded_rarely,
    losses,
    neighbours_of,
    outlier_k,
    outlier_scores,
    set_threshold,
    sure,
    temperature,
)
from graft.training.evaluation.predictions import Answered


def single(n: int, seed: int = 0, n_labels: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits and the labels that were drawn from their softmax."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, n_labels)) * 2
    return logits, (logits + random.gumbel(size=logits.shape)).argmax(axis=1)


def several(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and the flags that were drawn from their sigmoids."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, 4)) * 2
    return logits, random.random(logits.shape) < 1 / (1 + np.exp(-logits))


def samples(counts: dict[int, int]) -> list[Sample]:
    """So many images of each label."""
    return [
        Sample(f"{label}/{number}", (label,), digest=bytes([label, number % 256, number // 256]))
        for label, count in counts.items()
        for number in range(count)
    ]


@pytest.mark.parametrize("drawn", [single, several])
@pytest.mark.parametrize("boast", [3.0, 1.0, 0.5])
def test_temperature_takes_back_what_the_logits_boast(drawn, boast: float):
    logits, targets = drawn(4000)
    assert temperature((logits * boast).astype(np.float32), targets) == pytest.approx(boast, rel=0.1)


def test_few_images_that_are_all_right_do_not_ask_for_certainty():
    logits = np.tile(np.array([[1.0, 0.0]], np.float32), (10, 1))
    assert 0.5 < temperature(logits, np.zeros(10, np.int64)) <= 1


def test_temperature_is_where_the_cost_is_lowest():
    logits, labels = single(300, seed=3)
    found = temperature((logits * 2).astype(np.float32), labels)
    grid = np.exp(np.linspace(np.log(0.25), np.log(4), 2001))
    costs = [losses(logits * 2, labels, t).sum() + 2.5 * np.log(t) ** 2 for t in grid]
    assert found == pytest.approx(grid[int(np.argmin(costs))], rel=2e-3)


def test_the_temperature_stays_within_reason():
    logits, labels = single(500)
    assert temperature((logits * 100).astype(np.float32), labels) == pytest.approx(4, rel=1e-3)
    assert temperature((logits / 100).astype(np.float32), labels) == pytest.approx(0.25, rel=1e-3)


def test_losses_by_hand():
    assert losses(np.log([[0.9, 0.1], [0.5, 0.5]]), np.array([0, 1])) == pytest.approx([0.105361, 0.693147], abs=1e-6)
    # Sigmoids of 0 and ln 3 are 1/2 and 3/4.
    assert losses(np.array([[0, np.log(3)]]), np.array([[True, False]])) == pytest.approx([(0.693147 + 1.386294) / 2], abs=1e-6)


@pytest.mark.parametrize("targets", [np.array([1]), np.array([[False, True]])])
def test_certain_and_wrong_costs_much_but_not_infinitely(targets: np.ndarray):
    assert 1000 < losses(np.array([[5000.0, -5000.0]]), targets)[0] < 11_000


@pytest.mark.parametrize(("n", "position"), [(9, 9), (18, 18), (19, 18), (99, 90), (999, 900)])
def test_the_rank_that_new_scores_exceed_rarely(n: int, position: int):
    # ceil((n + 1) * 0.9)
    assert exceeded_rarely(np.random.default_rng(0).permutation(np.arange(1.0, n + 1)), 0.9) == position


@pytest.mark.parametrize("n", range(9))
def test_too_few_scores_promise_nothing(n: int):
    assert exceeded_rarely(np.zeros(n), 0.9) is None
    chances = np.full((n, 3), 1 / 3)
    assert set_threshold(chances, np.zeros(n, np.int64), 0.9) == 0
    assert conforming(np.array([[0.98, 0.01, 0.01]]), 0.0).all()


@pytest.mark.parametrize("n", [10, 25, 200])
def test_prediction_sets_keep_their_promise(n: int):
    # Over many validation sets; a single one may be lucky or not.
    covered = []
    for seed in range(300):
        logits, labels = single(n + 100, seed)
        chances = probabilities(logits, 1.0)
        members = conforming(chances[n:], set_threshold(chances[:n], labels[:n], 0.9))
        covered.append(members[np.arange(100), labels[n:]].mean())
    assert 0.89 < np.mean(covered) < 0.9 + 1 / (n + 1) + 0.02


def test_prediction_sets_keep_their_promise_for_a_network_that_boasts():
    logits, labels = single(4000)
    chances = probabilities(logits * 5, 1.0)
    members = conforming(chances[2000:], set_threshold(chances[:2000], labels[:2000], 0.9))
    assert members[np.arange(2000), labels[2000:]].mean() == pytest.approx(0.9, abs=0.03)


def test_the_lowest_sure_probability_by_hand():
    # Right down to 0.7, then one wrong in seven, then right again: 6/7 and 7/8 are below 0.9.
    top = np.array([0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6])
    chances = np.column_stack([top, 1 - top])
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 0])
    assert sure(chances, labels, 0.9) == (0.7, None)
    assert sure(chances, labels, 0.87) == (0.6, None)


def test_a_precision_seen_on_four_images_is_not_believed():
    chances = np.tile([0.9, 0.1], (4, 1))
    assert sure(chances, np.zeros(4, np.int64), 0.95) == (None, None)
    assert sure(np.tile([0.9, 0.1], (5, 1)), np.zeros(5, np.int64), 0.95) == (0.9, None)


def test_equal_probabilities_are_sure_together_or_not_at_all():
    chances = np.tile([0.9, 0.1], (20, 1))
    labels = np.array([0] * 10 + [1] * 10)  # the first ten alone would be precise
    assert sure(chances, labels, 0.95) == (None, None)


def test_the_threshold_of_the_best_f1_by_hand():
    # Giving the label to the first two finds both of the two that have it.
    chances = np.array([[0.9], [0.6], [0.4], [0.1]])
    assert best_f1(chances, np.array([[True], [True], [False], [False]])) == (0.5,)


def test_thresholds_of_the_best_f1_are_the_best_of_all():
    logits, targets = several(300)
    chances = probabilities(logits, 1.0, multilabel=True)
    found = best_f1(chances, targets)

    def f1(threshold: float, label: int) -> float:
        said = chances[:, label] >= threshold
        return 2 * (said & targets[:, label]).sum() / (said.sum() + targets[:, label].sum())

    for label in range(4):
        assert f1(found[label], label) == max(f1(threshold, label) for threshold in chances[:, label])


def test_a_label_that_validation_never_has_is_given_from_one_half_on():
    assert best_f1(np.array([[0.3], [0.8]]), np.array([[False], [False]])) == (0.5,)
    assert given(np.array([[0.5]]), np.array([0.5])).all()


@pytest.mark.parametrize(("n", "k"), [(1, 1), (20, 1), (60, 3), (200, 10), (5000, 10)])
def test_which_neighbour_counts(n: int, k: int):
    assert outlier_k(n) == k


def test_small_labels_are_all_among_the_neighbours(monkeypatch):
    monkeypatch.setattr("graft.training.evaluation.calibration.MOST_NEIGHBOURS", 30)
    chosen = chosen_neighbours(samples({0: 500, 1: 5, 2: 500}), width=8)
    assert len(chosen) == 30
    assert [sum(sample.label == label for sample in chosen) for label in range(3)] == [13, 5, 12]


def test_neighbours_do_not_depend_on_order_or_place():
    given_samples = samples({0: 50, 1: 50})
    once = {sample.digest for sample in chosen_neighbours(given_samples, width=4_000_000 // 20)}
    again = {sample.digest for sample in chosen_neighbours(given_samples[::-1], width=4_000_000 // 20)}
    assert once == again
    assert len(once) == 20


def calibrated(n: int, seed: int = 0):
    """A calibration on n images whose vectors are drawn like the 400 neighbours'; with its neighbours."""
    random = np.random.default_rng(seed)
    logits, labels = single(n, seed)
    near = neighbours_of(samples({0: 200, 1: 200}), random.normal(size=(400, 12)) + 1)
    validation = Answered(logits.astype(np.float32), (random.normal(size=(n, 12)) + 1).astype(np.float32), labels)
    return calibrate(validation, 1.0, near), near


def test_one_in_twenty_ordinary_images_counts_as_an_outlier():
    flagged = []
    for seed in range(10):
        calibration, near = calibrated(200, seed)
        fresh = np.random.default_rng(seed + 100).normal(size=(200, 12)) + 1
        flagged += [near.outlier_score(vector, calibration.outlier_k) > calibration.outlier_threshold for vector in fresh]
    assert np.mean(flagged) == pytest.approx(0.05, abs=0.02)


def test_an_image_like_no_other_is_an_outlier():
    calibration, near = calibrated(200)
    assert near.outlier_score(-np.ones(12), calibration.outlier_k) > calibration.outlier_threshold


def test_too_few_images_call_nothing_an_outlier():
    assert calibrated(18)[0].outlier_threshold == 2
    assert calibrated(19)[0].outlier_threshold < 2


def test_several_labels_get_a_threshold_each_and_no_sets():
    logits, targets = several(100)
    near = neighbours_of(samples({0: 40}), np.random.default_rng(0).normal(size=(40, 6)))
    vectors = np.random.default_rng(1).normal(size=(100, 6)).astype(np.float32)
    found = calibrate(Answered(logits.astype(np.float32), vectors, targets), 1.0, near)
    assert (found.coverage, found.set_threshold) == (None, None)
    assert all(0 < threshold < 1 for threshold in found.thresholds)


def test_many_outlier_scores_are_those_of_each_vector():
    vectors = np.random.default_rng(0).normal(size=(1_100, 8)).astype(np.float32)
    near = neighbours_of(samples({0: 30}), vectors[:30])
    expected = [near.outlier_score(vector, 3) for vector in vectors]
    np.testing.assert_allclose(outlier_scores(near, vectors, 3), expected, atol=2e-6)
    assert outlier_scores(near, vectors[:0], 3).shape == (0,)


def test_distances_to_all_neighbours_are_never_all_in_memory():
    vectors = np.random.default_rng(0).normal(size=(20_000, 8)).astype(np.float32)
    near = neighbours_of(samples({0: 1_000}), vectors[:1_000])
    tracemalloc.start()
    outlier_scores(near, vectors, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 20_000 * 1_000 / 2

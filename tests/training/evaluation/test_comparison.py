"""Comparison of strategies: means, intervals over images, and paired differences."""

import csv
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from graft.training.evaluation.comparison import N_RESAMPLES, RunResult, compare_runs, differences_text, grid, write_csv
from graft.training.evaluation.confidence_intervals import proportion
from graft.training.results import Estimate


def run(strategy: str, outcomes: str, seed: int = 0, backbone: str = "lite0") -> RunResult:
    """A run with outcomes per image such as "1101": 1 for a correct prediction."""
    return RunResult(strategy, backbone, seed, 2.0, {bytes([image]): float(correct) for image, correct in enumerate(outcomes)})


def test_best_strategy_comes_first():
    result = compare_runs([run("probe", "1000"), run("finetune", "1110")])
    assert [(row.strategy, row.accuracy.value) for row in result.rows] == [("finetune", 0.75), ("probe", 0.25)]


def test_seeds_are_averaged_and_shown():
    [row] = compare_runs([run("probe", "1100", seed=0), run("probe", "1111", seed=1)]).rows
    assert (row.accuracy.value, row.by_seed) == (0.75, (0.5, 1.0))


def test_more_seeds_on_the_same_images_do_not_narrow_the_interval():
    one = compare_runs([run("probe", "10" * 50)]).rows[0].accuracy
    five = compare_runs([run("probe", "10" * 50, seed=seed) for seed in range(5)]).rows[0].accuracy
    assert (five.low, five.high) == (one.low, one.high)


def test_interval_of_fifty_percent_of_100_images_is_ten_points_each_way():
    accuracy = compare_runs([run("probe", "10" * 50)]).rows[0].accuracy
    assert (accuracy.low, accuracy.high) == pytest.approx((0.40, 0.60), abs=0.02)


def test_interval_of_a_clear_difference_excludes_zero():
    [(better, worse, gap)] = compare_runs([run("probe", "10" * 50), run("finetune", "1" * 90 + "0" * 10)]).differences
    assert (better.strategy, worse.strategy) == ("finetune", "probe")
    assert gap.low > 0


def test_predictions_on_the_same_images_are_paired():
    # The runs differ on one of 100 images. Unpaired intervals of +-10 points would hide that they agree on all others.
    _, _, gap = compare_runs([run("probe", "10" * 50), run("svm", "11" + "10" * 49)]).differences[0]
    assert gap.high - gap.low < 0.1


def test_seeds_may_have_different_test_images():
    first = RunResult("probe", "lite0", 0, 1.0, {b"a": 1.0, b"b": 1.0})
    second = RunResult("probe", "lite0", 1, 1.0, {b"b": 0.0, b"c": 0.0})
    assert compare_runs([first, second]).rows[0].accuracy.value == 0.5


def test_strategies_may_have_different_test_images():
    first = RunResult("probe", "lite0", 0, 1.0, {b"a": 1.0, b"b": 1.0})
    second = RunResult("svm", "lite0", 0, 1.0, {b"b": 0.0, b"c": 1.0, b"d": 0.0, b"e": 0.0})
    best, worst = compare_runs([second, first]).rows
    assert (best.accuracy, worst.accuracy) == (proportion(2, 2), proportion(1, 4))


def test_scores_of_multilabel_data_are_bootstrapped():
    scores = {bytes([image]): image / 10 for image in range(10)}
    comparison = compare_runs([RunResult(strategy, "lite0", 0, 3.0, scores, "map") for strategy in ("probe", "svm")])
    [accuracy, _] = [row.accuracy for row in comparison.rows]
    drawn = np.random.default_rng(0).multinomial(10, np.full(10, 0.1), size=N_RESAMPLES) @ np.arange(10) / 100
    assert comparison.metric == "map"
    assert (accuracy.value, accuracy.low, accuracy.high) == pytest.approx((0.45, *np.quantile(drawn, [0.025, 0.975])))


def test_correction_by_hand():
    # Four images; in each bootstrap sample the winner is scored on the images that were not drawn.
    outcomes = {"probe": [1, 1, 1, 0], "svm": [0, 1, 1, 1], "finetune": [1, 0, 0, 1]}
    runs = [run(strategy, "".join(map(str, scores))) for strategy, scores in outcomes.items()]
    scored = []
    for counts in np.random.default_rng(0).multinomial(4, np.full(4, 0.25), size=N_RESAMPLES):
        winner = max(outcomes.values(), key=lambda scores, counts=counts: counts @ scores)
        left_out = [score for score, count in zip(winner, counts, strict=True) if count == 0]
        scored += [np.mean(left_out)] if left_out else []
    comparison = compare_runs(runs)
    best, corrected, moved = comparison.rows[0].accuracy, comparison.corrected, np.mean(scored) - 0.75
    assert moved < -0.05
    expected = (0.75 + moved, max(0, best.low + moved), best.high + moved)
    assert (corrected.value, corrected.low, corrected.high) == pytest.approx(expected)
    gaps = np.random.default_rng(0).multinomial(4, np.full(4, 0.25), size=N_RESAMPLES) @ [0.25, 0, 0, -0.25]
    gap = comparison.differences[0][2]
    assert (gap.low, gap.high) == pytest.approx(tuple(np.quantile(gaps, [0.025, 0.975])))


def test_text_has_only_the_differences_from_the_best():
    right = {"probe": 10, "svm": 30, "finetune": 45}
    comparison = compare_runs([run(strategy, "1" * n + "0" * (50 - n)) for strategy, n in right.items()])
    assert [line.split(":")[0] for line in differences_text(comparison).splitlines()[:-1]] == [
        "finetune beats svm",
        "finetune beats probe",
    ]


def test_text_names_the_better_strategy():
    output = differences_text(compare_runs([run("probe", "10" * 50), run("finetune", "1" * 90 + "0" * 10)]))
    assert "finetune beats probe: +40.0 points" in output


def test_text_reports_a_tie():
    assert "is not shown to beat" in differences_text(compare_runs([run("probe", "1010"), run("svm", "1011")]))


def test_text_names_backbones_if_there_are_several():
    output = differences_text(compare_runs([run("probe", "10" * 50), run("probe", "1" * 100, backbone="lite2")]))
    assert "probe on lite2 beats probe on lite0" in output


def test_csv_has_one_row_per_run(tmp_path):
    measured = replace(run("probe", "1100"), latency_s=0.00725)
    write_csv([measured, run("probe", "1111", seed=1)], tmp_path / "compare.csv")
    rows = list(csv.DictReader((tmp_path / "compare.csv").open()))
    assert [(row["seed"], row["accuracy"], row["n_test"]) for row in rows] == [("0", "0.500000", "4"), ("1", "1.000000", "4")]
    assert rows[0]["latency_ms"] == "7.25"


def test_grid_keeps_the_strategies_of_a_backbone_together():
    assert grid(["probe", "svm"], ["a", "b"], 1) == [("a", 0, "probe"), ("a", 0, "svm"), ("b", 0, "probe"), ("b", 0, "svm")]


def test_images_of_a_group_do_not_count_as_independent():
    def grouped(strategy: str, outcomes: str) -> RunResult:
        groups = {bytes([image]): bytes([image // 10]) for image in range(len(outcomes))}
        return replace(run(strategy, outcomes), groups=groups)

    better, worse = "1" * 70 + "0" * 30, ("1" * 10 + "0" * 10) * 5
    single, clustered = (compare_runs([make("finetune", better), make("probe", worse)]) for make in (run, grouped))
    assert single.rows[0].accuracy.value == clustered.rows[0].accuracy.value
    assert width(clustered.rows[0].accuracy) > 2 * width(single.rows[0].accuracy)
    assert width(clustered.differences[0][2]) > 2 * width(single.differences[0][2])


def width(estimate: Estimate) -> float:
    return estimate.high - estimate.low


def candidates(random: np.random.Generator, rates: Sequence[float], n_images: int) -> list[RunResult]:
    """One run for each true accuracy; what is hard for one is hard for the others, too."""
    hard = random.random(n_images)
    runs = []
    for number, rate in enumerate(rates):
        correct = np.where(random.random(n_images) < 0.5, hard, random.random(n_images)) < rate
        scores = {image.to_bytes(2): float(is_correct) for image, is_correct in enumerate(correct.tolist())}
        runs.append(RunResult(f"s{number}", "lite0", 0, 1.0, scores))
    return runs


def test_best_of_equal_candidates_is_corrected_for_the_choice():
    random, plain, corrected = np.random.default_rng(0), [], []
    for _ in range(150):
        comparison = compare_runs(candidates(random, [0.8] * 6, 150))
        assert comparison.corrected is not None
        plain.append(comparison.rows[0].accuracy.value - 0.8)
        corrected.append(comparison.corrected.value - 0.8)
    assert np.mean(plain) > 0.02
    assert abs(np.mean(corrected)) < 0.35 * np.mean(plain)


def test_clear_winner_needs_no_correction():
    comparison = compare_runs(candidates(np.random.default_rng(1), [0.95, 0.6, 0.5], 400))
    assert comparison.corrected is not None
    assert comparison.corrected.value == pytest.approx(comparison.rows[0].accuracy.value, abs=0.002)


def test_single_strategy_has_no_correction():
    comparison = compare_runs([run("probe", "1101")])
    assert (comparison.corrected, comparison.correction_text) == (None, "")


def test_text_has_the_corrected_score_beside_the_plain_one():
    comparison = compare_runs(candidates(np.random.default_rng(2), [0.8] * 6, 150))
    plain, corrected = comparison.rows[0].accuracy.value, comparison.corrected
    last = differences_text(comparison).splitlines()[-1]
    assert last.startswith(f"the largest of 6 scores is partly luck: expect {corrected.value:.1%}")
    assert last.endswith(f"not {plain:.1%}")


def test_one_group_of_images_cannot_be_corrected():
    groups = {bytes([image]): b"g" for image in range(4)}
    comparison = compare_runs([replace(run("probe", "1100"), groups=groups), replace(run("svm", "1000"), groups=groups)])
    assert comparison.corrected == comparison.rows[0].accuracy

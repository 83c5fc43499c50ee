"""The table of strategies: whose numbers, over which images, and which differences are beyond chance."""

import csv

import pytest

from graft.training.evaluation.comparison import Cell, grid, save, table, text


def cell(strategy: str, rights: str, seed: int = 0, backbone: str = "lite0") -> Cell:
    """A run whose answers are spelled as in "1101": image by image, right or wrong."""
    return Cell(strategy, backbone, seed, 2.0, {bytes([image]): float(right) for image, right in enumerate(rights)})


def test_the_best_strategy_comes_first():
    found = table([cell("probe", "1000"), cell("finetune", "1110")])
    assert [(row.strategy, row.accuracy.value) for row in found.rows] == [("finetune", 0.75), ("probe", 0.25)]


def test_seeds_are_averaged_and_shown():
    [row] = table([cell("probe", "1100", seed=0), cell("probe", "1111", seed=1)]).rows
    assert (row.accuracy.value, row.by_seed) == (0.75, (0.5, 1.0))


def test_more_seeds_on_the_same_images_do_not_narrow_the_interval():
    one = table([cell("probe", "10" * 50)]).rows[0].accuracy
    five = table([cell("probe", "10" * 50, seed=seed) for seed in range(5)]).rows[0].accuracy
    assert (five.low, five.high) == (one.low, one.high)


def test_the_interval_of_half_of_a_hundred_is_ten_points_either_way():
    accuracy = table([cell("probe", "10" * 50)]).rows[0].accuracy
    assert (accuracy.low, accuracy.high) == pytest.approx((0.40, 0.60), abs=0.02)


def test_a_clear_difference_excludes_zero():
    [(better, worse, gap)] = table([cell("probe", "10" * 50), cell("finetune", "1" * 90 + "0" * 10)]).differences
    assert (better.strategy, worse.strategy) == ("finetune", "probe")
    assert gap.low > 0


def test_answers_to_the_same_images_are_compared_pairwise():
    # One image apart on 100 images: unpaired intervals of +-10 points would hide that the two agree on all others.
    _, _, gap = table([cell("probe", "10" * 50), cell("svm", "11" + "10" * 49)]).differences[0]
    assert gap.high - gap.low < 0.1


def test_different_test_images_per_seed_all_count():
    first = Cell("probe", "lite0", 0, 1.0, {b"a": 1.0, b"b": 1.0})
    second = Cell("probe", "lite0", 1, 1.0, {b"b": 0.0, b"c": 0.0})
    assert table([first, second]).rows[0].accuracy.value == 0.5


def test_the_terminal_table_says_who_beats_whom():
    shown = text(table([cell("probe", "10" * 50), cell("finetune", "1" * 90 + "0" * 10)]))
    assert "finetune beats probe: +40.0 points" in shown


def test_the_terminal_table_admits_ties():
    assert "is not shown to beat" in text(table([cell("probe", "1010"), cell("svm", "1011")]))


def test_several_backbones_are_named():
    shown = text(table([cell("probe", "10" * 50), cell("probe", "1" * 100, backbone="lite2")]))
    assert "probe on lite2 beats probe on lite0" in shown


def test_every_run_is_a_line_of_the_csv(tmp_path):
    save([cell("probe", "1100"), cell("probe", "1111", seed=1)], tmp_path / "compare.csv")
    rows = list(csv.DictReader((tmp_path / "compare.csv").open()))
    assert [(row["seed"], row["accuracy"], row["n_test"]) for row in rows] == [("0", "0.500000", "4"), ("1", "1.000000", "4")]


def test_the_grid_runs_all_strategies_of_a_backbone_together():
    assert grid(["probe", "svm"], ["a", "b"], 1) == [("a", 0, "probe"), ("a", 0, "svm"), ("b", 0, "probe"), ("b", 0, "svm")]

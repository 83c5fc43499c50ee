"""`graft compare` end to end, on a few random images."""

import csv

import pytest

from graft.training.cli.main import main
from graft.training.config.recipe import Recipe
from graft.training.pipelines.compare import compare


@pytest.mark.slow
def test_runs_every_strategy_backbone_and_seed(cache, make_folder, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--strategies", "probe,auto", "--seeds", "2", "--input-size", "64", "--no-flips", "--out", str(out)]
    assert main(["compare", str(make_folder({"a": 8, "b": 8})), *arguments]) == 0
    rows = list(csv.DictReader((out / "compare.csv").open()))
    assert [(row["seed"], row["strategy"]) for row in rows] == [("0", "probe"), ("0", "auto"), ("1", "probe"), ("1", "auto")]
    assert all(0.01 < float(row["latency_ms"]) < 10_000 for row in rows)
    assert "probe is not shown to beat auto" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"compare.csv", "report.html"}


@pytest.mark.slow
def test_the_best_is_chosen_by_the_metric(cache, make_folder, tmp_path, capsys):
    arguments = ["--strategies", "probe,svm", "--metric", "balanced-accuracy", "--input-size", "64", "--no-flips"]
    data = make_folder({"a": 40, "b": 8})
    assert main(["compare", str(data), *arguments, "--budget", "1s", "--out", str(tmp_path / "out")]) == 0
    output = capsys.readouterr()
    assert "balanced accuracy" in output.out
    assert "test balanced accuracy" in output.err


def test_unknown_strategy_fails_before_reading_data(tmp_path):
    with pytest.raises(ValueError, match="Unknown strategy: swim"):
        compare(tmp_path / "nowhere", tmp_path, Recipe(), ["probe", "swim"], ["tf_efficientnet_lite0"], 1)


def test_unknown_backbone_fails_before_reading_data(tmp_path):
    with pytest.raises(ValueError, match="Unknown backbone 'resnet18x'"):
        compare(tmp_path / "nowhere", tmp_path, Recipe(), ["probe"], ["tf_efficientnet_lite0", "resnet18x"], 1)


def test_comparison_from_an_earlier_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--from cannot be combined with a comparison"):
        compare(tmp_path, tmp_path / "out", Recipe(from_model=str(tmp_path)), ["probe"], ["tf_efficientnet_lite0"], 1)

"""Strategy selection end to end, with real networks on a small dataset."""

import json
from pathlib import Path

import pytest

from graft.training.config.recipe import Recipe
from graft.training.pipelines import fit
from graft.training.sample import SAMPLE
from graft.training.strategies import model_selection

pytestmark = pytest.mark.slow

QUICK = {"input_size": 64, "device": "cpu", "flips": False}


@pytest.fixture(scope="module")
def auto_result(cache, tmp_path_factory: pytest.TempPathFactory) -> fit.FitResult:
    """A run with the strategy `auto` and one epoch on the sample dataset."""
    import os

    folder, working_dir = tmp_path_factory.mktemp("auto"), Path.cwd()
    os.chdir(folder)
    try:
        return fit.fit(SAMPLE, folder / "run", Recipe(strategy="auto", epochs=1, **QUICK))
    finally:
        os.chdir(working_dir)


def test_auto_tries_strategies_in_order_of_cost(auto_result: fit.FitResult):
    assert [attempt.strategy for attempt in auto_result.attempts] == ["probe", "kernel", "stages", "finetune"]


def test_exactly_one_attempt_is_kept_and_its_model_is_packaged(auto_result: fit.FitResult):
    [kept] = [attempt.strategy for attempt in auto_result.attempts if attempt.kept]
    assert auto_result.artifact.manifest.strategy == kept


def test_verdict_contains_its_numbers(auto_result: fit.FitResult):
    assert "points of accuracy (" in auto_result.attempts[-1].verdict


def test_attempts_are_written_to_the_run_folder(auto_result: fit.FitResult):
    attempts = json.loads((auto_result.run / "strategies.json").read_text())
    assert [attempt["strategy"] for attempt in attempts] == ["probe", "kernel", "stages", "finetune"]


def test_auto_does_not_fine_tune_if_no_epoch_fits_in_the_budget(cache, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    result = fit.fit(SAMPLE, tmp_path / "run", Recipe(strategy="auto", budget="1s", **QUICK))
    assert (result.artifact.manifest.strategy, len(result.attempts)) == (result.trained.strategy, 3)
    reason = "finetune is skipped: only 0 epochs fit in the budget"
    assert reason in capsys.readouterr().err
    assert reason in (result.run / "report.html").read_text(encoding="utf-8")


def test_auto_goes_on_although_a_few_images_show_no_error(cache, make_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    result = fit.fit(make_folder({"a": 8, "b": 8}), tmp_path / "run", Recipe(strategy="auto", budget="1s", **QUICK))
    assert [attempt.strategy for attempt in result.attempts] == ["probe", "kernel", "stages"]
    assert "trying more strategies" in capsys.readouterr().err


def test_auto_stops_if_there_is_little_left_to_gain(cache, make_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(model_selection, "MIN_GAIN", 1.0)
    monkeypatch.chdir(tmp_path)
    result = fit.fit(make_folder({"a": 8, "b": 8}), tmp_path / "run", Recipe(strategy="auto", **QUICK))
    assert len(result.attempts) == 1
    assert "so there is little left to gain" in capsys.readouterr().err


def test_a_strategy_requested_by_name_is_always_kept(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = fit.fit(SAMPLE, tmp_path / "run", Recipe(strategy="finetune", epochs=1, **QUICK))
    assert result.artifact.manifest.strategy == "finetune"
    assert [attempt.kept for attempt in result.attempts] == [False, True]


@pytest.mark.parametrize("strategy", ["svm", "stages", "kernel", "finetune-last", "scratch"])
def test_every_strategy_can_be_requested_by_name(strategy: str, cache, make_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = fit.fit(make_folder({"a": 12, "b": 12}), tmp_path / "run", Recipe(strategy=strategy, epochs=1, **QUICK))
    assert result.artifact.manifest.strategy == strategy
    assert result.attempts[-1].strategy == strategy


def test_training_from_random_weights_runs_the_recommended_epochs(cache, make_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe = Recipe(strategy="scratch", backbone="mlp", weights="none", input_size=32, device="cpu")
    fit.fit(make_folder({"a": 12, "b": 12}), tmp_path / "run", recipe)
    log = capsys.readouterr().err
    assert "80 are recommended" in log
    assert "up to 80 epochs" in log


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("1.5h", 5400)])
def test_budget_is_parsed_as_a_duration(text: str, seconds: float):
    assert Recipe(budget=text).budget_s == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "10 minutes", "-5m", "0s", "1e999h"])
def test_budget_that_is_not_a_duration_is_rejected(text: str):
    with pytest.raises(ValueError, match="is not a duration"):
        Recipe(budget=text)

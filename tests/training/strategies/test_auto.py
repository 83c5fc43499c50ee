"""The climb: what is tried, what is kept, and why; with real networks on a few pictures."""

import json
from pathlib import Path

import pytest

from graft.training.config.recipe import Recipe
from graft.training.pipelines import fit
from graft.training.sample import SAMPLE

QUICK = {"input_size": 64, "accelerator": "cpu", "flips": False}


@pytest.fixture(scope="module")
def climbed(cache, tmp_path_factory: pytest.TempPathFactory):
    """A climb of one epoch on the sample: a probe, then the whole network."""
    import os

    folder, here = tmp_path_factory.mktemp("climb"), Path.cwd()
    os.chdir(folder)
    try:
        return fit.fit(SAMPLE, folder / "run", Recipe(strategy="auto", epochs=1, **QUICK))
    finally:
        os.chdir(here)


def test_auto_climbs_from_the_cheapest_rung_upwards(climbed):
    assert [rung.strategy for rung in climbed.climbed.rungs] == ["probe", "stages", "finetune"]


def test_exactly_one_rung_is_kept_and_it_is_the_packaged_one(climbed):
    [kept] = [rung.strategy for rung in climbed.climbed.rungs if rung.kept]
    assert climbed.artifact.manifest.strategy == kept


def test_the_verdict_holds_the_numbers_it_rests_on(climbed):
    assert "points of accuracy (" in climbed.climbed.rungs[-1].verdict


def test_the_story_lies_in_the_run_folder(climbed):
    story = json.loads((climbed.run / "ladder.json").read_text())
    assert [rung["strategy"] for rung in story] == ["probe", "stages", "finetune"]


def test_auto_keeps_the_probe_where_no_epoch_fits_the_budget(cache, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    result = fit.fit(SAMPLE, tmp_path / "run", Recipe(strategy="auto", budget="1s", **QUICK))
    assert (result.artifact.manifest.strategy, len(result.climbed.rungs)) == (result.climbed.trained.strategy, 2)
    why = "finetune is not tried: only 0 epochs fit into the budget"
    assert why in capsys.readouterr().err
    assert why in (result.run / "report.html").read_text(encoding="utf-8")


def test_auto_does_not_climb_where_nothing_could_be_shown(cache, make_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    result = fit.fit(make_folder({"a": 8, "b": 8}), tmp_path / "run", Recipe(strategy="auto", **QUICK))
    assert len(result.climbed.rungs) == 1
    assert "not even a flawless network could be shown to be better" in capsys.readouterr().err


def test_a_rung_asked_for_by_name_is_kept_whatever_it_brings(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = fit.fit(SAMPLE, tmp_path / "run", Recipe(strategy="finetune", epochs=1, **QUICK))
    assert result.artifact.manifest.strategy == "finetune"
    assert [rung.kept for rung in result.climbed.rungs] == [False, True]


@pytest.mark.parametrize("strategy", ["svm", "stages", "last", "scratch"])
def test_every_rung_can_be_asked_for_by_name(strategy: str, cache, make_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = fit.fit(make_folder({"a": 12, "b": 12}), tmp_path / "run", Recipe(strategy=strategy, epochs=1, **QUICK))
    assert result.artifact.manifest.strategy == strategy
    assert result.climbed.rungs[-1].strategy == strategy


def test_random_weights_get_the_epochs_that_their_rule_asks_for(cache, make_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    choices = Recipe(strategy="scratch", backbone="mlp", weights="none", input_size=32, accelerator="cpu")
    fit.fit(make_folder({"a": 12, "b": 12}), tmp_path / "run", choices)
    said = capsys.readouterr().err
    assert "80 are wanted" in said
    assert "up to 80 epochs" in said


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("1.5h", 5400)])
def test_a_budget_is_a_span_of_time(text: str, seconds: float):
    assert Recipe(budget=text).budget_s == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "10 minutes", "-5m", "0s", "1e999h"])
def test_a_budget_that_is_no_time_is_refused(text: str):
    with pytest.raises(ValueError, match="no span of time"):
        Recipe(budget=text)

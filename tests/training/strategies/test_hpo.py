"""Trials of fine-tuning: what is tried, what is kept of it, and that neither a kill nor a person's choice is forgotten."""

import csv
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from graft.training.config.recipe import Recipe
from graft.training.finetuning.lightning_module import Diverged
from graft.training.pipelines import fit as run
from graft.training.strategies import finetune, hpo
from graft.training.strategies.hpo_trials import Tried

RECIPE = Recipe(
    strategy="finetune", epochs=2, input_size=32, batch_size=8, accelerator="cpu", search=3, dropout=0.1, augment="none"
)
MISSED = {"seconds"}  # of a record: what two equal searches may differ in


@dataclasses.dataclass(frozen=True)
class Searched:
    """A run that nobody disturbed."""

    photos: Path
    run: Path
    said: str

    @property
    def plans(self) -> dict[str, dict]:
        return json.loads((self.run / "plan.json").read_text())


@pytest.fixture(scope="module")
def here(cache: Path, tmp_path_factory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("search")
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def photos(here: Path) -> Path:
    """Two labels that differ by a faint tint: something to learn, not all of which the probe has learned."""
    from PIL import Image

    noise = np.random.default_rng(0)
    for number in range(40):
        path = here / "photos" / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = noise.integers(0, 200, (32, 32, 3), dtype=np.uint8)
        pixels[..., number % 2] += 15
        Image.fromarray(pixels).save(path)
    return here / "photos"


@pytest.fixture(scope="module")
def searched(here: Path, photos: Path) -> Searched:
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hpo, "say", said.append)
        run.fit(photos, here / "run", RECIPE)
    return Searched(photos, here / "run", "\n".join(said))


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "search.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def chosen(row: dict[str, str]) -> dict[str, float]:
    names = ("head_rate", "backbone_rate", "bottom_ratio", "weight_decay", "label_smoothing", "mixup")
    return {name: float(row[name]) for name in names}


def losses(run: Path) -> list[float]:
    with (run / "finetune" / "metrics.csv").open(newline="") as file:
        return [float(row["val/loss"]) for row in csv.DictReader(file)]


def test_first_trial_is_the_plan_as_it_would_have_been(searched: Searched):
    before = searched.plans["plan of finetune before its search"]
    first = chosen(rows(searched.run)[0])
    assert {name: before[name] for name in first} == first
    assert first == {
        "head_rate": 0.0005,
        "backbone_rate": 0.0001,
        "bottom_ratio": 0.1,
        "weight_decay": 0.02,
        "label_smoothing": 0.1,
        "mixup": 0.0,
    }


def test_no_two_trials_are_the_same(searched: Searched):
    assert len({tuple(chosen(row).values()) for row in rows(searched.run)}) == 3


def test_what_a_person_chose_is_not_searched(searched: Searched):
    assert {"dropout", "augment"} & rows(searched.run)[0].keys() == set()
    plan = searched.plans["plan of finetune"]
    assert (plan["dropout"], plan["augment"]) == (0.1, "none")


def test_last_learning_has_the_best_trials_choices_and_its_loss(searched: Searched):
    best = min(rows(searched.run), key=lambda row: float(row["log_loss"]))
    plans = searched.plans
    assert plans["plan of finetune"] == plans["plan of finetune before its search"] | chosen(best)
    assert min(losses(searched.run)[1:]) == pytest.approx(float(best["log_loss"]), abs=1e-5)


def test_story_says_which_trial_was_best(searched: Searched):
    best = min(rows(searched.run), key=lambda row: float(row["log_loss"]))
    [_, rung] = json.loads((searched.run / "ladder.json").read_text())
    expected = "none of 3 trials was better" if best["trial"] == "1" else f"trial {best['trial']} of 3 was best"
    assert rung["verdict"].startswith(f"asked for by name; {expected}")


def test_every_trial_is_told_in_a_line(searched: Searched):
    intention, first, *_ = searched.said.splitlines()
    assert intention == ("search: up to 3 trials of up to 2 epochs, over head, backbone, first layer, decay, smoothing, mixup")
    assert first.startswith("trial 1/3: log-loss ")
    assert first.endswith("; the plan as it is")
    assert [line.partition(":")[0] for line in searched.said.splitlines()[1:4]] == ["trial 1/3", "trial 2/3", "trial 3/3"]


def test_no_trial_leaves_a_checkpoint(searched: Searched):
    assert {path.parent.parent.name for path in searched.run.rglob("*.ckpt")} == {"finetune"}
    assert not list(searched.run.glob("trial-*"))


def test_search_that_was_cut_short_goes_on_in_the_middle_of_its_trial(searched: Searched, here: Path, monkeypatch, capsys):
    real, taught = finetune.teach, []

    def cut_short(*given: object, trial=None, **named: object) -> None:
        def at_second_epoch(so_far: list[float]) -> bool:
            if len(taught) == 2 and len(so_far) == 2:
                raise SystemExit(137)
            return trial.hopeless(so_far)

        taught.append(trial and trial.name)
        real(*given, trial=trial and dataclasses.replace(trial, hopeless=at_second_epoch), **named)

    monkeypatch.setattr(finetune, "teach", cut_short)
    with pytest.raises(SystemExit):
        run.fit(searched.photos, here / "again", RECIPE)
    assert len(rows(here / "again")) == 1
    assert [path.name for path in (here / "again").glob("trial-*")] == ["trial-0002"]
    taught.append("killed")
    run.fit(searched.photos, here / "again", RECIPE, resume=True)
    assert taught == ["trial 1/3", "trial 2/3", "killed", "trial 2/3", "trial 3/3", None]
    said = capsys.readouterr().err
    assert "going on after epoch 1/2\n" in said
    assert said.count("epoch 1/2: loss") == 1  # of the last learning; a trial has one line in all
    assert without_times(here / "again") == without_times(searched.run)
    assert not list((here / "again").glob("trial-*"))


def without_times(run: Path) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name not in MISSED} for row in rows(run)]


def test_replay_learns_with_what_was_found_and_searches_no_more(searched: Searched, here: Path):
    run.fit(searched.photos, here / "replayed", RECIPE, like=searched.run)
    assert not (here / "replayed" / "search.csv").exists()
    assert losses(here / "replayed") == pytest.approx(losses(searched.run), abs=1e-6)


def test_trial_that_diverges_is_put_on_record_and_a_budget_that_is_spent_ends_the_search(photos: Path, here: Path, capsys):
    ruinous = {
        "head_rate": 10.0,
        "backbone_rate": 10.0,
        "optimizer": "sgd",
        "clip": 1e6,
        "weight_decay": 10,
        "budget": "1s",
        "epochs": 8,
    }
    with pytest.raises(Diverged):  # as the plan itself does, when nothing better is known
        run.fit(photos, here / "ruined", RECIPE.model_copy(update=ruinous))
    assert [(row["ending"], row["log_loss"]) for row in rows(here / "ruined")] == [("diverged", "")]
    said = capsys.readouterr().err
    assert "the budget has no room for more than 1 of 3 trials; a longer --budget allows more\n" in said
    assert "no trial came to its end: the plan stays as it is\n" in said


@pytest.mark.parametrize("strategy", ["auto", "probe", "svm", "stages"])
def test_strategy_that_does_not_fine_tune_is_refused_before_data_are_read(strategy: str, tmp_path: Path):
    with pytest.raises(ValueError, match="it goes with --strategy last, finetune or scratch"):
        run.fit(tmp_path / "nowhere", tmp_path / "run", Recipe(strategy=strategy, search=3))


def test_missing_library_is_named_with_what_to_install_before_data_are_read(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(hpo, "find_spec", lambda name: None if name == "optuna" else object())
    with pytest.raises(ValueError, match=r"optuna is not installed\. Try: pip install 'graft-vision\[search\]'$"):
        run.fit(tmp_path / "nowhere", tmp_path / "run", Recipe(strategy="finetune", search=3))


def test_rates_are_not_found_twice():
    with pytest.raises(ValueError, match="leave --find-rates out"):
        hpo.check(Recipe(strategy="finetune", search=3, find_rates=True))


def test_search_of_nothing_is_refused():
    everything = {"head_rate": 1e-3, "backbone_rate": 1e-3, "weight_decay": 0, "dropout": 0, "label_smoothing": 0, "mixup": 0}
    with pytest.raises(ValueError, match="nothing left to try"):  # from scratch, a bottom ratio is no choice
        hpo.check(Recipe(strategy="scratch", search=3, augment="none", **everything))
    hpo.check(Recipe(strategy="finetune", search=3, augment="none", **everything))


@pytest.mark.parametrize("choices", [Recipe(), Recipe(strategy="last", search=1), Recipe(strategy="scratch", search=1)])
def test_other_recipes_pass(choices: Recipe):
    hpo.check(choices)


@pytest.mark.parametrize(
    ("epochs", "n_trials", "each"), [(40, None, 40), (42, 5, 7), (40, 20, 3), (2, 20, 2), (0, 20, 0), (5, 1, 3), (6, 1, 3)]
)
def test_trials_and_last_learning_share_the_epochs_that_fit(epochs: int, n_trials: int | None, each: int):
    assert hpo.share(epochs, n_trials, fewest=3) == each


def lasting(*seconds: float) -> list[Tried]:
    return [Tried("complete", (1.0,), each, {}) for each in seconds]


@pytest.mark.parametrize(
    ("seconds", "left_s", "room"), [((), -5, True), ((4, 10, 6), 20, True), ((4, 10, 6), 19.9, False), ((10,), -1, False)]
)
def test_first_trial_is_always_made_and_others_while_the_last_learning_still_fits(seconds, left_s: float, room: bool):
    assert hpo.has_room(lasting(*seconds), left_s) is room

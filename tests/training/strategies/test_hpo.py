"""Hyperparameter search: its trials, its result, resuming after a kill, and rejected options."""

import csv
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from graft.training.config.recipe import Recipe
from graft.training.finetuning.lightning_module import Diverged
from graft.training.pipelines import fit
from graft.training.strategies import finetune, hpo
from graft.training.strategies.hpo_trials import TrialRecord

pytestmark = pytest.mark.slow

RECIPE = Recipe(strategy="finetune", epochs=2, input_size=32, batch_size=8, device="cpu", search=3, dropout=0.1, augment="none")
TIMINGS = {"seconds"}  # columns that may differ between two equal searches


@dataclasses.dataclass(frozen=True)
class SearchRun:
    """A finished run with a search."""

    photos: Path
    run: Path
    log: str

    @property
    def decisions(self) -> dict[str, dict]:
        return json.loads((self.run / "decisions.json").read_text())


@pytest.fixture(scope="module")
def folder(cache: Path, tmp_path_factory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("search")
        patch.chdir(path)
        yield path


@pytest.fixture(scope="module")
def photos(folder: Path) -> Path:
    """Two labels that differ by a faint tint, which the probe learns only in part."""
    from PIL import Image

    noise = np.random.default_rng(0)
    for number in range(40):
        path = folder / "photos" / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = noise.integers(0, 200, (32, 32, 3), dtype=np.uint8)
        pixels[..., number % 2] += 15
        Image.fromarray(pixels).save(path)
    return folder / "photos"


@pytest.fixture(scope="module")
def searched(folder: Path, photos: Path) -> SearchRun:
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hpo, "log", lines.append)
        fit.fit(photos, folder / "run", RECIPE)
    return SearchRun(photos, folder / "run", "\n".join(lines))


def read_trials(run_folder: Path) -> list[dict[str, str]]:
    with (run_folder / "search.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def read_params(row: dict[str, str]) -> dict[str, float]:
    names = ("head_lr", "backbone_lr", "layer_decay", "weight_decay", "label_smoothing", "mixup")
    return {name: float(row[name]) for name in names}


def losses(run_folder: Path) -> list[float]:
    with (run_folder / "finetune" / "metrics.csv").open(newline="") as file:
        return [float(row["val/loss"]) for row in csv.DictReader(file)]


def test_first_trial_is_the_default_configuration(searched: SearchRun):
    before = searched.decisions["config of finetune before its search"]
    first = read_params(read_trials(searched.run)[0])
    assert {name: before[name] for name in first} == first
    assert first == {
        "head_lr": 0.0005,
        "backbone_lr": 0.0001,
        "layer_decay": 0.1,
        "weight_decay": 0.02,
        "label_smoothing": 0.1,
        "mixup": 0.0,
    }


def test_trials_differ(searched: SearchRun):
    assert len({tuple(read_params(row).values()) for row in read_trials(searched.run)}) == 3


def test_hyperparameter_of_the_recipe_is_not_tuned(searched: SearchRun):
    assert {"dropout", "augment"} & read_trials(searched.run)[0].keys() == set()
    plan = searched.decisions["config of finetune"]
    assert (plan["dropout"], plan["augment"]) == (0.1, "none")


def test_final_training_uses_the_best_trial_and_reaches_its_loss(searched: SearchRun):
    best = min(read_trials(searched.run), key=lambda row: float(row["log_loss"]))
    decisions = searched.decisions
    assert decisions["config of finetune"] == decisions["config of finetune before its search"] | read_params(best)
    assert min(losses(searched.run)[1:]) == pytest.approx(float(best["log_loss"]), abs=1e-5)


def test_verdict_names_the_best_trial(searched: SearchRun):
    best = min(read_trials(searched.run), key=lambda row: float(row["log_loss"]))
    [_, attempt] = json.loads((searched.run / "strategies.json").read_text())
    expected = "none of 3 trials was better" if best["trial"] == "1" else f"trial {best['trial']} of 3 is best"
    assert attempt["verdict"].startswith(f"requested by name; {expected}")


def test_every_trial_has_a_log_line(searched: SearchRun):
    description, first, *_ = searched.log.splitlines()
    searched_over = "head lr, backbone lr, layer decay, weight decay, label smoothing, mixup"
    assert description == f"search: up to 3 trials of up to 2 epochs over {searched_over}"
    assert first.startswith("trial 1/3: log-loss ")
    assert first.endswith("; default configuration")
    assert [line.partition(":")[0] for line in searched.log.splitlines()[1:4]] == ["trial 1/3", "trial 2/3", "trial 3/3"]


def test_trials_leave_no_checkpoints(searched: SearchRun):
    assert {path.parent.parent.name for path in searched.run.rglob("*.ckpt")} == {"finetune"}
    assert not list(searched.run.glob("trial-*"))


def test_interrupted_search_resumes_in_the_middle_of_a_trial(searched: SearchRun, folder: Path, monkeypatch, capsys):
    train, calls = finetune.run_trainer, []

    def interrupted(*args: object, trial=None, **kwargs: object) -> None:
        def at_second_epoch(losses_so_far: list[float]) -> bool:
            if len(calls) == 2 and len(losses_so_far) == 2:
                raise SystemExit(137)
            return trial.should_prune(losses_so_far)

        calls.append(trial and trial.name)
        train(*args, trial=trial and dataclasses.replace(trial, should_prune=at_second_epoch), **kwargs)

    monkeypatch.setattr(finetune, "run_trainer", interrupted)
    with pytest.raises(SystemExit):
        fit.fit(searched.photos, folder / "resumed", RECIPE)
    assert len(read_trials(folder / "resumed")) == 1
    assert [path.name for path in (folder / "resumed").glob("trial-*")] == ["trial-0002"]
    calls.append("killed")
    fit.fit(searched.photos, folder / "resumed", RECIPE, resume=True)
    assert calls == ["trial 1/3", "trial 2/3", "killed", "trial 2/3", "trial 3/3", None]
    log = capsys.readouterr().err
    assert "resuming after epoch 1/2\n" in log
    assert log.count("epoch 1/2: loss") == 1  # only in the final training; a trial has a single line
    assert without_timings(folder / "resumed") == without_timings(searched.run)
    assert not list((folder / "resumed").glob("trial-*"))


def without_timings(run_folder: Path) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in read_trials(run_folder)]


def test_replay_reuses_the_result_without_a_search(searched: SearchRun, folder: Path):
    fit.fit(searched.photos, folder / "replayed", RECIPE, replay_of=searched.run)
    assert not (folder / "replayed" / "search.csv").exists()
    assert losses(folder / "replayed") == pytest.approx(losses(searched.run), abs=1e-6)


def test_diverged_trial_is_recorded_and_a_spent_budget_ends_the_search(photos: Path, folder: Path, capsys):
    diverging = {
        "head_lr": 1e6,
        "backbone_lr": 1e6,
        "optimizer": "sgd",
        "clip_grad": 1e6,
        "weight_decay": 10,
        "budget": "1s",
        "epochs": 8,
    }
    with pytest.raises(Diverged):  # so does the default configuration, which is kept
        fit.fit(photos, folder / "diverged", RECIPE.model_copy(update=diverging))
    assert [(row["status"], row["log_loss"]) for row in read_trials(folder / "diverged")] == [("diverged", "")]
    log = capsys.readouterr().err
    assert "only 1 of 3 trials fit in the budget; increase --budget to run more\n" in log
    assert "no trial finished: the default configuration is kept\n" in log


@pytest.mark.parametrize("strategy", ["auto", "probe", "svm", "stages"])
def test_strategy_without_fine_tuning_is_rejected_before_data_are_read(strategy: str, tmp_path: Path):
    with pytest.raises(ValueError, match="Use it with --strategy finetune-last, finetune or scratch"):
        fit.fit(tmp_path / "nowhere", tmp_path / "run", Recipe(strategy=strategy, search=3))


def test_missing_optuna_is_reported_before_data_are_read(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(hpo, "find_spec", lambda name: None if name == "optuna" else object())
    with pytest.raises(ValueError, match=r"optuna is not installed\. Try: pip install 'graft-vision\[search\]'$"):
        fit.fit(tmp_path / "nowhere", tmp_path / "run", Recipe(strategy="finetune", search=3))


def test_search_excludes_the_learning_rate_finder():
    with pytest.raises(ValueError, match="remove --lr-find"):
        hpo.check(Recipe(strategy="finetune", search=3, lr_find=True))


def test_search_without_hyperparameters_is_rejected():
    all_set = {"head_lr": 1e-3, "backbone_lr": 1e-3, "weight_decay": 0, "dropout": 0, "label_smoothing": 0, "mixup": 0}
    with pytest.raises(ValueError, match="nothing to tune"):  # from scratch, layer decay is not tuned
        hpo.check(Recipe(strategy="scratch", search=3, augment="none", **all_set))
    hpo.check(Recipe(strategy="finetune", search=3, augment="none", **all_set))


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(strategy="finetune-last", search=1), Recipe(strategy="scratch", search=1)])
def test_other_recipes_are_accepted(recipe: Recipe):
    hpo.check(recipe)


@pytest.mark.parametrize(
    ("epochs", "n_trials", "expected"), [(40, None, 40), (42, 5, 7), (40, 20, 3), (2, 20, 2), (0, 20, 0), (5, 1, 3), (6, 1, 3)]
)
def test_trials_and_final_training_share_the_epochs_that_fit(epochs: int, n_trials: int | None, expected: int):
    assert hpo.epochs_per_trial(epochs, n_trials, min_epochs=3) == expected


def trials_of(*seconds: float) -> list[TrialRecord]:
    return [TrialRecord("complete", (1.0,), duration, {}) for duration in seconds]


@pytest.mark.parametrize(
    ("seconds", "left_s", "fits"), [((), -5, True), ((4, 10, 6), 20, True), ((4, 10, 6), 19.9, False), ((10,), -1, False)]
)
def test_first_trial_always_runs_and_others_while_the_final_training_still_fits(seconds, left_s: float, fits: bool):
    assert hpo.fits_budget(trials_of(*seconds), left_s) is fits

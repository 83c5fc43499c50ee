"""Trials depend on the finished trials and the seed, stay near the defaults, and do not change what the recipe sets."""

import pytest

from graft.training.config.finetune_config import DataStats, FineTuneConfig, resolve_config
from graft.training.config.recipe import Recipe
from graft.training.strategies.hpo_sampler import TUNABLE, search_space, should_prune, suggest
from graft.training.strategies.hpo_trials import Params, TrialRecord

RECIPE = Recipe(strategy="finetune", search=20, epochs=6)


def default_config(recipe: Recipe = RECIPE) -> FineTuneConfig:
    return resolve_config(recipe, DataStats(n_images=256, counts=(128, 128)))


def finished(*losses: float, status: str = "complete") -> TrialRecord:
    return TrialRecord(status, losses, 1.0, {})


def sample(count: int, recipe: Recipe = RECIPE, loss=lambda params: 1.0) -> list[Params]:
    """The hyperparameters of `count` successive trials; `loss` computes the loss of each."""
    trials: list[TrialRecord] = []
    for _ in range(count):
        params = suggest(trials, recipe, default_config(recipe))
        trials.append(TrialRecord("complete", (loss(params),), 1.0, params))
    return [trial.params for trial in trials]


def test_first_trial_is_the_default_configuration():
    assert suggest([], RECIPE, default_config()) == {
        "head_lr": 1e-3,
        "backbone_lr": 2e-4,
        "layer_decay": 0.1,
        "weight_decay": 0.02,
        "dropout": 0.2,
        "label_smoothing": 0.1,
        "mixup": 0.0,
        "augment": "strong",
    }


def test_trials_stay_near_the_default_configuration():
    sampled = sample(25)
    for name, low, high in [
        ("head_lr", 2e-4, 5e-3),
        ("backbone_lr", 4e-5, 1e-3),
        ("layer_decay", 0.01, 1),
        ("weight_decay", 0.002, 0.2),
        ("dropout", 0, 0.5),
        ("label_smoothing", 0, 0.2),
        ("mixup", 0, 0.4),
    ]:
        values = [params[name] for params in sampled]
        assert low <= min(values) < max(values) <= high
    assert {"none", "strong"} < {params["augment"] for params in sampled} <= {"none", "light", "medium", "strong"}


@pytest.mark.parametrize("name", TUNABLE)
def test_hyperparameter_of_the_recipe_is_not_tuned(name: str):
    value = "light" if name == "augment" else 0.15
    recipe = Recipe.model_validate({"strategy": "finetune", "search": 20, name: value})
    assert search_space(recipe) == [other for other in TUNABLE if other != name]
    assert all(params.keys() == set(TUNABLE) - {name} for params in sample(3, recipe))


@pytest.mark.parametrize("recipe", [Recipe(strategy="scratch"), Recipe(strategy="finetune", weights="none")])
def test_layer_decay_is_not_tuned_from_scratch(recipe: Recipe):
    assert "layer_decay" not in search_space(recipe)


def test_same_trials_and_seed_give_the_same_next_trial():
    assert sample(8) == sample(8)


def test_another_seed_gives_another_trial():
    assert sample(2)[1] != sample(2, RECIPE.model_copy(update={"seed": 1}))[1]


def test_sampler_learns_from_finished_trials():
    def loss(params: Params) -> float:
        return float(params["dropout"])

    later = [loss(params) for params in sample(40, RECIPE.model_copy(update={"search": 40}), loss)[20:]]
    assert sum(later) / len(later) < 0.15  # 0.25 at random


def test_sampler_learns_from_diverged_trials():
    trials = [TrialRecord("complete", (1.0,), 1.0, suggest([], RECIPE, default_config()))]
    while len(trials) < 40:
        params = suggest(trials, RECIPE, default_config())
        fine = params["augment"] in ("none", "strong")
        trials.append(TrialRecord("complete" if fine else "diverged", (1.0,) if fine else (), 1.0, params))
    assert sum(trial.status == "diverged" for trial in trials[20:]) <= 5  # 10 at random


FOUR = [finished(5.0, 4.0, 3.0, 2.0, 1.0, 1.0 + each) for each in range(4)]


@pytest.mark.parametrize(
    ("losses", "trials", "prune"),
    [
        ([5.0, 4.5], FOUR, True),
        ([5.0, 3.9], FOUR, False),
        ([3.5, 9.0], FOUR, False),  # the best epoch counts
        ([9.0], FOUR, False),  # still in warm-up
        ([5.0, 4.5], FOUR[:3], False),  # too few to compare with
        ([5.0, 4.5], [*FOUR[:3], finished(5.0, 9.0, status="pruned")], False),
        ([5.0, 4.5], [], False),
    ],
)
def test_trial_is_pruned_if_its_best_loss_is_worse_than_the_median(losses: list[float], trials: list[TrialRecord], prune: bool):
    assert should_prune(losses, trials, epochs=6) is prune

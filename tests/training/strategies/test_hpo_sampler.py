"""Trials depend on the finished trials and the seed, stay near the defaults, and do not change what the recipe sets."""

import pytest

from graft.training.config.finetune_config import Facts, Plan, plan
from graft.training.config.recipe import Recipe
from graft.training.strategies.hpo_sampler import SEARCHED, is_hopeless, left_open, proposed
from graft.training.strategies.hpo_trials import Choices, Tried

RECIPE = Recipe(strategy="finetune", search=20, epochs=6)


def default_config(recipe: Recipe = RECIPE) -> Plan:
    return plan(recipe, Facts(n_images=256, counts=(128, 128)))


def finished(*losses: float, ending: str = "complete") -> Tried:
    return Tried(ending, losses, 1.0, {})


def sample(count: int, recipe: Recipe = RECIPE, loss=lambda params: 1.0) -> list[Choices]:
    """The hyperparameters of `count` successive trials; `loss` computes the loss of each."""
    trials: list[Tried] = []
    for _ in range(count):
        params = proposed(trials, recipe, default_config(recipe))
        trials.append(Tried("complete", (loss(params),), 1.0, params))
    return [trial.choices for trial in trials]


def test_first_trial_is_the_default_configuration():
    assert proposed([], RECIPE, default_config()) == {
        "head_rate": 1e-3,
        "backbone_rate": 2e-4,
        "bottom_ratio": 0.1,
        "weight_decay": 0.02,
        "dropout": 0.2,
        "label_smoothing": 0.1,
        "mixup": 0.0,
        "augment": "strong",
    }


def test_trials_stay_near_the_default_configuration():
    sampled = sample(25)
    for name, low, high in [
        ("head_rate", 2e-4, 5e-3),
        ("backbone_rate", 4e-5, 1e-3),
        ("bottom_ratio", 0.01, 1),
        ("weight_decay", 0.002, 0.2),
        ("dropout", 0, 0.5),
        ("label_smoothing", 0, 0.2),
        ("mixup", 0, 0.4),
    ]:
        values = [params[name] for params in sampled]
        assert low <= min(values) < max(values) <= high
    assert {"none", "strong"} < {params["augment"] for params in sampled} <= {"none", "light", "medium", "strong"}


@pytest.mark.parametrize("name", SEARCHED)
def test_hyperparameter_of_the_recipe_is_not_tuned(name: str):
    value = "light" if name == "augment" else 0.15
    recipe = Recipe.model_validate({"strategy": "finetune", "search": 20, name: value})
    assert left_open(recipe) == [other for other in SEARCHED if other != name]
    assert all(params.keys() == set(SEARCHED) - {name} for params in sample(3, recipe))


@pytest.mark.parametrize("recipe", [Recipe(strategy="scratch"), Recipe(strategy="finetune", weights="none")])
def test_layer_decay_is_not_tuned_from_scratch(recipe: Recipe):
    assert "bottom_ratio" not in left_open(recipe)


def test_same_trials_and_seed_give_the_same_next_trial():
    assert sample(8) == sample(8)


def test_another_seed_gives_another_trial():
    assert sample(2)[1] != sample(2, RECIPE.model_copy(update={"seed": 1}))[1]


def test_sampler_learns_from_finished_trials():
    def loss(params: Choices) -> float:
        return float(params["dropout"])

    later = [loss(params) for params in sample(40, RECIPE.model_copy(update={"search": 40}), loss)[20:]]
    assert sum(later) / len(later) < 0.15  # 0.25 at random


def test_sampler_learns_from_diverged_trials():
    trials = [Tried("complete", (1.0,), 1.0, proposed([], RECIPE, default_config()))]
    while len(trials) < 40:
        params = proposed(trials, RECIPE, default_config())
        fine = params["augment"] in ("none", "strong")
        trials.append(Tried("complete" if fine else "diverged", (1.0,) if fine else (), 1.0, params))
    assert sum(trial.ending == "diverged" for trial in trials[20:]) <= 5  # 10 at random


FOUR = [finished(5.0, 4.0, 3.0, 2.0, 1.0, 1.0 + each) for each in range(4)]


@pytest.mark.parametrize(
    ("losses", "trials", "prune"),
    [
        ([5.0, 4.5], FOUR, True),
        ([5.0, 3.9], FOUR, False),
        ([3.5, 9.0], FOUR, False),  # the best epoch counts
        ([9.0], FOUR, False),  # still in warm-up
        ([5.0, 4.5], FOUR[:3], False),  # too few to compare with
        ([5.0, 4.5], [*FOUR[:3], finished(5.0, 9.0, ending="given up")], False),
        ([5.0, 4.5], [], False),
    ],
)
def test_trial_is_pruned_if_its_best_loss_is_worse_than_the_median(losses: list[float], trials: list[Tried], prune: bool):
    assert is_hopeless(losses, trials, epochs=6) is prune

"""What a trial tries follows from the record and the seed, stays near the plan, and leaves a person's choices alone."""

import pytest

from graft.training.config.finetune_config import Facts, Plan, plan
from graft.training.config.recipe import Recipe
from graft.training.strategies.hpo_sampler import SEARCHED, is_hopeless, left_open, proposed
from graft.training.strategies.hpo_trials import Choices, Tried

RECIPE = Recipe(strategy="finetune", search=20, epochs=6)


def planned(recipe: Recipe = RECIPE) -> Plan:
    return plan(recipe, Facts(n_images=256, counts=(128, 128)))


def ended(*losses: float, ending: str = "complete") -> Tried:
    return Tried(ending, losses, 1.0, {})


def searched(count: int, recipe: Recipe = RECIPE, loss=lambda choices: 1.0) -> list[Choices]:
    """The choices of so many trials, one after the other; the loss follows from the choices."""
    tried: list[Tried] = []
    for _ in range(count):
        choices = proposed(tried, recipe, planned(recipe))
        tried.append(Tried("complete", (loss(choices),), 1.0, choices))
    return [trial.choices for trial in tried]


def test_first_proposal_is_the_plan():
    assert proposed([], RECIPE, planned()) == {
        "head_rate": 1e-3,
        "backbone_rate": 2e-4,
        "bottom_ratio": 0.1,
        "weight_decay": 0.02,
        "dropout": 0.2,
        "label_smoothing": 0.1,
        "mixup": 0.0,
        "augment": "strong",
    }


def test_proposals_stay_near_the_plan():
    found = searched(25)
    for name, low, high in [
        ("head_rate", 2e-4, 5e-3),
        ("backbone_rate", 4e-5, 1e-3),
        ("bottom_ratio", 0.01, 1),
        ("weight_decay", 0.002, 0.2),
        ("dropout", 0, 0.5),
        ("label_smoothing", 0, 0.2),
        ("mixup", 0, 0.4),
    ]:
        values = [choices[name] for choices in found]
        assert low <= min(values) < max(values) <= high
    assert {"none", "strong"} < {choices["augment"] for choices in found} <= {"none", "light", "medium", "strong"}


@pytest.mark.parametrize("name", SEARCHED)
def test_what_was_chosen_is_left_alone(name: str):
    given = "light" if name == "augment" else 0.15
    recipe = Recipe.model_validate({"strategy": "finetune", "search": 20, name: given})
    assert left_open(recipe) == [other for other in SEARCHED if other != name]
    assert all(choices.keys() == set(SEARCHED) - {name} for choices in searched(3, recipe))


@pytest.mark.parametrize("recipe", [Recipe(strategy="scratch"), Recipe(strategy="finetune", weights="none")])
def test_from_scratch_all_layers_learn_alike(recipe: Recipe):
    assert "bottom_ratio" not in left_open(recipe)


def test_same_record_and_seed_propose_the_same():
    assert searched(8) == searched(8)


def test_another_seed_proposes_something_else():
    assert searched(2)[1] != searched(2, RECIPE.model_copy(update={"seed": 1}))[1]


def test_proposals_learn_from_the_record():
    def loss(choices: Choices) -> float:
        return float(choices["dropout"])

    later = [loss(choices) for choices in searched(40, RECIPE.model_copy(update={"search": 40}), loss)[20:]]
    assert sum(later) / len(later) < 0.15  # 0.25 by chance


def test_trial_that_diverged_is_learned_from_too():
    tried = [Tried("complete", (1.0,), 1.0, proposed([], RECIPE, planned()))]
    while len(tried) < 40:
        choices = proposed(tried, RECIPE, planned())
        fine = choices["augment"] in ("none", "strong")
        tried.append(Tried("complete" if fine else "diverged", (1.0,) if fine else (), 1.0, choices))
    assert sum(trial.ending == "diverged" for trial in tried[20:]) <= 5  # 10 by chance


FOUR = [ended(5.0, 4.0, 3.0, 2.0, 1.0, 1.0 + each) for each in range(4)]


@pytest.mark.parametrize(
    ("losses", "tried", "hopeless"),
    [
        ([5.0, 4.5], FOUR, True),
        ([5.0, 3.9], FOUR, False),
        ([3.5, 9.0], FOUR, False),  # its best epoch counts
        ([9.0], FOUR, False),  # the rates still rise
        ([5.0, 4.5], FOUR[:3], False),  # too few to compare with
        ([5.0, 4.5], [*FOUR[:3], ended(5.0, 9.0, ending="given up")], False),
        ([5.0, 4.5], [], False),
    ],
)
def test_trial_is_hopeless_if_at_its_best_it_is_worse_than_the_median(losses: list[float], tried: list[Tried], hopeless: bool):
    assert is_hopeless(losses, tried, epochs=6) is hopeless

"""A plan leaves nothing open: what a person chose stands, what they did not follows from the data."""

import pytest
from pydantic import ValidationError

from graft.training.config.finetune_config import Facts, Plan, check, describe, plan
from graft.training.config.recipe import Recipe

FEW = Facts(n_images=200, counts=(100, 100))


def test_everything_left_open_is_decided():
    found = plan(Recipe(), FEW)
    assert None not in found.model_dump().values()
    assert (found.batch_size, found.steps, found.epochs, found.total_steps) == (16, 12, 20, 240)
    assert (found.head_rate, found.backbone_rate, found.bottom_ratio) == (0.00071, 0.00014, 0.1)
    assert (found.augment, found.balance, found.frozen_norm, found.unfreeze) == ("strong", "none", True, "all")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 3),
        ("batch_size", 7),
        ("unfreeze", "last"),
        ("optimizer", "sgd"),
        ("head_rate", 0.5),
        ("backbone_rate", 0.25),
        ("bottom_ratio", 0.9),
        ("schedule", "plateau"),
        ("warmup", 0.0),
        ("weight_decay", 0.0),
        ("clip", 9.0),
        ("dropout", 0.0),
        ("label_smoothing", 0.0),
        ("mixup", 0.4),
        ("cutmix", 0.6),
        ("frozen_norm", False),
        ("patience", 1),
        ("balance", "sampling"),
        ("augment", "none"),
        ("flips", False),
        ("rotations", False),
        ("harden", ("rotation", "blur")),
        ("find_rates", True),
        ("pixel_cache", 0.0),
        ("seed", 9),
    ],
)
def test_every_choice_of_a_person_stands(name: str, value: object):
    assert getattr(plan(Recipe(), FEW), name) != value
    assert getattr(plan(Recipe.model_validate({name: value}), FEW), name) == value


def test_averaging_can_be_ruled_out():
    assert plan(Recipe(), FEW).averaging == 0.9583
    assert plan(Recipe(averaging=False), FEW).averaging == 0.0


def test_averaging_that_was_asked_for_averages_even_a_short_run():
    assert plan(Recipe(epochs=1), FEW).averaging == 0.0
    assert plan(Recipe(epochs=1, averaging=True), FEW).averaging == 0.5


def test_last_rung_changes_the_last_layers_only():
    assert plan(Recipe(strategy="last"), FEW).unfreeze == "last"


def test_scratch_from_pretrained_weights_holds_nothing_back():
    found = plan(Recipe(strategy="scratch"), FEW)
    assert (found.scratch, found.fresh) == (True, False)
    assert (found.head_rate, found.bottom_ratio, found.frozen_norm) == (found.backbone_rate, 1.0, False)


@pytest.mark.parametrize(
    ("recipe", "facts"),
    [
        (Recipe(strategy="scratch", start="random"), FEW),
        (Recipe(strategy="finetune"), Facts(n_images=200, counts=(100, 100), pretrained=False)),
    ],
)
def test_random_weights_get_more_epochs_stronger_changes_and_mixing(recipe: Recipe, facts: Facts):
    found = plan(recipe, facts)
    assert (found.fresh, found.epochs, found.augment, found.mixup) == (True, 80, "strong", 0.2)


def test_start_of_scratch_means_nothing_to_other_strategies():
    assert plan(Recipe(strategy="finetune", start="random"), FEW) == plan(Recipe(strategy="finetune"), FEW)


def test_logits_cannot_be_adjusted_for_images_of_several_labels():
    with pytest.raises(ValueError, match="--balance logits: images have several labels here"):
        plan(Recipe(balance="logits"), Facts(n_images=9, counts=(9, 1), multilabel=True))


def test_plan_is_plain_data_and_reads_back_equal():
    found = plan(Recipe(), FEW)
    assert Plan.model_validate_json(found.model_dump_json()) == found


def test_plan_refuses_what_is_no_number():
    with pytest.raises(ValidationError):
        Plan.model_validate(plan(Recipe(), FEW).model_dump() | {"clip": float("nan")})


def test_plan_says_in_three_lines_what_will_happen():
    found = describe(plan(Recipe(), Facts(n_images=4_000, counts=(3_000, 600, 400))))
    assert found.splitlines() == [
        "up to 10 epochs of 125 steps of 32 images; medium changes (cropped, mirrored, turned)",
        "AdamW: head 0.001, backbone 0.0002 down to 6e-05 at its first layer; rising for 10% of the steps,"
        " then falling as a cosine",
        "weight decay 0.02, label smoothing 0.1, dropout 0.2; BatchNorm keeps its statistics; weights averaged;"
        " labels 8:1, logits adjusted",
    ]


def test_what_is_ruled_out_is_not_said():
    ruled_out = {"flips": False, "rotations": False, "averaging": False, "frozen_norm": False}
    chosen = {"strategy": "last", "schedule": "plateau", "optimizer": "sgd", "mixup": 0.2}
    looks, moves, holds = describe(plan(Recipe.model_validate(ruled_out | chosen), FEW)).splitlines()
    assert looks.endswith("strong changes (cropped), mixup 0.2")
    assert moves.startswith("SGD with momentum: head 0.005, the backbone's last layers 0.0015; ")
    assert moves.endswith("then falling whenever validation is stuck")
    assert holds == "weight decay 0.0001, label smoothing 0.1, dropout 0.2"


@pytest.mark.parametrize("strategy", ["auto", "probe", "svm", "stages"])
def test_hardening_is_refused_where_nothing_may_be_shown_changed_images(strategy: str):
    with pytest.raises(ValueError, match=f"--strategy {strategy} learns from unchanged ones.* It goes with --strategy last, f"):
        check(Recipe.model_validate({"strategy": strategy, "harden": "rotation"}))


@pytest.mark.parametrize("strategy", ["last", "finetune", "scratch"])
def test_hardening_goes_with_every_fine_tuning(strategy: str):
    check(Recipe.model_validate({"strategy": strategy, "harden": "rotation"}))


def test_hardening_is_told():
    looks = describe(plan(Recipe(harden=("blur", "rotation")), FEW)).splitlines()[0]
    assert looks.endswith("strong changes (cropped, mirrored, turned), hardened against rotation, blur")


def test_plan_of_a_run_from_before_there_was_hardening_is_still_one():
    before = plan(Recipe(), FEW).model_dump()
    del before["harden"]
    assert Plan.model_validate(before).harden == ()


def test_light_changes_turn_nothing():
    assert "light changes (cropped, mirrored)" in describe(plan(Recipe(augment="light"), FEW))

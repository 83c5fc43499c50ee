"""The fine-tuning configuration is complete: set values are kept, others are derived from the data."""

import pytest
from pydantic import ValidationError

from graft.training.config.finetune_config import DataStats, FineTuneConfig, check_augment_corruptions, describe, resolve_config
from graft.training.config.recipe import Recipe

FEW = DataStats(n_images=200, counts=(100, 100))


def test_every_open_value_is_derived():
    found = resolve_config(Recipe(), FEW)
    assert None not in found.model_dump().values()
    assert (found.batch_size, found.steps_per_epoch, found.epochs, found.total_steps) == (16, 12, 20, 240)
    assert (found.head_lr, found.backbone_lr, found.layer_decay) == (0.00071, 0.00014, 0.1)
    assert (found.augment, found.balance, found.freeze_bn, found.unfreeze) == ("strong", "none", True, "all")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 3),
        ("batch_size", 7),
        ("unfreeze", "last"),
        ("optimizer", "sgd"),
        ("head_lr", 0.5),
        ("backbone_lr", 0.25),
        ("layer_decay", 0.9),
        ("schedule", "plateau"),
        ("warmup", 0.0),
        ("weight_decay", 0.0),
        ("clip_grad", 9.0),
        ("dropout", 0.0),
        ("label_smoothing", 0.0),
        ("mixup", 0.4),
        ("cutmix", 0.6),
        ("freeze_bn", False),
        ("patience", 1),
        ("balance", "sampling"),
        ("augment", "none"),
        ("flips", False),
        ("rotations", False),
        ("augment_corruptions", ("rotation", "blur")),
        ("lr_find", True),
        ("pixel_cache", 0.0),
        ("seed", 9),
    ],
)
def test_every_set_value_is_kept(name: str, value: object):
    assert getattr(resolve_config(Recipe(), FEW), name) != value
    assert getattr(resolve_config(Recipe.model_validate({name: value}), FEW), name) == value


def test_averaging_can_be_turned_off():
    assert resolve_config(Recipe(), FEW).ema_decay == 0.9583
    assert resolve_config(Recipe(ema=False), FEW).ema_decay == 0.0


def test_requested_averaging_also_applies_to_a_short_run():
    assert resolve_config(Recipe(epochs=1), FEW).ema_decay == 0.0
    assert resolve_config(Recipe(epochs=1, ema=True), FEW).ema_decay == 0.5


def test_training_precision_and_batch_size_are_those_of_the_card():
    stats = DataStats(200_000, (100_000, 100_000), device="cuda", gpu_bytes=80 * 2**30, training_precision="16-mixed")
    found = resolve_config(Recipe(), stats)
    assert (found.training_precision, found.batch_size, found.head_lr) == ("16-mixed", 512, 0.004)
    assert "batch size 512 in 16-mixed precision; " in describe(found)


def test_label_precision_of_the_recipe_is_not_the_training_precision():
    assert resolve_config(Recipe(precision=0.9), FEW).training_precision == "32-true"


def test_finetune_last_trains_the_last_layers_only():
    assert resolve_config(Recipe(strategy="finetune-last"), FEW).unfreeze == "last"


def test_scratch_from_pretrained_weights_trains_all_layers_at_the_full_rate():
    found = resolve_config(Recipe(strategy="scratch"), FEW)
    assert (found.from_scratch, found.random_init) == (True, False)
    assert (found.head_lr, found.layer_decay, found.freeze_bn) == (found.backbone_lr, 1.0, False)


@pytest.mark.parametrize(
    ("recipe", "facts"),
    [
        (Recipe(strategy="scratch", init="random"), FEW),
        (Recipe(strategy="finetune"), DataStats(n_images=200, counts=(100, 100), pretrained=False)),
    ],
)
def test_random_init_gets_more_epochs_stronger_augmentation_and_mixup(recipe: Recipe, facts: DataStats):
    found = resolve_config(recipe, facts)
    assert (found.random_init, found.epochs, found.augment, found.mixup) == (True, 80, "strong", 0.2)


def test_init_is_ignored_by_other_strategies():
    assert resolve_config(Recipe(strategy="finetune", init="random"), FEW) == resolve_config(Recipe(strategy="finetune"), FEW)


def test_logit_adjustment_is_rejected_for_multilabel_data():
    with pytest.raises(ValueError, match="--balance logits does not support multilabel data"):
        resolve_config(Recipe(balance="logits"), DataStats(n_images=9, counts=(9, 1), multilabel=True))


def test_config_survives_a_json_round_trip():
    found = resolve_config(Recipe(), FEW)
    assert FineTuneConfig.model_validate_json(found.model_dump_json()) == found


def test_config_rejects_nan():
    with pytest.raises(ValidationError):
        FineTuneConfig.model_validate(resolve_config(Recipe(), FEW).model_dump() | {"clip_grad": float("nan")})


def test_imbalance_is_not_corrected_unless_asked():
    # The model is judged, calibrated and used with the natural frequencies of the labels.
    assert resolve_config(Recipe(), DataStats(n_images=3_000, counts=(2_900, 100))).balance == "none"


def test_description_has_three_lines():
    found = describe(resolve_config(Recipe(balance="logits"), DataStats(n_images=4_000, counts=(3_000, 600, 400))))
    assert found.splitlines() == [
        "up to 10 epochs of 125 steps, batch size 32; augmentation: medium (crop, flip, rotation)",
        "AdamW: learning rates head 0.001, backbone 0.0002 (first layer 6e-05); 10% warm-up, then cosine decay",
        "weight decay 0.02, label smoothing 0.1, dropout 0.2; frozen BatchNorm statistics; EMA of the weights;"
        " class imbalance 8:1, logit adjustment",
    ]


def test_disabled_options_are_not_described():
    disabled = {"flips": False, "rotations": False, "ema": False, "freeze_bn": False}
    chosen = {"strategy": "finetune-last", "schedule": "plateau", "optimizer": "sgd", "mixup": 0.2}
    data, optimizer, regularization = describe(resolve_config(Recipe.model_validate(disabled | chosen), FEW)).splitlines()
    assert data.endswith("strong (crop), mixup 0.2")
    assert optimizer.startswith("SGD with momentum: learning rates head 0.005, last backbone layers 0.0015; ")
    assert optimizer.endswith("then decay when the validation loss plateaus")
    assert regularization == "weight decay 0.0001, label smoothing 0.1, dropout 0.2"


@pytest.mark.parametrize("strategy", ["auto", "probe", "svm", "stages"])
def test_augment_corruptions_is_rejected_without_fine_tuning(strategy: str):
    with pytest.raises(ValueError, match=f"--strategy {strategy} may not fine-tune. Use --strategy finetune-last, f"):
        check_augment_corruptions(Recipe.model_validate({"strategy": strategy, "augment_corruptions": "rotation"}))


@pytest.mark.parametrize("strategy", ["finetune-last", "finetune", "scratch"])
def test_augment_corruptions_works_with_every_fine_tuning_strategy(strategy: str):
    check_augment_corruptions(Recipe.model_validate({"strategy": strategy, "augment_corruptions": "rotation"}))


def test_corruptions_are_described():
    data = describe(resolve_config(Recipe(augment_corruptions=("blur", "rotation")), FEW)).splitlines()[0]
    assert data.endswith("strong (crop, flip, rotation), corruptions rotation, blur")


def test_config_without_corruptions_is_still_valid():
    before = resolve_config(Recipe(), FEW).model_dump()
    del before["augment_corruptions"]
    assert FineTuneConfig.model_validate(before).augment_corruptions == ()


def test_light_augmentation_does_not_rotate():
    assert "light (crop, flip)" in describe(resolve_config(Recipe(augment="light"), FEW))

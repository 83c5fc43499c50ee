"""Recipe files and validation, and the derived defaults at known values."""

import itertools
from pathlib import Path

import pytest
from pydantic import ValidationError

from graft.training.config.hyperparameters import epochs, input_size, lr_scale, n_folds, use_mirror_images
from graft.training.config.option_errors import OptionError
from graft.training.config.recipe import Recipe, parse_duration


def test_saved_recipe_loads_equal(tmp_path: Path):
    recipe = Recipe(strategy="finetune", input_size=96, seed=7, head_lr=0.003, flips=False, weights="mine.safetensors")
    recipe.save(tmp_path / "recipe.yaml")
    assert Recipe.load(tmp_path / "recipe.yaml", {}) == recipe


def test_corruptions_are_a_list_or_comma_separated(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text("augment_corruptions: [blur, rotation]\n")
    expected = ("rotation", "blur")
    assert (
        Recipe.load(tmp_path / "recipe.yaml", {}).augment_corruptions
        == Recipe.model_validate({"augment_corruptions": "blur,rotation"}).augment_corruptions
        == expected
    )
    Recipe(augment_corruptions=expected).save(tmp_path / "recipe.yaml")
    assert Recipe.load(tmp_path / "recipe.yaml", {}).augment_corruptions == expected


def test_command_line_overrides_the_file(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text("epochs: 8\nseed: 3\n")
    recipe = Recipe.load(tmp_path / "recipe.yaml", {"epochs": 2})
    assert (recipe.epochs, recipe.seed) == (2, 3)


def test_empty_file_means_the_defaults(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text("# no options\n")
    assert Recipe.load(tmp_path / "recipe.yaml", {}) == Recipe()


def test_unknown_key_is_rejected_by_name(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text("epoch: 8\n")
    with pytest.raises(OptionError, match=r"recipe\.yaml: epoch: 8: there is no such option \(did you mean epochs\?\)\.$"):
        Recipe.load(tmp_path / "recipe.yaml", {})


@pytest.mark.parametrize("content", [b"- epochs\n", b"8\n", b"epochs: [8\n", b"\xff\xfeepochs", b"!!python/name:os.system\n"])
def test_file_without_a_mapping_is_rejected_by_name(tmp_path: Path, content: bytes):
    (tmp_path / "odd.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"odd\.yaml"):
        Recipe.load(tmp_path / "odd.yaml", {})


def test_missing_file_is_rejected_by_name(tmp_path: Path):
    with pytest.raises(ValueError, match=r"none\.yaml cannot be read"):
        Recipe.load(tmp_path / "none.yaml", {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("strategy", "magic"),
        ("fit", "stretch"),
        ("device", "tpu"),
        ("input_size", 31),
        ("input_size", 1025),
        ("seed", -1),
        ("seed", 2**32),
        ("epochs", 0),
        ("epochs", 10_001),
        ("batch_size", 0),
        ("head_lr", 0),
        ("head_lr", float("nan")),
        ("head_lr", float("inf")),
        ("backbone_lr", -1e-4),
        ("weight_decay", -0.1),
        ("label_smoothing", 1),
        ("patience", 0),
        ("budget", "10"),
        ("budget", "0s"),
        ("optimizer", "adam"),
        ("schedule", "linear"),
        ("layer_decay", 0),
        ("layer_decay", 1.1),
        ("warmup", 1),
        ("clip_grad", 0),
        ("dropout", 1),
        ("mixup", -1),
        ("cutmix", float("inf")),
        ("balance", "smote"),
        ("augment", "heavy"),
        ("unfreeze", "first"),
        ("tracker", "wandb"),
        ("init", "imagenet"),
        ("group_by", ""),
        ("pixel_cache", -1),
    ],
)
def test_invalid_option_is_rejected_by_name(name: str, value: object):
    with pytest.raises(ValidationError) as raised:
        Recipe.model_validate({name: value})
    assert [error["loc"] for error in raised.value.errors()] == [(name,)]


@pytest.mark.parametrize(
    ("text", "duration_s"),
    [("90s", 90), ("10m", 600), ("1h", 3600), ("1h30m", 5400), ("1.5h", 5400), ("0.5s", 0.5), ("1m1s", 61)],
)
def test_durations(text: str, duration_s: float):
    assert parse_duration(text) == duration_s
    assert Recipe(budget=text).budget_s == duration_s


@pytest.mark.parametrize("text", ["", "10", "m", "10 m", "-1m", "0m", "1d", "1h30", "1e3s", "m10", "9" * 400 + "h"])
def test_invalid_duration_is_rejected(text: str):
    with pytest.raises(ValueError, match=r"is not a duration; expected a value such as 90s, 10m or 1h30m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("median_side", "pretrained", "side"),
    [
        (10, 224, 96),
        (28, 224, 128),
        (32, 224, 128),
        (33, 224, 160),
        (57, 224, 224),
        (500, 224, 224),
        (500, 260, 260),
        (10, 64, 64),
    ],
)
def test_small_images_are_upscaled_fourfold_up_to_the_pretrained_size(median_side: int, pretrained: int, side: int):
    assert input_size(median_side, pretrained) == side


def test_larger_images_never_get_a_smaller_input():
    sides = [input_size(median_side, 224) for median_side in range(1, 300)]
    assert sides == sorted(sides)


@pytest.mark.parametrize(("n_images", "count"), [(0, 20), (100, 20), (2_000, 20), (4_000, 10), (8_000, 5), (1_000_000, 5)])
def test_epochs_cover_forty_thousand_images_within_limits(n_images: int, count: int):
    assert epochs(n_images) == count


def test_more_images_never_get_more_epochs():
    counts = [epochs(n_images) for n_images in range(0, 20_000, 50)]
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize(
    ("smallest_class", "n_images", "count"), [(2, 100, 2), (3, 100, 3), (900, 1_999, 5), (900, 2_000, 3), (2, 9_000, 2)]
)
def test_every_fold_has_room_for_every_class(smallest_class: int, n_images: int, count: int):
    assert n_folds(smallest_class, n_images) == count


@pytest.mark.parametrize(("flips", "n_images", "expected"), [(True, 5_000, True), (True, 5_001, False), (False, 10, False)])
def test_mirror_images_are_used_for_small_datasets_with_flips(flips: bool, n_images: int, expected: bool):
    assert use_mirror_images(flips, n_images) is expected


@pytest.mark.parametrize(("step", "scale"), [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (55, 0.5), (100, 0.0), (120, 0.0)])
def test_learning_rate_has_warm_up_and_cosine_decay(step: int, scale: float):
    assert lr_scale(step, 100) == pytest.approx(scale)


def test_learning_rate_rises_in_the_warm_up_and_falls_afterwards():
    scales = [lr_scale(step, 200) for step in range(201)]
    rises = [after > before for before, after in itertools.pairwise(scales)]
    assert rises == [True] * 19 + [False] * 181


def test_single_step_runs_at_the_full_learning_rate():
    assert lr_scale(0, 1) == 1.0

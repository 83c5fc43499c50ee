"""Names and descriptions of corruptions."""

import pytest

from graft.training.config.corruptions import AUGMENTABLE_CORRUPTIONS, CORRUPTIONS, parse_corruption_names
from graft.training.finetuning.augmentations import CORRUPTION_AUGMENTATIONS
from graft.training.robustness.corruption_ops import CORRUPTION_OPS
from graft.training.visualization.formatting import CORRUPTIONS as TITLES


def test_every_corruption_has_an_operation_a_title_and_an_augmentation():
    assert tuple(CORRUPTION_OPS) == AUGMENTABLE_CORRUPTIONS == tuple(CORRUPTION_AUGMENTATIONS)
    assert tuple(TITLES) == tuple(CORRUPTIONS) == (*AUGMENTABLE_CORRUPTIONS, "fgsm", "pgd")


def test_typical_severities_are_tested_severities():
    assert [each.name for each in CORRUPTIONS.values() if not set(each.typical_severities) <= set(each.severities)] == []


def test_all_severities_include_the_identity_in_order():
    assert CORRUPTIONS["scale"].all_severities == (0.5, 0.7, 1, 1.4, 2)
    assert CORRUPTIONS["rotation"].all_severities == (0, 10, 30, 60, 90)


@pytest.mark.parametrize(
    ("name", "severity", "words", "images"),
    [
        ("translation", 0.1, "10%", "images translated by 10% of their side"),
        ("rotation", 30, "30°", "images rotated by 30°"),
        ("scale", 0.7, "0.7x", "images scaled by 0.7x"),
        ("flip", 2, "up-down", "images flipped up-down"),
        ("jpeg", 75, "quality 25", "images saved as JPEG with quality 25"),
        ("brightness", 1.5, "1.5x", "images at 1.5x brightness"),
        ("pgd", 1, "1/255", "images attacked by PGD with 1/255"),
    ],
)
def test_severities_are_described(name: str, severity: float, words: str, images: str):
    assert CORRUPTIONS[name].format_severity(severity) == words
    assert CORRUPTIONS[name].describe_images(severity) == images
    assert CORRUPTIONS[name].format_severity(CORRUPTIONS[name].identity) == "unchanged"


def test_names_are_deduplicated_and_ordered():
    assert parse_corruption_names(["blur", "rotation", "blur"]) == ("rotation", "blur")


@pytest.mark.parametrize(
    ("name", "message"),
    [("rotations", "'rotations' is not a corruption; did you mean rotation?"), ("pgd", "choose from translation, ")],
)
def test_unknown_name_is_rejected(name: str, message: str):
    with pytest.raises(ValueError, match=message):
        parse_corruption_names([name])

"""The names of disturbances, and the words for them."""

import pytest

from graft.training.config.corruptions import DISTURBANCES, HARDENING, hardening
from graft.training.finetuning.augmentations import HARDER
from graft.training.robustness.corruption_ops import CHANGES
from graft.training.visualization.formatting import DISTURBANCES as TITLES


def test_whatever_is_named_can_be_done_told_and_hardened_against():
    assert tuple(CHANGES) == HARDENING == tuple(HARDER)
    assert tuple(TITLES) == tuple(DISTURBANCES) == (*HARDENING, "fgsm", "pgd")


def test_advice_looks_at_severities_that_are_tried():
    assert [one.name for one in DISTURBANCES.values() if not set(one.usual) <= set(one.severities)] == []


def test_a_curve_has_the_unchanged_images_in_their_place():
    assert DISTURBANCES["scale"].curve == (0.5, 0.7, 1, 1.4, 2)
    assert DISTURBANCES["rotation"].curve == (0, 10, 30, 60, 90)


@pytest.mark.parametrize(
    ("name", "severity", "words", "images"),
    [
        ("translation", 0.1, "10%", "images moved by 10% of their side"),
        ("rotation", 30, "30°", "images turned by 30°"),
        ("scale", 0.7, "0.7x", "images shown 0.7x as large"),
        ("flip", 2, "up-down", "images mirrored up-down"),
        ("jpeg", 75, "quality 25", "images saved as JPEG of quality 25"),
        ("brightness", 1.5, "1.5x", "images 1.5x as bright"),
        ("pgd", 1, "1/255", "images attacked by PGD with 1/255"),
    ],
)
def test_severities_are_told_in_words(name: str, severity: float, words: str, images: str):
    assert DISTURBANCES[name].words(severity) == words
    assert DISTURBANCES[name].images(severity) == images
    assert DISTURBANCES[name].words(DISTURBANCES[name].unchanged) == "unchanged"


def test_names_are_kept_once_and_in_one_order():
    assert hardening(["blur", "rotation", "blur"]) == ("rotation", "blur")


@pytest.mark.parametrize(
    ("name", "said"), [("rotations", "'rotations' is nothing .* did you mean rotation?"), ("pgd", "there are translation, ")]
)
def test_a_name_that_does_not_exist_is_refused(name: str, said: str):
    with pytest.raises(ValueError, match=said):
        hardening([name])

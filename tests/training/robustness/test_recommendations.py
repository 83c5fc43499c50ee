"""Recommendations from a robustness measurement with known numbers."""

import json

import numpy as np
import pytest

from graft.training.config.corruptions import CORRUPTIONS
from graft.training.evaluation.confidence_intervals import proportion
from graft.training.robustness.measure import CorruptedExample, Robustness, SeverityResult
from graft.training.robustness.recommendations import describe_sample, recommend, to_dict


def measured(n: int = 100, of: int = 300, **changed: dict[float, int]) -> Robustness:
    """A measurement with 90% clean accuracy; `rotation={30: 31}` flips the predictions of 31 images."""

    def result(name: str, severity: float) -> SeverityResult:
        n_flipped = changed.get(name, {}).get(severity, 0)
        return SeverityResult(severity, n, proportion(90 - n_flipped / 2, n), proportion(n_flipped, n))

    pixels = np.zeros((32, 32, 3), np.uint8)
    return Robustness(
        n,
        of,
        0,
        proportion(90, n),
        {name: tuple(result(name, severity) for severity in each.all_severities) for name, each in CORRUPTIONS.items()},
        {
            name: tuple(CorruptedExample(severity, "<a>.png", pixels, "a 90%") for severity in each.all_severities)
            for name, each in CORRUPTIONS.items()
        },
    )


def test_sentence_names_the_flip_rate_and_the_flag():
    found = recommend(measured(rotation={30: 31}), "photos")
    assert found.sentences == (
        "31% (23% to 41%) of predictions change on images rotated by 30°: add rotation to the augmentations if it preserves the"
        " label: graft fit photos --strategy finetune --augment-corruptions rotation",
    )
    assert found.augmentations == ("rotation",)
    assert found.command == "graft fit photos --strategy finetune --augment-corruptions rotation"


def test_most_severe_corruption_comes_first_and_one_command_covers_all():
    found = recommend(measured(blur={2: 20}, translation={0.1: 40}), "photos", "resnet18")
    assert [sentence.split(":")[0] for sentence in found.sentences] == [
        "40% (31% to 50%) of predictions change on images translated by 10% of their side",
        "20% (13% to 29%) of predictions change on images blurred by 2 px",
    ]
    assert found.command == "graft fit photos --strategy finetune --backbone resnet18 --augment-corruptions translation,blur"


@pytest.mark.parametrize(("changed", "recommended"), [(9, False), (10, True)])
def test_augmentation_is_recommended_above_a_significant_flip_rate_of_5_percent(changed: int, recommended: bool):
    # The Wilson intervals of 9 and 10 out of 100 start at 4.8 % and 5.5 %.
    assert bool(recommend(measured(noise={16: changed}), "photos").command) is recommended


def test_extreme_severities_are_ignored():
    found = recommend(measured(rotation={90: 80}, noise={64: 90}), "photos")
    assert found.sentences == (
        "no corruption at a typical severity significantly changes more than 5% of predictions, measured on 100 images",
    )
    assert found.command == ""


def test_no_flag_is_recommended_against_attacks():
    found = recommend(measured(pgd={1: 95}), "photos")
    assert "no training flag prevents this" in found.sentences[0]
    assert (found.augmentations, found.command) == ((), "")


def test_only_the_worst_attack_is_listed_and_it_comes_last():
    found = recommend(measured(pgd={1: 95}, fgsm={1: 60}, blur={2: 20}), "photos")
    assert [sentence.split(" images ")[1][:7] for sentence in found.sentences] == ["blurred", "attacke"]
    assert "PGD" in found.sentences[1]


def test_worse_of_two_typical_severities_counts():
    assert "scaled by 1.4x" in recommend(measured(scale={0.7: 20, 1.4: 30}), "photos").sentences[0]


def test_json_has_a_list_for_every_corruption():
    found = measured(rotation={30: 31})
    output = json.loads(json.dumps(to_dict(found, recommend(found, "photos"))))
    assert set(output) == {"robust", "robust_sample", "advice"}
    assert [one["severity"] for one in output["robust"]["rotation"]] == [0, 10, 30, 60, 90]
    assert output["robust"]["rotation"][2] == {
        "severity": 30,
        "accuracy": 0.745,
        "low": pytest.approx(0.6515, abs=1e-3),
        "high": pytest.approx(0.8204, abs=1e-3),
        "changed": 0.31,
        "n": 100,
    }
    assert output["robust_sample"]["n"] == 100


def test_sample_is_described():
    assert describe_sample(measured()) == "100 of 300 images (seed 0)"
    assert describe_sample(measured(of=100)) == "all 100 images"

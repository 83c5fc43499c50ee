"""The sentences that follow from a measurement, at written-out numbers, and the page that tells it."""

import json

import numpy as np
import pytest

from graft.training.config.corruptions import DISTURBANCES
from graft.training.evaluation.confidence_intervals import share
from graft.training.report import render
from graft.training.robustness.measure import Example, Robustness, Withstood
from graft.training.robustness.recommendations import advise, facts, text


def measured(n: int = 100, of: int = 300, **changed: dict[float, int]) -> Robustness:
    """Ninety of a hundred right as they are; `rotation={30: 31}` answers of 31 images change."""

    def one(name: str, severity: float) -> Withstood:
        other = changed.get(name, {}).get(severity, 0)
        return Withstood(severity, n, share(90 - other / 2, n), share(other, n))

    pixels = np.zeros((32, 32, 3), np.uint8)
    return Robustness(
        n,
        of,
        0,
        share(90, n),
        {name: tuple(one(name, severity) for severity in each.curve) for name, each in DISTURBANCES.items()},
        {
            name: tuple(Example(severity, "<a>.png", pixels, "a 90%") for severity in each.curve)
            for name, each in DISTURBANCES.items()
        },
    )


def test_sentence_says_what_changes_and_which_flag_helps():
    found = advise(measured(rotation={30: 31}), "photos")
    assert found.sentences == (
        "answers change for 31% (23% to 41%) of images turned by 30°: add rotation to the augmentation if its label is still"
        " true then: graft fit photos --strategy finetune --harden rotation",
    )
    assert found.harden == ("rotation",)
    assert found.command == "graft fit photos --strategy finetune --harden rotation"


def test_gravest_comes_first_and_one_command_answers_all():
    found = advise(measured(blur={2: 20}, translation={0.1: 40}), "photos", "resnet18")
    assert [sentence.split(":")[0] for sentence in found.sentences] == [
        "answers change for 40% (31% to 50%) of images moved by 10% of their side",
        "answers change for 20% (13% to 29%) of images blurred by 2 px",
    ]
    assert found.command == "graft fit photos --strategy finetune --backbone resnet18 --harden translation,blur"


@pytest.mark.parametrize(("changed", "advised"), [(9, False), (10, True)])
def test_advice_is_given_once_more_than_one_in_twenty_surely_change(changed: int, advised: bool):
    # Wilson's intervals of 9 and 10 of 100 begin at 4.8 % and 5.5 %.
    assert bool(advise(measured(noise={16: changed}), "photos").command) is advised


def test_severities_that_no_image_meets_bring_no_advice():
    found = advise(measured(rotation={90: 80}, noise={64: 90}), "photos")
    assert found.sentences == (
        "no usual disturbance surely changes more than one answer in twenty, as far as 100 images can tell",
    )
    assert found.command == ""


def test_no_flag_is_promised_against_attacks():
    found = advise(measured(pgd={1: 95}), "photos")
    assert "no flag cures that" in found.sentences[0]
    assert (found.harden, found.command) == ((), "")


def test_attacks_come_last_and_only_the_worst_of_them():
    found = advise(measured(pgd={1: 95}, fgsm={1: 60}, blur={2: 20}), "photos")
    assert [sentence.split(" images ")[1][:7] for sentence in found.sentences] == ["blurred", "attacke"]
    assert "PGD" in found.sentences[1]


def test_worse_of_two_usual_severities_counts():
    assert "shown 1.4x as large" in advise(measured(scale={0.7: 20, 1.4: 30}), "photos").sentences[0]


def test_json_has_a_list_for_every_disturbance():
    found = measured(rotation={30: 31})
    told = json.loads(json.dumps(facts(found, advise(found, "photos"))))
    assert set(told) == {"robust", "robust_sample", "advice"}
    assert [one["severity"] for one in told["robust"]["rotation"]] == [0, 10, 30, 60, 90]
    assert told["robust"]["rotation"][2] == {
        "severity": 30,
        "accuracy": 0.745,
        "low": pytest.approx(0.6515, abs=1e-3),
        "high": pytest.approx(0.8204, abs=1e-3),
        "changed": 0.31,
        "n": 100,
    }
    assert told["robust_sample"]["n"] == 100


def test_table_has_a_line_for_every_severity():
    found = measured(rotation={30: 31})
    lines = text(found, advise(found, "photos")).splitlines()
    assert lines[0] == "disturbed: 100 of 300 images (seed 0); unchanged, 90.0% are right"
    [line] = (line for line in lines if "30°" in line and not line.startswith("answers"))
    assert line.split() == ["30°", "74.5%", "(65.2%", "to", "82.0%)", "31.0%"]
    assert len(lines) == 2 + sum(len(one.severities) for one in DISTURBANCES.values()) + 1


def test_page_is_whole_and_escaped():
    found = measured(rotation={30: 31})
    page = render.robust_page("<b>hymenoptera</b>", found, advise(found, "photos"))
    assert "&lt;b&gt;hymenoptera&lt;/b&gt;" in page
    assert "<b>hymenoptera</b>" not in page
    assert "&lt;a&gt;.png" in page
    assert all(f'id="{name}"' in page for name in DISTURBANCES)
    assert page.count("<svg") == len(DISTURBANCES) + 2 * sum(len(one.curve) for one in DISTURBANCES.values())
    assert "graft fit photos --strategy finetune --harden rotation" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")

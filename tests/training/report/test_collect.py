"""What a run tells is what it did."""

from pathlib import Path

import pytest

from graft.training.config.recipe import Recipe
from graft.training.report import collect, render


@pytest.mark.parametrize(
    ("choices", "typed"),
    [
        ({}, "graft fit photos"),
        ({"strategy": "probe", "seed": 3}, "graft fit photos --strategy probe --seed 3"),
        ({"flips": False, "skip_bad": True}, "graft fit photos --skip-bad --no-flips"),
        ({"group_by": r"(\d+) /"}, r"graft fit photos --group-by '(\d+) /'"),
    ],
)
def test_the_command_has_every_choice_that_is_no_default(choices: dict, typed: str):
    assert collect.command("fit", Path("photos"), Recipe.model_validate(choices)) == typed


def test_every_run_ends_with_its_report(fitted):
    page = (fitted.run / render.NAME).read_text(encoding="utf-8")
    accuracy = fitted.evaluation.metrics["accuracy"].value
    assert f"{accuracy:.1%}" in page
    assert "--strategy probe" in page
    assert "ankle boot" in page
    assert "28x28" in page


def test_versions_and_machine_are_told():
    told = collect.repeat("graft fit photos", Recipe(), (0,))
    assert told.versions["torch"]
    assert "cores" in told.machine

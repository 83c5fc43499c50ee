"""Report content: the reproduction command, versions, and the page of a run."""

from pathlib import Path

import pytest

from graft.training.config.recipe import Recipe
from graft.training.report import collect, render


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "graft fit photos"),
        ({"strategy": "probe", "seed": 3}, "graft fit photos --strategy probe --seed 3"),
        ({"flips": False, "skip_bad": True}, "graft fit photos --skip-bad --no-flips"),
        ({"group_by": r"(\d+) /"}, r"graft fit photos --group-by '(\d+) /'"),
    ],
)
def test_command_line_includes_every_non_default_option(options: dict, expected: str):
    assert collect.command_line("fit", Path("photos"), Recipe.model_validate(options)) == expected


def test_run_writes_a_report(fitted):
    page = (fitted.run / render.REPORT_FILE).read_text(encoding="utf-8")
    accuracy = fitted.evaluation.metrics["accuracy"].value
    assert f"{accuracy:.1%}" in page
    assert "--strategy probe" in page
    assert "ankle boot" in page
    assert "28x28" in page


def test_reproduction_has_versions_and_machine():
    reproduction = collect.reproduction("graft fit photos", Recipe(), (0,))
    assert reproduction.versions["torch"]
    assert "cores" in reproduction.machine

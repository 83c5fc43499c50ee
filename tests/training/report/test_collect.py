"""Report content: the reproduction command, versions, and the page of a run."""

from pathlib import Path

import pytest

from graft.training.config.finetune_config import DataStats, resolve_config
from graft.training.config.recipe import Recipe
from graft.training.report import collect, render
from graft.training.report.render import ConfigLine
from graft.training.runtime import gpu


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
    reproduction = collect.reproduction("graft fit photos", Recipe(device="cpu"), (0,))
    assert reproduction.versions["torch"]
    assert reproduction.machine.endswith(" cores, no GPU")


def test_reproduction_names_card_and_driver(monkeypatch):
    monkeypatch.setattr(collect, "resolve_device", lambda setting: "cuda")
    monkeypatch.setattr(gpu, "current_card", lambda: gpu.Card("NVIDIA L4", "550.54.14", (8, 9), 24 * 2**30))
    reproduction = collect.reproduction("graft fit photos", Recipe(), (0,))
    assert reproduction.machine.endswith(" cores, NVIDIA L4 (driver 550.54.14)")


def test_report_names_the_training_precision():
    stats = DataStats(200, (100, 100), device="cuda", training_precision="bf16-mixed")
    lines = collect._finetune_config_lines(resolve_config(Recipe(), stats), Recipe().model_dump())
    assert ConfigLine("training precision", "bf16-mixed", derived=True) in lines

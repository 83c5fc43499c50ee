"""`--replay` repeats a run and compares every metric and weight with the original."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from graft.training.cli.main import main
from graft.training.config.recipe import Recipe
from graft.training.pipelines import replay
from graft.training.pipelines.fit import FitResult
from graft.training.runs.run_folder import RunError, RunMismatchError
from graft.training.sample import SAMPLE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def again(fitted, tmp_path_factory) -> tuple[FitResult, list]:
    """A replay of the session's run."""
    folder = tmp_path_factory.mktemp("replay")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return replay.replay(SAMPLE, folder / "again", fitted.run, Recipe())


@pytest.fixture
def copy(fitted, tmp_path: Path) -> Path:
    """A modifiable copy of the session's run."""
    return Path(shutil.copytree(fitted.run, tmp_path / "copy"))


def set_value(path: Path, keys: list, value: object) -> None:
    """Changes one value in a JSON file."""
    content = inner = json.loads(path.read_text())
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(content))


def test_replay_has_no_differences(again):
    assert again[1] == []


def test_replay_is_a_new_run_with_the_same_splits(fitted, again):
    assert again[0].run != fitted.run
    assert (again[0].run / "splits.csv").read_bytes() == (fitted.run / "splits.csv").read_bytes()
    assert (again[0].run / "recipe.yaml").read_bytes() == (fitted.run / "recipe.yaml").read_bytes()
    assert json.loads((again[0].run / "run.json").read_text())["like"] == str(fitted.run.resolve())


def test_command_reports_an_identical_run_and_exits_with_0(fitted, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", str(SAMPLE), "--replay", str(fitted.run), "--out", "again"]) == 0
    assert capsys.readouterr().out == f"again is identical to {fitted.run} in all metrics and weights\n"


def test_command_lists_differences_and_exits_with_1(copy: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    set_value(copy / "evaluation.json", ["metrics", "accuracy", "value"], 0.5)
    assert main(["fit", str(SAMPLE), "--replay", str(copy), "--out", "again"]) == 1
    first, header, row = capsys.readouterr().out.splitlines()
    assert first == f"again differs from {copy}:"
    assert header.split() == ["name", "before", "now"]
    assert row.split()[:2] == ["evaluation.metrics.accuracy.value", "0.5"]


def test_command_prints_differences_as_json(copy: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    set_value(copy / "evaluation.json", ["metrics", "accuracy", "value"], 0.5)
    assert main(["fit", str(SAMPLE), "--replay", str(copy), "--json"]) == 1
    [difference] = json.loads(capsys.readouterr().out)["differences"]
    assert (difference["what"], difference["before"]) == ("evaluation.metrics.accuracy.value", "0.5")


def test_run_has_no_differences_from_its_copy(fitted, copy: Path):
    assert replay.differences(fitted.run, copy) == []


def test_durations_are_not_compared(fitted, copy: Path):
    set_value(copy / "strategies.json", [0, "seconds"], 1e6)
    assert replay.differences(fitted.run, copy) == []


@pytest.mark.parametrize(("value", "differs"), [(1e-9, False), (1e-3, True)])
def test_differences_within_the_tolerance_are_ignored(fitted, copy: Path, value: float, differs: bool):
    manifest = json.loads((copy / "package/manifest.json").read_text())
    set_value(copy / "package/manifest.json", ["temperature"], manifest["temperature"] + value)
    assert [what for what, _, _ in replay.differences(fitted.run, copy)] == ["package.temperature"] * differs


def test_label_order_is_compared(fitted, copy: Path):
    labels = json.loads((copy / "package/manifest.json").read_text())["labels"]
    set_value(copy / "package/manifest.json", ["labels"], [labels[1], labels[0], *labels[2:]])
    assert replay.differences(fitted.run, copy) == [
        ("package.labels.0", labels[0], labels[1]),
        ("package.labels.1", labels[1], labels[0]),
    ]


def test_changed_weight_is_reported_with_its_difference(fitted, copy: Path):
    weights = load_file(copy / "package/weights.safetensors")
    weights["head.bias"] = weights["head.bias"] + np.float32(0.25)
    save_file(weights, copy / "package/weights.safetensors")
    assert replay.differences(fitted.run, copy) == [("head.bias", "0", "max difference 0.25")]


def test_missing_or_reshaped_weight_is_reported(fitted, copy: Path):
    weights = load_file(copy / "package/weights.safetensors")
    del weights["head.bias"]
    weights["head.weight"] = weights["head.weight"][:9].copy()
    save_file(weights, copy / "package/weights.safetensors")
    assert replay.differences(fitted.run, copy) == [("head.bias", "10", "missing"), ("head.weight", "10x1280", "9x1280")]


GPU = {"device": "cuda", "card": "NVIDIA L4", "driver": "550.54.14", "compute capability": "8.9"}


@pytest.mark.parametrize(("value", "differs"), [(1e-3, False), (0.03, True)])
def test_runs_on_a_gpu_are_compared_within_a_tolerance(fitted, copy: Path, value: float, differs: bool):
    set_value(copy / "run.json", ["machine"], GPU)
    manifest = json.loads((copy / "package/manifest.json").read_text())
    set_value(copy / "package/manifest.json", ["temperature"], manifest["temperature"] * (1 + value))
    weights = load_file(copy / "package/weights.safetensors")
    weights["head.bias"] = weights["head.bias"] + np.float32(value)
    save_file(weights, copy / "package/weights.safetensors")
    expected = ["package.temperature", "head.bias"] if differs else []
    assert [name for name, _, _ in replay.differences(fitted.run, copy)] == expected


def test_verdict_on_a_gpu_says_within_and_names_the_cards(copy: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    set_value(copy / "run.json", ["machine"], GPU)
    set_value(copy / "package/manifest.json", ["calibration", "outlier_threshold"], _nearly(copy))
    assert main(["fit", str(SAMPLE), "--replay", str(copy), "--out", "again"]) == 0
    output = capsys.readouterr()
    assert output.out == f"again is within 0.01 of {copy} in all metrics and weights\n"
    used = f"warning: {copy} used NVIDIA L4 (driver 550.54.14), and this run a CPU: numbers within 0.01 of each other count as"
    assert used in output.err


def _nearly(run: Path) -> float:
    return json.loads((run / "package/manifest.json").read_text())["calibration"]["outlier_threshold"] + 1e-3


def test_tolerance_is_exact_unless_one_run_used_a_gpu(tmp_path: Path):
    for name, machine in (("old", {}), ("cpu", {"machine": {"device": "cpu"}}), ("gpu", {"machine": GPU})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(machine))
    old, cpu, gpu = (tmp_path / name for name in ("old", "cpu", "gpu"))
    assert replay.tolerance(cpu, old) == replay.tolerance(cpu, cpu) == 1e-6
    assert replay.tolerance(cpu, gpu) == replay.tolerance(gpu, cpu) == replay.tolerance(gpu, gpu) == 1e-2


def test_every_epoch_is_compared(tmp_path: Path, fitted):
    runs = [Path(shutil.copytree(fitted.run, tmp_path / name)) for name in ("one", "two")]
    for run, loss in zip(runs, (0.5, 0.75), strict=True):
        (run / "finetune").mkdir()
        with (run / "finetune/metrics.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["epoch", "val/loss"], [0, 1.0], [1, loss]])
    assert replay.differences(*runs) == [("finetune/epoch 1 val/loss", 0.5, 0.75)]


def test_unfinished_run_cannot_be_replayed(copy: Path, tmp_path: Path):
    (copy / "run.json").write_text("{}")
    with pytest.raises(RunError, match="is not a finished run, so there is nothing to compare with"):
        replay.replay(SAMPLE, tmp_path / "again", copy, Recipe())
    assert not (tmp_path / "again").exists()


def test_replay_with_another_option_is_rejected(fitted, tmp_path: Path):
    with pytest.raises(RunMismatchError, match=r"--seed +0 +1"):
        replay.replay(SAMPLE, tmp_path / "again", fitted.run, Recipe(seed=1))


def test_replay_on_other_images_is_rejected(fitted, make_folder, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunMismatchError, match=rf"(?s){fitted.run} was started with different inputs:.*missing"):
        replay.replay(make_folder({"cat": 8, "dog": 8}), tmp_path / "again", fitted.run, Recipe())

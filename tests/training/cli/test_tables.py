"""The tables of results: one row per record, the same numbers as in `--json`."""

from dataclasses import replace

import pytest
import timm
import torch

import graft.service.networks.network  # noqa: F401 - registers Graft's own networks
from graft.training.architecture import summary
from graft.training.architecture.layers import Layer, ModelSummary
from graft.training.architecture.receptive_field import ReceptiveField
from graft.training.architecture.summary import Inspection
from graft.training.architecture.tracer import trace_layers
from graft.training.cli import show, tables
from graft.training.cli.output import print_table, without_optional
from graft.training.config.corruptions import CORRUPTIONS
from graft.training.data.findings import Finding
from graft.training.evaluation.comparison import RunResult, compare_runs
from graft.training.evaluation.confidence_intervals import proportion
from graft.training.pipelines.replay import GPU_TOLERANCE, TOLERANCE, Replay
from graft.training.robustness.measure import Robustness, SeverityResult


def run(strategy: str, outcomes: str, seed: int = 0) -> RunResult:
    """A run with outcomes per image such as "1101": 1 for a correct prediction."""
    return RunResult(strategy, "lite0", seed, 2.0, {bytes([image]): float(correct) for image, correct in enumerate(outcomes)})


def test_comparison_has_a_row_for_every_strategy_and_marks_the_best():
    fine_tuned = [replace(run("finetune", "1110"), latency_s=0.0071), replace(run("finetune", "1111", 1), latency_s=0.0075)]
    table = tables.comparison(compare_runs([run("probe", "1000"), *fine_tuned]))
    assert table.headers == ("strategy", "backbone", "accuracy", "95 % interval", "ms/image", "time", "by seed")
    assert [row[:3] + row[4:] for row in table.rows] == [
        ("finetune", "lite0", "87.5", "7.3", "2 s", "75.0 100.0"),
        ("probe", "lite0", "25.0", "–", "2 s", "25.0"),
    ]
    assert table.key_styles == ("bold green", "")


def test_every_metric_has_a_row(fitted):
    table = tables.metrics(fitted.evaluation)
    assert len(table.rows) == len(fitted.evaluation.metrics)
    [brier] = [row for row in table.rows if "Brier score" in row[0]]
    metric = fitted.evaluation.metrics["brier"]
    assert brier[1:] == (f"{metric.value:.3f}", f"{metric.low:.3f} to {metric.high:.3f}")


def test_robustness_has_a_row_for_every_severity():
    def result(name: str, severity: float) -> SeverityResult:
        n_flipped = 31 if (name, severity) == ("rotation", 30) else 0
        return SeverityResult(severity, 100, proportion(90 - n_flipped / 2, 100), proportion(n_flipped, 100))

    curves = {name: tuple(result(name, severity) for severity in each.all_severities) for name, each in CORRUPTIONS.items()}
    table = tables.robustness(Robustness(100, 300, 0, proportion(90, 100), curves, {}))
    assert ("rotation", "30°", "74.5%", "65.2% to 82.0%", "31.0%") in table.rows
    assert len(table.rows) == sum(len(one.severities) for one in CORRUPTIONS.values())


def test_findings_have_a_colored_severity_and_their_text():
    table = tables.findings([Finding("leak", "error", "a is in train and test"), Finding("x", "note", "b")])
    assert table.rows == (("error:", "a is in train and test"), ("note:", "b"))
    assert table.key_styles == ("bold red", "cyan")


@pytest.fixture(scope="module")
def lenet() -> Inspection:
    return summary.inspect("lenet5")


def test_layers_have_a_row_each(lenet: Inspection, capsys):
    print_table(tables.layers(lenet))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["stages.1.conv2", "convolution", "5", "1", "0", "10x10x16", "2,416", "4%", "0.24", "37%", "14", "2", "7"] in lines
    assert ["hidden.fc1", "linear", "1x1x120", "48,120", "78%", "0.048", "7%", "all"] in lines
    assert len(lines) == 1 + len(lenet.model_summary.layers)


def test_inspection_is_complete(lenet: Inspection, capsys):
    show.inspect(lenet, None)
    output = capsys.readouterr().out
    assert output.startswith("lenet5: lenet5 with its original classifier")
    assert summary.RECEPTIVE_FIELD_NOTE in output
    assert "62,006 weights, 0.2 MiB in memory" in output
    assert output.endswith("to write a page, add --html FILE\n")


@pytest.mark.parametrize(
    "name", ["inception_v3", "resnet152", "vgg19", "vit_tiny_patch16_224", "densenet121", "efficientnet_b0"]
)
def test_layers_fit_120_columns_without_the_least_important_columns(name: str):
    with torch.device("meta"):
        body = timm.create_model(name)
    side = body.pretrained_cfg["input_size"][-1]
    inspection = Inspection(name, "for a test", trace_layers(body, torch.empty(1, 3, side, side, device="meta")), 12.5)
    table = tables.layers(inspection)
    hidden = [header for header in table.headers if header not in without_optional(table, 120).headers]
    assert set(hidden) <= {"RF start", "RF stride", ""}  # "" is the share of the multiply-adds


def test_long_names_are_complete_in_a_pipe(capsys):
    layer = Layer("a" * 200 + ".end", "convolution", (1, 1, 1), ReceptiveField(), 1)
    print_table(tables.layers(Inspection("x", "y", ModelSummary((layer,), (8, 8), 1, 4), 1.0)))
    assert f"{'a' * 200}.end" in capsys.readouterr().out


def test_replay_shows_ten_differences_and_counts_the_rest(fitted, tmp_path, capsys):
    show.replay(Replay(fitted, [(f"metric {number}", 0.1, 0.25) for number in range(13)], TOLERANCE), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{fitted.run} differs from {tmp_path}:"
    assert lines[1].split() == ["name", "before", "now"]
    assert lines[2] == "metric 0  0.1     0.25"
    assert (len(lines), lines[-1]) == (13, "and 3 more; --json lists all")


def test_replay_on_a_gpu_says_by_how_much_it_differs(fitted, tmp_path, capsys):
    show.replay(Replay(fitted, [("metric", 0.1, 0.25)], GPU_TOLERANCE), tmp_path)
    assert capsys.readouterr().out.splitlines()[0] == f"{fitted.run} differs from {tmp_path} by more than 0.01:"

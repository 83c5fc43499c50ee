"""`graft inspect`: the JSON output and the HTML page."""

import json
from pathlib import Path

import pytest

from graft.training.architecture import summary
from graft.training.architecture.layers import Layer, ModelSummary
from graft.training.architecture.summary import Inspection
from graft.training.backbones.registry import BackboneError
from graft.training.cli.main import main
from graft.training.report import render


@pytest.fixture(scope="module")
def lenet() -> Inspection:
    return summary.inspect("lenet5")


def test_backbone_needs_no_pretrained_weights(lenet: Inspection):
    assert lenet.model_summary.weights == 62_006
    assert (
        lenet.description
        == "lenet5 with its original classifier; random weights, because sizes, multiply-adds and time do not depend on them"
    )


def test_time_is_measured(lenet: Inspection):
    assert lenet.milliseconds > 0
    assert lenet.engine_milliseconds is None


def test_json_of_a_layer_has_all_fields(lenet: Inspection):
    first = lenet.to_dict()["layers"][0]
    assert json.loads(json.dumps(first)) == {
        "name": "stages.0.conv1",
        "kind": "convolution",
        "kernel": 5,
        "stride": 1,
        "padding": 0,
        "output": [28, 28, 6],
        "weights": 456,
        "multiply_adds": 352_800,
        "receptive_field": 5,
        "receptive_field_stride": 1,
        "receptive_field_offset": 2.5,
        "share": {"weights": 0.007354, "multiply_adds": 0.541337},
    }


def test_totals_are_sums_over_the_layers(lenet: Inspection):
    output = lenet.to_dict()
    assert output["totals"]["weights"] == sum(layer["weights"] for layer in output["layers"]) == 62_006
    assert output["totals"]["multiply_adds"] == sum(layer["multiply_adds"] for layer in output["layers"]) == 651_720
    assert output["totals"]["bytes"] == 4 * 62_006


def test_unknown_field_is_a_question_mark():
    assert summary.receptive_field_text(Layer("x", "convolution", (1, 1, 1), None), (8, 8)) == ("?", "", "")


def test_page_lists_every_layer_and_loads_nothing_from_the_web(lenet: Inspection):
    page = render.inspect_page(lenet)
    for layer in lenet.model_summary.layers:
        assert f"<bdi>{layer.name}</bdi>" in page
    assert "54.1% of the multiply-adds" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_page_escapes_names():
    found = Inspection("<b>x", "y", ModelSummary((Layer("<i>", "linear", (1, 1, 1), None, 1),), (8, 8), 1, 4), 1.0)
    page = render.inspect_page(found)
    assert "<b>" not in page
    assert "<i>" not in page


def test_package_is_timed_with_the_inference_engine(fitted):
    found = summary.inspect(str(fitted.artifact.path))
    names = [layer.name for layer in found.model_summary.layers]
    assert names[0].startswith("backbone.")
    assert names[-1] == "head"
    assert found.model_summary.layers[-1].output == (1, 1, 10)
    assert found.engine_milliseconds > 0
    assert found.engine.startswith("cpu, ")
    assert "10 labels" in found.description


def test_package_rejects_an_input_size(fitted):
    with pytest.raises(ValueError, match="is a package, and its input size is fixed"):
        summary.inspect(str(fitted.artifact.path), 64)


def test_unknown_backbone_suggests_similar_names():
    with pytest.raises(BackboneError, match=r"Unknown backbone 'lenet'\. Did you mean .*lenet5"):
        summary.inspect("lenet")


def test_unsupported_input_size_is_rejected():
    with pytest.raises(
        BackboneError, match=r"tv_alexnet does not accept an input size of 20 pixels: .* Try another --input-size"
    ):
        summary.inspect("tv_alexnet", 20)


def test_command_prints_json_and_writes_a_page(capsys, tmp_path: Path):
    assert main(["inspect", "lenet5", "--json", "--input-size", "64", "--html", str(tmp_path / "page.html")]) == 0
    assert json.loads(capsys.readouterr().out)["layers"][0]["output"] == [60, 60, 6]
    assert "lenet5" in (tmp_path / "page.html").read_text()


def test_missing_package_is_an_error(capsys, tmp_path: Path):
    assert main(["inspect", str(tmp_path / "no-such")]) in (2, 3)
    assert "error: " in capsys.readouterr().err

"""The int8 model: the quantized network with a head of its own, in the package beside the f32 model."""

import io
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import onnx
import pytest

from graft.service.artifact import read
from graft.service.imaging.preprocess import decode
from graft.service.inference.model import load
from graft.service.inference.openvino import OpenVinoModel
from graft.service.manifest import INT8_FILES
from graft.training.backbones import onnx_cache, quantization, registry
from graft.training.data.seen_images import NO_IMAGES
from graft.training.packaging import writer
from graft.training.strategies import finetune, int8, kernel, probe
from graft.training.strategies.context import TrainingContext
from graft.training.strategies.trained_model import TrainedModel

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(map(find_spec, quantization.REQUIRED)), reason="needs graft-vision[int8]"),
]


def tuned(context, probed, network) -> TrainedModel:
    """A fine-tuned network with its own head."""
    return finetune._export_and_score(context, probed, "finetune", network)


def previous(context, probed, network) -> TrainedModel:
    """The model of `--from`, unchanged: held out are the validation images."""
    held_out = {"held_out": context.splits.validation, "held_out_logits": probed.validation_logits}
    return probe.export_probe(replace(probed, strategy="previous", **held_out), context)


def with_machine(context, probed, network) -> TrainedModel:
    return kernel.add_to_network(context, probed, "finetune", network)


MODELS = {
    "probe": lambda context, probed, network: probe.export_probe(probed, context),
    "stages": lambda context, probed, network: probe.export_probe(probe.fit_probe(context, "stages"), context),
    "kernel": lambda context, probed, network: probe.export_probe(kernel.fit_kernel(context, probed), context),
    "previous": previous,
    "finetune": tuned,
    "finetune with a kernel machine": with_machine,
}


def pixels_of(context: TrainingContext, n: int = 8) -> np.ndarray:
    read_image, preprocessing = context.dataset.read, context.exported.preprocessing
    return np.stack([decode(read_image(sample), preprocessing).pixels for sample in context.splits.test[:n]])


@pytest.mark.parametrize("name", MODELS)
def test_the_int8_model_is_a_model_of_the_same_kind_with_a_head_of_its_own(name, context, probed, network, tmp_path):
    trained = MODELS[name](context, probed, network)
    model = int8.train_int8(context, trained)
    assert (model.strategy, model.backbone.head_input) == (trained.strategy, trained.backbone.head_input)
    assert (model.backbone.kernel is None) == (trained.backbone.kernel is None)
    head = [key for key in trained.weights if key.startswith("head.")]
    is_same = all(np.allclose(model.weights[key], trained.weights[key]) for key in head)
    assert not (is_same and name in int8.ON_FROZEN_FEATURES)  # a correction may bring nothing, a new head is another one
    assert np.array_equal(model.held_out.targets, trained.held_out.targets)
    same = model.test.logits.argmax(axis=1) == trained.test.logits.argmax(axis=1)
    assert same.mean() > 0.8
    (tmp_path / "model.onnx").write_bytes(model.graph)
    pixels = pixels_of(context)
    outputs, expected = OpenVinoModel(tmp_path / "model.onnx")(pixels), model.network(pixels)
    # The compiler fuses other layers if other outputs are asked for, and rounds in other places then.
    assert np.abs(outputs["logits"] - expected.logits).max() < 0.1 * np.ptp(expected.logits)
    assert not list(context.folder.path.glob("*/int8"))  # the quantized backbone is not kept


def test_all_but_the_first_convolutions_are_quantized(context, probed):
    model = int8.train_int8(context, MODELS["probe"](context, probed, None))
    graph = onnx.load(io.BytesIO(model.graph)).graph
    producers = {output: node.op_type for node in graph.node for output in node.output}
    inputs = [producers.get(node.input[0]) for node in graph.node if node.op_type == "Conv"]
    n_exact = quantization.N_EXACT_CONVOLUTIONS
    assert "DequantizeLinear" not in inputs[:n_exact]
    assert set(inputs[n_exact:]) == {"DequantizeLinear", "Pad"}  # what is padded is quantized before
    head = next(node for node in graph.node if node.name == "logits")
    assert producers.get(head.input[0]) != "DequantizeLinear"


def test_no_tensor_is_quantized_twice_in_the_same_way(context, probed):
    graph = onnx.load(io.BytesIO(int8.train_int8(context, MODELS["kernel"](context, probed, None)).graph)).graph
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor).tobytes() for tensor in graph.initializer}
    found = [(node.input[0], *map(tensors.get, node.input[1:])) for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(found) == len(set(found)) > 10
    assert any(node.op_type == "ReduceMean" for node in graph.node)  # the pooling of the stages, beside the next layers


def test_validation_is_predicted_by_a_machine_that_has_not_learned_it(context, probed, network, monkeypatch):
    trained, results = MODELS["finetune with a kernel machine"](context, probed, network), []
    monkeypatch.setattr(probe, "export_probe", lambda result, _: results.append(result))
    int8.train_int8(context, trained)
    n_train, n_validation = len(context.splits.train), len(context.splits.validation)
    n_centers = [len(head.kernel.centers) for head in (results[0].train_head, results[0].final_head)]
    assert n_centers == [4 * n_train, 4 * (n_train + n_validation)]


def test_the_package_has_both_models(context, probed, tmp_path):
    trained = MODELS["probe"](context, probed, None)
    model = int8.train_int8(context, trained)
    package = tmp_path / "package"
    writer.write(trained, context.dataset, context.splits, NO_IMAGES, "small", package, int8=model)
    manifest = read(package).manifest
    assert set(manifest.files) >= INT8_FILES
    assert manifest.files["model.int8.onnx"].bytes < manifest.files["model.onnx"].bytes / 3
    assert manifest.int8.temperature == model.temperature
    assert manifest.int8.calibration == model.calibration != manifest.calibration
    fidelity = manifest.int8.fidelity
    assert fidelity.n_images == len(trained.held_out.targets)
    assert 0.8 < fidelity.agreement <= 1
    assert 0 < fidelity.max_probability_shift < 0.5
    card = (package / "README.md").read_text(encoding="utf-8")
    assert f"| int8 | {fidelity.agreement:.1%} | " in card
    if "int8" in load(package, "cpu", precision="f32").manifest.precisions:
        served = load(package, "cpu", precision="int8")
        assert served.passes
        assert served.manifest.temperature == model.temperature
        sample = context.splits.test[0]
        found = served.classify(context.dataset.read(sample), 1).ranked[0]
        assert found.label == context.dataset.labels[int(model.test.logits[0].argmax())]


def test_a_network_that_cannot_be_quantized_gives_a_package_without_an_int8_model(context, probed, monkeypatch, capsys):
    import nncf

    def fail(*_: object, **__: object) -> None:
        raise nncf.UnsupportedModelError("This operator is not known.\nDetails follow.")

    monkeypatch.setattr(nncf, "quantize", fail)
    assert int8.train_int8(context, MODELS["probe"](context, probed, None)) is None
    warning = "tf_efficientnet_lite0 cannot be quantized to int8: This operator is not known. The package has no int8 model"
    assert warning in capsys.readouterr().err


def test_an_attention_network_is_quantized(context, tmp_path):
    spec = registry.resolve("vit_tiny_patch16_224", "none")
    exported = onnx_cache.load_or_export(spec, 64, 28, "crop")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    quantized = quantization.quantize_backbone(exported, list(pixels), tmp_path / "int8")
    exact, rounded = (OpenVinoModel(one.graph, output_names=("vectors",))(pixels)["vectors"] for one in (exported, quantized))
    assert 0 < np.abs(exact - rounded).max() < 0.2 * np.abs(exact).max()


@pytest.mark.parametrize("name", ["nncf", "onnxruntime"])
def test_a_missing_library_is_reported_before_training(monkeypatch, name):
    monkeypatch.setattr(quantization, "find_spec", lambda asked: None if asked == name else object())
    quantization.require_nncf(int8=False)
    with pytest.raises(ValueError, match=f"--int8: {name} is not installed"):
        quantization.require_nncf(int8=True)


def test_the_correction_of_a_head_finds_a_linear_change():
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(3, 20)), rng.normal(size=3)
    inputs, new_inputs = (rng.normal(2, 1, (n, 20)).astype(np.float32) for n in (400, 50))
    errors, new_errors = ((rows @ weight.T + bias).astype(np.float32) for rows in (inputs, new_inputs))
    found_weight, found_bias = int8.fit_correction(inputs, errors, new_inputs, new_errors)
    np.testing.assert_allclose(found_weight, weight, atol=0.01)
    np.testing.assert_allclose(new_inputs @ found_weight.T + found_bias, new_errors, atol=0.02)


def test_errors_that_no_correction_predicts_are_left():
    rng = np.random.default_rng(0)
    inputs, new_inputs = (rng.normal(size=(n, 50)).astype(np.float32) for n in (60, 1000))
    errors, new_errors = (rng.normal(size=(n, 3)).astype(np.float32) for n in (60, 1000))
    weight, bias = int8.fit_correction(inputs, errors + 5, new_inputs, new_errors)
    assert not weight.any()
    assert not bias.any()

"""The precisions of a GPU, imitated on a CPU: every number is rounded as the type rounds it."""

from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from openvino import opset13 as operations

from graft.service.inference.openvino import OpenVinoModel
from graft.service.manifest import GRAPH
from graft.service.networks import network as networks
from graft.service.networks.fold_batch_norm import fold_batch_norm
from graft.training.packaging.emulation import EMULATED, PRODUCTS, EmulatedNetwork, _round, add_rounding

TORCH_TYPES = {"bf16": torch.bfloat16, "f16": torch.float16}


@pytest.fixture(scope="module")
def graph(fitted) -> Path:
    return fitted.artifact.path / GRAPH


@pytest.fixture(scope="module")
def pixels(fitted) -> np.ndarray:
    side = fitted.artifact.manifest.preprocessing.crop
    return np.random.default_rng(1).integers(0, 256, (6, side, side, 3), dtype=np.uint8)


def round_numbers(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Rounds float32 (n,) in a compiled graph."""
    parameter = operations.parameter([len(numbers)], np.float32)
    compiled = openvino.Core().compile_model(openvino.Model([_round(parameter.output(0), bits)], [parameter]), "CPU")
    return compiled([numbers])[0]


@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_numbers_are_rounded_as_torch_rounds_them(name):
    numbers = np.random.default_rng(0).normal(0, 30, 5000).astype(np.float32)
    bits = {"f16": 13, "bf16": 16}[name]
    expected = torch.from_numpy(numbers).to(TORCH_TYPES[name]).float().numpy()
    normal = np.abs(numbers) > 1e-3  # f16 has fewer bits near zero
    np.testing.assert_array_equal(round_numbers(numbers, bits)[normal], expected[normal])


@pytest.mark.parametrize(("precision", "least", "most"), [("tf32", 1e-5, 0.01), ("f16", 1e-5, 0.01), ("bf16", 1e-3, 0.1)])
def test_logits_move_by_about_one_rounding_step(graph, pixels, precision, least, most):
    exact = OpenVinoModel(graph)(pixels)["logits"]
    moved = np.abs(EmulatedNetwork(graph, precision)(pixels) - exact).max() / np.abs(exact).max()
    assert least < moved < most


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["f16", "bf16"])
def test_the_drift_is_that_of_torchs_own_16_bit_network(fitted, graph, pixels, precision):
    network = networks.load(fitted.artifact).eval().requires_grad_(False)
    folded = fold_batch_norm(network, pixels.shape[1])
    with torch.no_grad():
        exact = folded(torch.from_numpy(pixels))[0].numpy()
        computed = folded.to_reduced_precision(TORCH_TYPES[precision])(torch.from_numpy(pixels))[0].numpy()
    drift, emulated = (np.linalg.norm(logits - exact) for logits in (computed, EmulatedNetwork(graph, precision)(pixels)))
    assert 1 / 2 < emulated / drift < 2


def test_numbers_beyond_the_range_of_f16_make_the_logits_infinite(graph, pixels, tmp_path):
    import onnx
    from onnx import numpy_helper

    model = onnx.load(graph)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    [weights] = [tensor for tensor in model.graph.initializer if tensor.name == first.input[1]]
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1e6), weights.name))
    onnx.save(model, tmp_path / "large.onnx")
    assert np.isinf(EmulatedNetwork(tmp_path / "large.onnx", "f16")(pixels)).all()
    assert np.isfinite(EmulatedNetwork(tmp_path / "large.onnx", "bf16")(pixels)).all()


def test_whatever_follows_a_product_is_rounded_also_behind_what_is_rounded_already():
    """A sum of two rounded numbers needs another rounding, however deep the network is."""
    pixels = operations.parameter([1, 4], np.float32)
    weights = operations.constant(np.eye(4, dtype=np.float32))
    vectors = operations.matmul(pixels, weights, False, False)
    for _ in range(2_000):
        vectors = operations.add(vectors, vectors)
    vectors.output(0).set_names({"vectors"})
    model = openvino.Model([vectors.output(0)], [pixels], "sums")
    n_before = sum(node.get_type_name() == "Multiply" for node in model.get_ordered_ops())
    add_rounding(model, "bf16")
    n_rounded = sum(node.get_type_name() == "Multiply" for node in model.get_ordered_ops()) - n_before
    assert n_rounded == 2_000 + 1 + 2  # each sum, the product, its image and its weights


@pytest.mark.parametrize("precision", EMULATED)
def test_the_head_stays_in_f32_unless_its_product_is_tf32(graph, precision):
    model = openvino.Core().read_model(graph)
    add_rounding(model, precision)
    [logits] = [result for result in model.get_results() if "logits" in result.output(0).get_names()]
    node = logits.input_value(0).get_node()
    while node.get_type_name() not in PRODUCTS:
        node = node.input_value(0).get_node()
    assert (node.input_value(0).get_node().get_type_name() == "Subtract") == (precision == "tf32")

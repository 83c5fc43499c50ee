"""Engines: the outputs are the same alone, in a batch, from any thread and on any device."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from graft.service.imaging.preprocess import decode
from graft.service.inference import devices, loader, openvino
from graft.service.inference.devices import resolve_device
from graft.service.inference.postprocess import to_probabilities


@pytest.fixture(scope="module")
def cpu(fitted):
    return loader.load(fitted.artifact, "cpu")


@pytest.fixture(scope="module")
def batch(fitted, clothes) -> np.ndarray:
    return np.stack([decode(encoded, fitted.artifact.manifest.preprocessing).pixels for _, encoded in clothes])


def apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(to_probabilities(one, 1.0) - to_probabilities(other, 1.0)).max())


def test_outputs_have_a_row_for_each_image(cpu, batch):
    logits, vectors = cpu(batch)
    assert (logits.shape, logits.dtype, vectors.shape, vectors.dtype) == ((10, 10), np.float32, (10, 1280), np.float32)


def test_an_image_has_the_same_logits_alone_and_in_a_batch(cpu, batch):
    together = cpu(batch)
    alone = [cpu(batch[index : index + 1]) for index in range(10)]
    assert np.array_equal(together.logits, np.concatenate([outputs.logits for outputs in alone]))
    assert np.array_equal(together.vectors, np.concatenate([outputs.vectors for outputs in alone]))


def test_earlier_outputs_are_not_overwritten(cpu, batch):
    first = cpu(batch[:1])
    before = first.logits.copy()
    cpu(batch[1:2])
    assert np.array_equal(first.logits, before)


def test_the_order_of_a_batch_does_not_matter(cpu, batch):
    assert np.array_equal(cpu(batch[::-1]).logits[::-1], cpu(batch).logits)


def test_parallel_threads_get_the_same_outputs(cpu, batch):
    expected = cpu(batch).logits
    questions = [index % 10 for index in range(80)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda index: cpu(batch[index : index + 1]).logits[0], questions))
    assert np.array_equal(np.stack(found), expected[questions])


def test_only_requested_outputs_are_computed(fitted, cpu, batch):
    path = fitted.artifact.graph
    assert openvino.OpenVinoModel(path, 1).outputs == ("logits", "vectors", "maps")
    alone = openvino.OpenVinoModel(path, 1, output_names=("logits", "nothing of this name"))
    assert alone.outputs == ("logits",)
    assert apart(alone(batch[:2])["logits"], cpu(batch[:2]).logits) < 1e-5


def test_inference_computes_no_feature_maps(cpu):
    cpu.compile_for_latency()
    assert cpu._latency.outputs == cpu._throughput.outputs == ("logits", "vectors")


def test_single_calls_give_the_same_outputs_once_they_have_a_graph_of_their_own(fitted, batch):
    engine = openvino.OpenVinoEngine(fitted.artifact.graph)
    before = engine(batch[:1])
    engine.compile_for_latency()
    after = engine(batch[:1])
    assert apart(after.logits, before.logits) < 1e-5
    assert apart(after.vectors, before.vectors) < 1e-5


def test_the_graph_for_single_calls_is_not_for_those_that_are_alone_by_chance(fitted, batch):
    engine = openvino.OpenVinoEngine(fitted.artifact.graph)
    outputs, used = engine._throughput(batch[:1]), []
    together = True

    def for_single(pixels):
        used.append("single")
        return outputs if not together else engine(pixels)._asdict()  # as if another thread called meanwhile

    def for_many(_):
        used.append("many")
        return outputs

    engine._latency, engine._throughput = for_single, for_many
    engine(batch[:1])
    assert used == ["single", "many"]
    together = False
    for _ in range(openvino.ALONE_CALLS + 2):
        engine(batch[:1])
    assert used[2:] == ["many"] * openvino.ALONE_CALLS + ["single"] * 2


def test_outputs_do_not_depend_on_parallel_calls(cpu, batch):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(cpu, [batch[:1]] * 40))
    alone = cpu(batch[:1])
    assert all(apart(outputs.logits, alone.logits) < 1e-5 for outputs in together)


@pytest.mark.parametrize("streams", [1, 3])
def test_the_number_of_streams_can_be_set(fitted, batch, cpu, streams):
    chosen = openvino.OpenVinoEngine(fitted.artifact.graph, streams)
    assert chosen.streams == streams
    assert apart(chosen(batch[:2]).logits, cpu(batch[:2]).logits) < 1e-5


def test_outputs_match_the_trained_network(fitted, cpu, batch):
    assert apart(cpu(batch).logits, fitted.trained.network(batch).logits) < 1e-4


def test_most_clothes_are_recognized(fitted, cpu, batch, clothes):
    labels = fitted.artifact.manifest.labels
    found = [labels[index] for index in cpu(batch).logits.argmax(axis=1)]
    # Test accuracy is 85%; 5 of 10 or fewer would mean swapped labels or channels.
    assert sum(label == expected for label, (expected, _) in zip(found, clothes, strict=True)) > 5


def test_packaged_weights_and_graph_agree(fitted, cpu, batch):
    import torch

    from graft.service.networks import network

    with torch.inference_mode():
        logits, _ = network.load(fitted.artifact).eval()(torch.from_numpy(batch))
    assert apart(logits.numpy(), cpu(batch).logits) < 1e-3


def test_without_a_gpu_the_cpu_is_selected(fitted, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert loader.load(fitted.artifact, resolve_device("auto")).device == "cpu"


def test_there_is_at_least_one_cpu():
    assert devices.available_cpus() >= 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [("float16", 0.05), ("bfloat16", 0.5)])
def test_a_16_bit_backbone_gives_nearly_the_same_outputs(fitted, cpu, batch, name, most):
    import torch

    from graft.service.networks import network

    lower = network.load(fitted.artifact).eval().to_reduced_precision(getattr(torch, name))
    with torch.inference_mode():
        logits, vectors = lower(torch.from_numpy(batch))
    assert (logits.dtype, vectors.dtype, lower.head.weight.dtype) == (torch.float32,) * 3
    assert 0 < apart(logits.numpy(), cpu(batch).logits) < most
    kinds = {name.rpartition(".")[2]: tensor.dtype for name, tensor in lower.backbone.state_dict().items()}
    assert (kinds["running_var"], kinds["weight"]) == (torch.float32, torch.float32)  # BatchNorm is last
    assert lower.backbone.conv_stem.weight.dtype == getattr(torch, name)


def test_outputs_keep_their_names_if_a_no_op_is_removed(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 4, 4, 3])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4, 4, 3]) for name in ("vectors", "doubled")]
    nodes = [
        helper.make_node("Cast", ["pixels"], ["vectors"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["vectors"], ["/alone"], axis=1),
        helper.make_node("Add", ["/alone", "/alone"], ["doubled"]),
    ]
    graph = helper.make_graph(nodes, "odd", [pixels], outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "odd.onnx")
    said = openvino.OpenVinoModel(tmp_path / "odd.onnx", 1)(np.ones((1, 4, 4, 3), np.uint8))
    assert {name: float(values.mean()) for name, values in said.items()} == {"vectors": 1.0, "doubled": 2.0}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "6400000 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
    ],
)
def test_the_cpu_limit_of_a_container_is_used(tmp_path, monkeypatch, files, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert devices.available_cpus(tmp_path) == expected


def test_openvino_starts_without_its_telemetry():
    program = (
        "import sys, threading; from graft.service.inference.openvino import openvino_core; openvino_core();"
        "print(threading.active_count(), sys.modules['openvino_telemetry'])"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "1 None\n"

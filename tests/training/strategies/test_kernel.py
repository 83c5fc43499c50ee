"""Kernel machines on the features of a fine-tuned network. Those on frozen features are tested in test_auto.py."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from graft.service.imaging.preprocess import decode
from graft.service.inference.openvino import OpenVinoModel
from graft.service.networks import network as networks
from graft.service.networks.network import Network
from graft.training.data.dataset import DatasetError
from graft.training.features import blending
from graft.training.finetuning.epoch_plan import EpochPlan
from graft.training.strategies import context as strategies_context
from graft.training.strategies import finetune, kernel
from graft.training.strategies.context import TrainingContext
from graft.training.strategies.probe import ProbeResult


def test_network_with_a_kernel_machine_is_one_model(
    context: TrainingContext, probed: ProbeResult, network: Network, tmp_path: Path
):
    model = kernel.add_to_network(context, probed, "finetune", network)
    assert (model.strategy, model.backbone.head_input) == ("finetune", "all")
    n_learned = len(context.splits.train) + len(context.splits.validation)
    assert model.backbone.kernel.centers == 4 * n_learned  # whole images, mirror images and two crops
    data, preprocessing = context.dataset, model.preprocessing
    pixels = np.stack([decode(data.read(sample), preprocessing).pixels for sample in context.splits.test[:4]])
    (tmp_path / "model.onnx").write_bytes(model.graph)
    as_torch = networks.build(model.backbone, len(context.dataset.labels), preprocessing).eval()
    as_torch.load_state_dict({name: torch.from_numpy(value) for name, value in model.weights.items()}, strict=True)
    with torch.inference_mode():
        logits, vectors = (tensor.numpy() for tensor in as_torch(torch.from_numpy(pixels)))
        np.testing.assert_allclose(vectors, network(torch.from_numpy(pixels))[1].numpy(), atol=1e-4)
    outputs = OpenVinoModel(tmp_path / "model.onnx", streams=1)(pixels)
    np.testing.assert_allclose(outputs["logits"], logits, atol=1e-3)
    np.testing.assert_allclose(model.network(pixels).logits, logits, atol=1e-3)
    np.testing.assert_allclose(model.test.logits[:4], logits, atol=0.05)  # of features in 16 bits
    assert model.gain_over_probe is not None


def test_validation_is_predicted_by_a_machine_that_has_not_learned_it(
    context: TrainingContext, probed: ProbeResult, network: Network, monkeypatch: pytest.MonkeyPatch
):
    results, export = [], kernel.export_probe
    monkeypatch.setattr(kernel, "export_probe", lambda result, *rest: results.append(result) or export(result, *rest))
    kernel.add_to_network(context, probed, "finetune", network)
    [result] = results
    n_train, n_validation = len(context.splits.train), len(context.splits.validation)
    n_centers = [len(head.kernel.centers) for head in (result.train_head, result.final_head)]
    assert n_centers == [4 * n_train, 4 * (n_train + n_validation)]
    assert result.held_out == context.splits.validation
    assert result.held_out_logits is result.validation_logits
    assert result.selection.best.n_held_out == n_validation


def test_machine_that_brings_nothing_is_left_out(
    context: TrainingContext, probed: ProbeResult, network: Network, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(blending, "blend_weights", lambda *_: [1.0, 0.0])
    assert kernel.add_to_network(context, probed, "finetune", network) is None


def test_nothing_is_computed_where_a_machine_is_not_possible(
    context: TrainingContext, probed: ProbeResult, network: Network, monkeypatch: pytest.MonkeyPatch
):
    assert kernel.epochs_after(context) > 1
    monkeypatch.setattr(kernel, "MAX_CENTERS", 10)
    monkeypatch.setattr(kernel, "extract_readable", None)
    assert kernel.add_to_network(context, probed, "finetune", network) is None
    assert kernel.epochs_after(context) == 0


def test_features_of_the_network_are_not_kept(context: TrainingContext, probed: ProbeResult, network: Network, cache: Path):
    before = sorted(cache.rglob("*"))
    kernel.add_to_network(context, probed, "finetune", network)
    assert (sorted(cache.rglob("*")), list(context.folder.path.iterdir())) == (before, [])


def test_image_that_has_become_unreadable_ends_the_run(
    context: TrainingContext, probed: ProbeResult, network: Network, monkeypatch: pytest.MonkeyPatch
):
    extract = strategies_context.extract
    damaged = {"coat/1.png": "no image"}
    monkeypatch.setattr(strategies_context, "extract", lambda *call: replace(extract(*call), unreadable=damaged))
    with pytest.raises(DatasetError, match=r"coat/1\.png has become unreadable: no image"):
        kernel.add_to_network(context, probed, "finetune", network)


@pytest.mark.parametrize("is_better", [True, False])
def test_fine_tuning_keeps_the_machine_if_it_is_expected_to_be_better(
    context: TrainingContext,
    probed: ProbeResult,
    network: Network,
    is_better: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(finetune, "train_network", lambda *_: network)
    compare = finetune.compare
    monkeypatch.setattr(finetune, "compare", lambda *models: replace(compare(*models), min_probability=0 if is_better else 1))
    model = finetune.finetune(context, probed, "finetune", EpochPlan(1))
    assert (model.strategy, model.backbone.kernel is not None) == ("finetune", is_better)
    kept, other = (
        ("finetune with a kernel machine", "finetune") if is_better else ("finetune", "finetune with a kernel machine")
    )
    assert f"{kept} is kept rather than {other}: log-loss " in capsys.readouterr().err

"""ONNX export: outputs match torch, and stages are exported if the network gives access to them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graft.service.inference.engine import VECTORS
from graft.service.inference.openvino import OpenVinoModel
from graft.service.manifest import Backbone
from graft.training.backbones import onnx_cache
from graft.training.backbones.onnx_cache import STAGES, ExportedBackbone, feature_slices
from graft.training.backbones.onnx_export import evenly_spaced, export_backbone, is_global_average
from graft.training.backbones.registry import BackboneError, BackboneSpec

SMALL = "lcnet_035"


def metadata(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "backbone.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side", "width", "stages", "pooled"),
    [
        (SMALL, 64, 1280, {0: 16, 1: 24, 2: 48, 3: 88, 4: 176}, False),  # a layer follows the pooling
        ("tf_efficientnet_lite0", 64, 1280, {0: 16, 1: 24, 2: 40, 3: 112, 4: 320}, True),
        ("resnet18", 64, 512, {0: 64, 1: 64, 2: 128, 3: 256}, True),  # its fifth, pooled, equals the vector
        ("densenet121", 64, 1024, {0: 64, 1: 256, 2: 512, 3: 1024}, True),
        ("convnext_atto", 64, 320, {0: 40, 1: 80, 2: 160, 3: 320}, False),  # a norm follows the pooling
        ("vit_tiny_patch16_224", 64, 192, {1: 192, 4: 192, 6: 192, 9: 192, 11: 192}, False),  # five of twelve
        ("swin_tiny_patch4_window7_224", 64, 768, {0: 96, 1: 192, 2: 384, 3: 768}, True),  # its maps are NHWC
    ],
)
def test_exported_outputs_match_torch_at_another_input_size(
    name: str, side: int, width: int, stages: dict[int, int], pooled: bool, tmp_path: Path
):
    from graft.training.features.lightning_extractor import load_with_random_head

    export_backbone(BackboneSpec(name, "none"), tmp_path / "base", side, side)
    exported = ExportedBackbone(folder=tmp_path / f"base-{side}", **metadata(tmp_path / f"base-{side}"))
    assert (exported.preprocessing.crop, exported.backbone.width, exported.backbone.stages) == (side, width, stages)
    assert exported.backbone.pooled == pooled
    batch = np.random.default_rng(7).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    onnx_outputs = OpenVinoModel(exported.graph, streams=1)(batch)
    network = load_with_random_head(exported).eval()
    with torch.inference_mode():
        torch_outputs = network.features(torch.from_numpy(batch))
        vectors = network.vectors(torch.from_numpy(batch))
    for output, tensor, n_columns in zip((STAGES, VECTORS), torch_outputs, (sum(stages.values()), width), strict=True):
        assert onnx_outputs[output].shape == (3, n_columns)
        assert np.abs(onnx_outputs[output] - tensor.numpy()).max() <= 1e-3 * max(1, np.abs(onnx_outputs[output]).max())
    np.testing.assert_allclose(torch_outputs[1], vectors, atol=1e-5)
    map_names = exported.backbone.model_copy(update={"head_input": "all"}).map_outputs
    assert set(onnx_outputs) == {VECTORS, STAGES, *map_names}
    means = np.concatenate([onnx_outputs[name].mean(axis=(2, 3)) for name in map_names], axis=1) if pooled else np.zeros((3, 0))
    expected = np.concatenate([onnx_outputs[STAGES], onnx_outputs[VECTORS]], axis=1)[:, : means.shape[1]]
    assert np.abs(means - expected).max(initial=0) <= 1e-4 * max(1, np.abs(expected).max(initial=0))


def test_network_without_access_to_stages_is_exported_without_them(tmp_path: Path, monkeypatch):
    from timm.models import MobileNetV3

    monkeypatch.delattr(MobileNetV3, "forward_intermediates")
    export_backbone(BackboneSpec(SMALL, "none"), tmp_path / "base", 64, 64)
    graph = OpenVinoModel(tmp_path / "base-64" / "model.onnx", streams=1)
    backbone = metadata(tmp_path / "base-64")["backbone"]
    assert (backbone["stages"], backbone["pooled"], graph.outputs) == ({}, False, (VECTORS,))
    assert list(feature_slices(Backbone.model_validate(backbone))) == ["last", "all"]


def test_network_with_wrongly_traced_stages_is_exported_without_them(tmp_path: Path, monkeypatch):
    from graft.service.networks.network import Network

    original = Network.stage_maps

    def randomized(self, batch):
        stages, last, vectors = original(self, batch)
        return [stage + torch.rand(1) for stage in stages], last, vectors

    monkeypatch.setattr(Network, "stage_maps", randomized)
    export_backbone(BackboneSpec(SMALL, "none"), tmp_path / "base", 64, 64)
    backbone = metadata(tmp_path / "base-64")["backbone"]
    assert (backbone["stages"], backbone["width"]) == ({}, 1280)


def test_is_global_average_compares_values():
    maps = torch.arange(24.0).reshape(1, 3, 2, 4)
    pooled = maps.mean(dim=(2, 3))
    assert is_global_average(pooled, maps)
    assert is_global_average(pooled, maps.permute(0, 2, 3, 1))
    assert not is_global_average(pooled + 0.01, maps)
    assert not is_global_average(1e-9 * pooled + 1e-10, 1e-9 * maps)  # also for tiny values
    assert not is_global_average(pooled * 0, maps * 0)
    assert not is_global_average(maps[..., 0, 0], maps[..., :1, :1])  # one position needs no pooling
    assert not is_global_average(pooled, maps.flatten(2))
    assert not is_global_average(torch.zeros(1, 5), maps)


def test_failed_export_has_a_one_line_error(tmp_path: Path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("output size that is not a factor of input size.\nInputs: %74")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(BackboneError) as error:
        export_backbone(BackboneSpec(SMALL, "none"), tmp_path / "base", 64, 64)
    assert str(error.value) == (
        "lcnet_035 at 64 pixels cannot be exported: output size that is not a factor of input size."
        " Try another --input-size or --backbone."
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("n_items", "selected"),
    [(1, [0]), (5, [0, 1, 2, 3, 4]), (6, [0, 1, 3, 4, 5]), (12, [1, 4, 6, 9, 11]), (24, [4, 9, 13, 18, 23])],
)
def test_stages_are_evenly_spaced_and_include_the_last(n_items: int, selected: list[int]):
    assert evenly_spaced(n_items, 5) == selected


def test_feature_slices_are_the_stages_and_then_the_vector():
    backbone = Backbone(name="a", weights="", license="", sha256="", width=10, stages={1: 4, 4: 6})
    expected = {"stage2": slice(0, 4), "stage5": slice(4, 10), "last": slice(10, 20), "all": slice(0, 20)}
    assert feature_slices(backbone) == expected


def test_interrupted_export_is_completed_by_the_next(tmp_path: Path):
    choice, base = BackboneSpec(SMALL, "none"), tmp_path / "base"
    export_backbone(choice, base, 64, 64)
    onnx_cache.input_size_file(base).unlink()
    export_backbone(choice, base, 64, 64)
    assert onnx_cache.input_size_file(base).read_text() == "224"

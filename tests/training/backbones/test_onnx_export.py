"""A torch network becomes a graph that says the same, every stage of it where it shows them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graft.service.artifact import Backbone
from graft.service.inference.engine import VECTORS
from graft.service.inference.openvino import Graph
from graft.training.backbones import onnx_cache
from graft.training.backbones.onnx_cache import STAGES, Exported, columns
from graft.training.backbones.onnx_export import export_backbone, is_mean, spread
from graft.training.backbones.registry import BackboneError, Choice

SMALL = "lcnet_035"


def card(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "backbone.json").read_text())


@pytest.mark.parametrize(
    ("name", "side", "width", "stages", "pooled"),
    [
        (SMALL, 64, 1280, {0: 16, 1: 24, 2: 48, 3: 88, 4: 176}, False),  # another layer follows the mean
        ("tf_efficientnet_lite0", 64, 1280, {0: 16, 1: 24, 2: 40, 3: 112, 4: 320}, True),
        ("resnet18", 64, 512, {0: 64, 1: 64, 2: 128, 3: 256}, True),  # its fifth, pooled, is the vector itself
        ("densenet121", 64, 1024, {0: 64, 1: 256, 2: 512, 3: 1024}, True),
        ("convnext_atto", 64, 320, {0: 40, 1: 80, 2: 160, 3: 320}, False),  # a norm follows the mean
        ("vit_tiny_patch16_224", 64, 192, {1: 192, 4: 192, 6: 192, 9: 192, 11: 192}, False),  # five of twelve
        ("swin_tiny_patch4_window7_224", 64, 768, {0: 96, 1: 192, 2: 384, 3: 768}, True),  # its maps are NHWC
    ],
)
def test_network_of_another_input_size_is_exported_as_torch_runs_it(
    name: str, side: int, width: int, stages: dict[int, int], pooled: bool, tmp_path: Path
):
    from graft.training.features.lightning_extractor import load_headless

    export_backbone(Choice(name, "none"), tmp_path / "base", side, side)
    exported = Exported(folder=tmp_path / f"base-{side}", **card(tmp_path / f"base-{side}"))
    assert (exported.preprocessing.crop, exported.backbone.width, exported.backbone.stages) == (side, width, stages)
    assert exported.backbone.pooled == pooled
    batch = np.random.default_rng(7).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    found = Graph(exported.graph, lanes=1)(batch)
    network = load_headless(exported).eval()
    with torch.inference_mode():
        said = network.features(torch.from_numpy(batch))
        alone = network.vectors(torch.from_numpy(batch))
    for output, tensor, n_columns in zip((STAGES, VECTORS), said, (sum(stages.values()), width), strict=True):
        assert found[output].shape == (3, n_columns)
        assert np.abs(found[output] - tensor.numpy()).max() <= 1e-3 * max(1, np.abs(found[output]).max())
    np.testing.assert_allclose(said[1], alone, atol=1e-5)
    names = exported.backbone.model_copy(update={"sees": "all"}).maps
    assert set(found) == {VECTORS, STAGES, *names}
    means = np.concatenate([found[name].mean(axis=(2, 3)) for name in names], axis=1) if pooled else np.zeros((3, 0))
    expected = np.concatenate([found[STAGES], found[VECTORS]], axis=1)[:, : means.shape[1]]
    assert np.abs(means - expected).max(initial=0) <= 1e-4 * max(1, np.abs(expected).max(initial=0))


def test_network_that_shows_no_stages_is_exported_without_them(tmp_path: Path, monkeypatch):
    from timm.models import MobileNetV3

    monkeypatch.delattr(MobileNetV3, "forward_intermediates")
    export_backbone(Choice(SMALL, "none"), tmp_path / "base", 64, 64)
    graph = Graph(tmp_path / "base-64" / "model.onnx", lanes=1)
    facts = card(tmp_path / "base-64")["backbone"]
    assert (facts["stages"], facts["pooled"], graph.outputs) == ({}, False, (VECTORS,))
    assert list(columns(Backbone.model_validate(card(tmp_path / "base-64")["backbone"]))) == ["last", "all"]


def test_network_whose_stages_are_traced_wrongly_is_exported_without_them(tmp_path: Path, monkeypatch):
    from graft.service.networks.network import Network

    honest = Network.maps

    def different_every_time(self, batch):
        stages, last, vectors = honest(self, batch)
        return [stage + torch.rand(1) for stage in stages], last, vectors

    monkeypatch.setattr(Network, "maps", different_every_time)
    export_backbone(Choice(SMALL, "none"), tmp_path / "base", 64, 64)
    assert (card(tmp_path / "base-64")["backbone"]["stages"], card(tmp_path / "base-64")["backbone"]["width"]) == ({}, 1280)


def test_vectors_are_a_mean_only_if_the_numbers_say_so():
    maps = torch.arange(24.0).reshape(1, 3, 2, 4)
    mean = maps.mean(dim=(2, 3))
    assert is_mean(mean, maps)
    assert is_mean(mean, maps.permute(0, 2, 3, 1))
    assert not is_mean(mean + 0.01, maps)
    assert not is_mean(1e-9 * mean + 1e-10, 1e-9 * maps)  # however small they are
    assert not is_mean(mean * 0, maps * 0)
    assert not is_mean(maps[..., 0, 0], maps[..., :1, :1])  # the mean of one position explains nothing
    assert not is_mean(mean, maps.flatten(2))
    assert not is_mean(torch.zeros(1, 5), maps)


def test_network_that_cannot_be_a_graph_at_this_size_is_refused_in_one_line(tmp_path: Path, monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("output size that is not a factor of input size.\nInputs: %74")

    monkeypatch.setattr(torch.onnx, "export", refused)
    with pytest.raises(BackboneError) as error:
        export_backbone(Choice(SMALL, "none"), tmp_path / "base", 64, 64)
    assert str(error.value) == (
        "lcnet_035 at 64 pixels cannot be made a graph: output size that is not a factor of input size."
        " Another --input-size or --backbone may do."
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("n_items", "kept"),
    [(1, [0]), (5, [0, 1, 2, 3, 4]), (6, [0, 1, 3, 4, 5]), (12, [1, 4, 6, 9, 11]), (24, [4, 9, 13, 18, 23])],
)
def test_stages_are_taken_evenly_and_the_last_always(n_items: int, kept: list[int]):
    assert spread(n_items, 5) == kept


def test_columns_of_a_row_are_the_stages_and_then_the_vector():
    facts = Backbone(name="a", weights="", license="", sha256="", width=10, stages={1: 4, 4: 6})
    expected = {"stage2": slice(0, 4), "stage5": slice(4, 10), "last": slice(10, 20), "all": slice(0, 20)}
    assert columns(facts) == expected


def test_export_that_was_killed_before_its_last_file_is_finished_by_the_next(tmp_path: Path):
    choice, base = Choice(SMALL, "none"), tmp_path / "base"
    export_backbone(choice, base, 64, 64)
    onnx_cache.size_file(base).unlink()
    export_backbone(choice, base, 64, 64)
    assert onnx_cache.size_file(base).read_text() == "224"

"""The classic networks: registration, one training step, ONNX export, inference and summary."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from graft.service.inference.engine import VECTORS
from graft.service.inference.openvino import OpenVinoModel
from graft.service.manifest import Backbone, Preprocessing
from graft.service.networks.network import Network, build
from graft.training.architecture.tracer import trace_layers
from graft.training.backbones import onnx_cache, onnx_export, pretrained
from graft.training.backbones.registry import BackboneError, BackboneSpec, resolve
from graft.training.config.finetune_config import DataStats, resolve_config
from graft.training.config.recipe import Recipe
from graft.training.finetuning import param_groups

# name: (number of weights including the classifier, vector width, {stage: width}, input size for the test)
NETWORKS = {
    "mlp": (1_707_274, 256, {}, 32),
    "lenet5": (62_006, 84, {0: 6, 1: 16}, 32),
    "alexnet": (62_378_344, 4096, {0: 96, 1: 256, 2: 256}, 96),
    "tv_alexnet": (61_100_840, 4096, {0: 64, 1: 192, 2: 256}, 96),
    "vgg16": (138_357_544, 4096, {0: 64, 1: 128, 3: 512, 4: 512, 5: 512}, 64),
    "vgg19": (143_667_240, 4096, {0: 64, 1: 128, 3: 512, 4: 512, 5: 512}, 64),
    "googlenet": (6_624_904, 1024, {0: 64, 1: 192, 2: 480, 3: 832}, 64),
    "inception_v3": (23_834_568, 2048, {0: 64, 1: 192, 2: 288, 3: 768}, 96),
    "resnet18": (11_689_512, 512, {0: 64, 1: 64, 2: 128, 3: 256}, 64),
    "resnet50": (25_557_032, 2048, {0: 64, 1: 256, 2: 512, 3: 1024}, 64),
    "resnet152": (60_192_808, 2048, {0: 64, 1: 256, 2: 512, 3: 1024}, 64),
    "resnet200": (64_673_832, 2048, {0: 64, 1: 256, 2: 512, 3: 1024}, 64),
    "densenet121": (7_978_856, 1024, {0: 64, 1: 256, 2: 512, 3: 1024}, 64),
    "efficientnet_b0": (5_288_548, 1280, {0: 16, 1: 24, 2: 40, 3: 112, 4: 320}, 64),
    "tf_efficientnet_lite0": (4_652_008, 1280, {0: 16, 1: 24, 2: 40, 3: 112, 4: 320}, 64),
    "tf_efficientnet_lite1": (5_416_680, 1280, {0: 16, 1: 24, 2: 40, 3: 112, 4: 320}, 64),
    "tf_efficientnet_lite2": (6_092_072, 1280, {0: 16, 1: 24, 2: 48, 3: 120, 4: 352}, 64),
    "vit_tiny_patch16_224": (5_717_416, 192, {1: 192, 4: 192, 6: 192, 9: 192, 11: 192}, 64),
}
# These take seconds each and have no layer types that the smaller variants lack.
SISTERS = {"vgg16", "vgg19", "resnet152", "resnet200", "tf_efficientnet_lite1", "tf_efficientnet_lite2"}
LEARNED = [pytest.param(name, marks=pytest.mark.nightly) if name in SISTERS else name for name in NETWORKS]


def network(name: str) -> Network:
    _, width, _, side = NETWORKS[name]
    half = Preprocessing(resize=side, crop=side, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return build(Backbone(name=name, weights="random", license="none", sha256="0" * 64, width=width), 3, half)


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_registered(name: str):
    assert resolve(name, "none") == BackboneSpec(name, "none")


@pytest.mark.parametrize("name", LEARNED)
def test_one_step_of_training_changes_every_layer_and_lowers_the_loss(name: str):
    torch.manual_seed(0)
    learner, side = network(name), NETWORKS[name][3]
    recipe = Recipe(batch_size=4, backbone_lr=1e-4, head_lr=1e-3)
    groups = param_groups.param_groups(learner, resolve_config(recipe, DataStats(n_images=200, counts=(70, 70, 60))))
    batch, labels = torch.randint(0, 256, (4, side, side, 3), dtype=torch.uint8), torch.tensor([0, 1, 2, 0])
    before = {key: tensor.clone() for key, tensor in learner.named_parameters() if tensor.ndim > 1}
    loss = nn.functional.cross_entropy(learner.train()(batch)[0], labels)
    loss.backward()
    torch.optim.AdamW(groups).step()
    after = dict(learner.named_parameters())
    assert torch.isfinite(loss)
    assert [key for key, tensor in before.items() if torch.equal(tensor, after[key])] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNED)
def test_its_onnx_graph_matches_torch(name: str, tmp_path: Path):
    _, width, stages, side = NETWORKS[name]
    # Compares every output of the engine with torch's and raises on a difference.
    onnx_export.export_backbone(BackboneSpec(name, "none"), tmp_path / "made", side, side)
    folder = onnx_cache.graph_folder(tmp_path / "made", side)
    backbone = Backbone.model_validate(json.loads((folder / onnx_cache.METADATA).read_text())["backbone"])
    assert (backbone.width, backbone.stages) == (width, stages)
    found = OpenVinoModel(folder / "model.onnx", streams=1)(np.zeros((1, side, side, 3), np.uint8))
    assert found[VECTORS].shape == (1, width)
    assert not stages or found[onnx_cache.STAGES].shape == (1, sum(stages.values()))


@pytest.mark.parametrize("name", NETWORKS)
def test_computed_shapes_and_weights_match_torch(name: str):
    with torch.device("meta"):
        body = timm.create_model(name)
    side = body.pretrained_cfg["input_size"][-1]
    made: dict[str, tuple[int, ...]] = {}

    def keep(called: str):
        def kept(_: nn.Module, __: object, out: torch.Tensor) -> None:
            made[called] = tuple(out.shape)

        return kept

    kinds = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.Linear)
    for called, module in body.named_modules():
        if isinstance(module, kinds):
            module.register_forward_hook(keep(called))
    summary = trace_layers(body, torch.empty(1, 3, side, side, device="meta"))
    layers_by_name = {layer.name: layer for layer in summary.layers}
    assert len(made) >= 3
    for called, shape in made.items():
        height, width, channels = layers_by_name[called].output
        wanted = {4: (1, channels, height, width), 3: (1, height, channels), 2: (1, channels)}[len(shape)]
        assert shape == wanted, called
        assert layers_by_name[called].weights == sum(tensor.numel() for tensor in body.get_submodule(called).parameters()), (
            called
        )
    assert summary.weights == sum(layer.weights for layer in summary.layers) == NETWORKS[name][0]
    assert all(layer.receptive_field for layer in summary.layers)


def test_the_first_layer_of_alexnet_outputs_55_by_55_by_96():
    with torch.device("meta"):
        body = timm.create_model("alexnet")
    [first, *_] = trace_layers(body, torch.empty(1, 3, 227, 227, device="meta")).layers
    assert first.output == (55, 55, 96)


def test_a_fixed_size_network_is_built_for_the_requested_size():
    body = pretrained.load(BackboneSpec("lenet5", "none"), 64)
    body.reset_classifier(0)
    assert body(torch.zeros(1, 3, 64, 64)).shape == (1, 84)


def test_a_too_small_input_size_is_rejected():
    with pytest.raises(BackboneError, match=r"alexnet cannot be built for 32 pixels: .*\. Try another --input-size"):
        pretrained.load(BackboneSpec("alexnet", "none"), 32)


def test_auxiliary_classifiers_in_a_googlenet_checkpoint_are_dropped(tmp_path: Path):
    body = timm.create_model("googlenet")
    tensors = {key: tensor.clone() for key, tensor in body.state_dict().items()} | {"aux1.fc1.weight": torch.zeros(2, 2)}
    save_file(tensors, tmp_path / "mine.safetensors")
    loaded = pretrained.load(resolve("googlenet", str(tmp_path / "mine.safetensors")))
    assert torch.equal(loaded.conv1.conv.weight, body.conv1.conv.weight)


@pytest.mark.parametrize("name", ["lenet5", "alexnet", "mlp"])
def test_networks_without_pretrained_weights_raise_an_error(name: str):
    with pytest.raises(BackboneError, match=r"There are no published weights .* --weights none"):
        resolve(name)

"""Parameter groups, freezing and weight initialization."""

import pytest
import timm
import torch
from torch import nn

from graft.service.manifest import Backbone, Preprocessing
from graft.service.networks.network import Network, build
from graft.training.config.finetune_config import DataStats, FineTuneConfig, resolve_config
from graft.training.config.recipe import Recipe
from graft.training.finetuning import param_groups

HALF = Preprocessing(resize=32, crop=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def facts(name: str, width: int) -> Backbone:
    return Backbone(name=name, weights="random", license="none", sha256="0" * 64, width=width)


@pytest.fixture(scope="module")
def resnet() -> Network:
    return build(facts("resnet10t", 512), 3, HALF)


def planned(**choices: object) -> FineTuneConfig:
    return resolve_config(Recipe.model_validate({"batch_size": 32, **choices}), DataStats(n_images=200, counts=(70, 70, 60)))


def rate_of(groups: list[dict], parameter: nn.Parameter) -> float:
    [rate] = [group["lr"] for group in groups if any(parameter is member for member in group["params"])]
    return rate


@pytest.mark.parametrize("name", ["resnet10t", "tf_efficientnet_lite0", "vit_tiny_patch16_224", "densenet121", "convnext_atto"])
def test_every_parameter_is_in_exactly_one_layer(name: str):
    body = timm.create_model(name, num_classes=0)
    network = nn.Module()
    network.backbone = body
    found = param_groups.layer_parameter_names(network)
    names = [name for layer in found for name in layer]
    assert sorted(names) == sorted(name for name, _ in body.named_parameters())
    assert len(found) >= 5
    first = next(name for name, _ in body.named_parameters() if "weight" in name or "embed" in name)
    assert any(first.split(".")[0] in name for name in found[0])


def test_network_without_layer_information_is_one_layer():
    network = nn.Module()
    network.backbone = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert param_groups.layer_parameter_names(network) == [["0.weight", "0.bias", "1.weight", "1.bias"]]


def test_rates_rise_from_the_first_layer_to_the_head(resnet: Network):
    groups = param_groups.param_groups(resnet, planned(layer_decay=0.1, backbone_lr=2e-4, head_lr=1e-3))
    stem, last = next(resnet.backbone.parameters()), list(resnet.backbone.layer4.parameters())[-1]
    assert rate_of(groups, stem) == pytest.approx(2e-5)
    assert rate_of(groups, last) == pytest.approx(2e-4)
    assert rate_of(groups, resnet.head.weight) == 1e-3


def test_single_learning_rate_gives_two_groups(resnet: Network):
    assert len(param_groups.param_groups(resnet, planned(layer_decay=1.0, backbone_lr=1e-3, head_lr=1e-3))) == 2


def test_biases_and_norms_have_no_weight_decay(resnet: Network):
    groups = param_groups.param_groups(resnet, planned(weight_decay=0.3))
    decays = {(parameter.ndim > 1, group["weight_decay"]) for group in groups for parameter in group["params"]}
    assert decays == {(True, 0.3), (False, 0.0)}


@pytest.fixture
def frozen(resnet: Network):
    param_groups.freeze_layers(resnet, planned(unfreeze="last"))
    yield resnet
    param_groups.freeze_layers(resnet, planned(unfreeze="all"))


def test_only_the_last_layers_and_the_head_are_trainable(frozen: Network):
    learning = {name.split(".")[1] for name, parameter in frozen.named_parameters() if parameter.requires_grad}
    assert learning == {"layer4", "weight", "bias"}
    listed = [parameter for group in param_groups.param_groups(frozen, planned()) for parameter in group["params"]]
    assert len(listed) == sum(parameter.requires_grad for parameter in frozen.parameters())


def test_frozen_modules_stay_in_eval_mode(frozen: Network):
    frozen.train()
    param_groups.set_eval_modules(frozen, freeze_bn=False)
    assert not any(module.training for module in frozen.backbone.layer1.modules())
    assert all(module.training for module in frozen.backbone.layer4.modules())
    before = frozen.backbone.layer1[0].bn1.running_mean.clone()
    frozen(torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8))
    assert torch.equal(frozen.backbone.layer1[0].bn1.running_mean, before)


def test_unfreezing_makes_everything_trainable(resnet: Network):
    param_groups.freeze_layers(resnet, planned(unfreeze="last"))
    param_groups.freeze_layers(resnet, planned(unfreeze="all"))
    assert all(parameter.requires_grad for parameter in resnet.parameters())


@pytest.mark.parametrize("kept", [True, False])
def test_batchnorm_statistics_change_unless_frozen(resnet: Network, kept: bool):
    resnet.train()
    param_groups.set_eval_modules(resnet, freeze_bn=kept)
    before = resnet.backbone.layer4[0].bn1.running_mean.clone()
    resnet(torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8))
    assert torch.equal(resnet.backbone.layer4[0].bn1.running_mean, before) is kept


def weights(network: Network) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_head_init_follows_he_and_keeps_the_backbone():
    network = build(facts("resnet10t", 512), 200, HALF)
    before = weights(network)
    param_groups.init_weights(network, seed=1, backbone=False)
    changed = {name for name, tensor in weights(network).items() if not torch.equal(tensor, before[name])}
    assert changed == {"head.weight", "head.bias"}
    assert network.head.weight.std().item() == pytest.approx(512**-0.5, rel=0.05)
    assert network.head.bias.abs().max() == 0


@pytest.mark.parametrize(("name", "width"), [("resnet10t", 512), ("tf_efficientnet_lite0", 1280)])
def test_convolution_init_preserves_the_gradient_scale(name: str, width: int):
    network = build(facts(name, width), 3, HALF)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 7.0)
    param_groups.init_weights(network, seed=1, backbone=True)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 2_000:
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1] / module.groups
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


def test_init_depends_on_the_seed_and_keeps_the_global_random_state():
    one, other = (build(facts("resnet10t", 512), 3, HALF) for _ in range(2))
    param_groups.init_weights(one, seed=1, backbone=True)
    before = torch.get_rng_state()
    param_groups.init_weights(other, seed=1, backbone=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(mine, weights(other)[name]) for name, mine in weights(one).items())
    param_groups.init_weights(other, seed=2, backbone=True)
    assert not torch.equal(one.head.weight, other.head.weight)

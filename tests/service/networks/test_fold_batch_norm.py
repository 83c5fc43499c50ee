"""BatchNorm is folded into the convolution before it, and nothing else changes."""

import copy

import pytest
import torch
from torch import nn

from graft.service.manifest import Backbone, Preprocessing
from graft.service.networks import network as networks
from graft.service.networks.fold_batch_norm import fold_batch_norm, unfold_batch_norm
from graft.service.networks.network import Network

PREPROCESSING = Preprocessing(resize=64, crop=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def with_statistics(network: Network) -> Network:
    """The network in eval mode, with BatchNorm statistics that are not those of a new layer."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.running_mean, module.weight.data, module.bias.data):
                tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
            module.running_var.mul_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    return network.eval().requires_grad_(False)


def build(name: str, width: int, side: int) -> Network:
    info = Backbone(name=name, weights="none", license="none", sha256="", width=width)
    torch.manual_seed(0)
    return with_statistics(networks.build(info, 4, PREPROCESSING.model_copy(update={"resize": side, "crop": side})))


def n_norms(network: Network) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


@pytest.mark.parametrize(
    ("name", "width", "n_left"),
    [
        ("tf_efficientnet_lite0", 1280, 0),
        ("resnet18", 512, 0),
        ("mobilenetv3_small_050", 1024, 0),
        ("vit_tiny_patch16_224", 192, 0),  # has none
    ],
)
def test_outputs_stay_the_same_without_the_layers(name, width, n_left):
    side = 64
    network = build(name, width, side)
    folded = fold_batch_norm(network, side)
    pixels = torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8)
    with torch.no_grad():
        for before, after in zip(network(pixels), folded(pixels), strict=True):
            torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)
    assert n_norms(folded) == n_left
    assert (folded is network) == (n_norms(network) == 0)


class Branched(nn.Module):
    """A BatchNorm after a convolution whose output is used a second time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.conv(images)
        return (self.norm(features) * features).mean(dim=(2, 3))


class Shared(nn.Module):
    """Two convolutions before the same BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (self.norm(self.first(images)) + self.norm(self.second(images))).mean(dim=(2, 3))


@pytest.mark.parametrize("backbone", [Branched, Shared])
def test_a_network_that_cannot_be_folded_stays_as_it_is(backbone):
    info = Backbone(name="own", weights="none", license="none", sha256="", width=8)
    network = with_statistics(Network(backbone(), info, 4, PREPROCESSING))
    assert fold_batch_norm(network, 64) is network
    assert n_norms(network) == 1


def test_the_last_layers_with_their_stages_are_folded_too():
    info = Backbone(
        name="tf_efficientnet_lite0",
        weights="none",
        license="none",
        sha256="",
        width=1280,
        stages={0: 16, 1: 24, 2: 40, 3: 112, 4: 320},
        head_input="all",
    )
    network = with_statistics(networks.build(info, 4, PREPROCESSING))
    folded, pixels = fold_batch_norm(network, 64), torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    assert n_norms(folded) == 0
    with torch.no_grad():
        for before, after in zip(network(pixels), folded(pixels), strict=True):
            torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)


NETWORKS = [("tf_efficientnet_lite0", 1280), ("resnet18", 512), ("densenet121", 1024), ("vit_tiny_patch16_224", 192)]


@pytest.mark.parametrize(("name", "width"), NETWORKS)
def test_unfolding_gives_the_weights_back(name, width):
    network = build(name, width, 64)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.abs_().add_(0.05)  # resnet18 has some of 0, and nothing can be divided by them
    other = copy.deepcopy(network)
    for module in other.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.weight.normal_()
    unfold_batch_norm(fold_batch_norm(network, 64), other, 64)
    for key, value in network.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], value, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.parametrize(("name", "width"), NETWORKS)
def test_weights_that_were_trained_without_the_layers_compute_the_same_with_them(name, width):
    network = build(name, width, 64)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight[0] = 0
    folded = copy.deepcopy(fold_batch_norm(network, 64))
    for parameter in folded.parameters():
        parameter.mul_(1.02).add_(0.01 * torch.randn(parameter.shape))
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        before = network(pixels)[0]
        unfold_batch_norm(folded, network, 64)
        expected, computed = folded(pixels), network(pixels)
    assert not torch.allclose(computed[0], before, rtol=1e-2)
    for one, other in zip(expected, computed, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4 * float(one.abs().max()))

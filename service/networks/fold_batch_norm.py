"""Folds BatchNorm layers into the convolutions before them, and back.

In inference both are linear, so one layer computes the same. Training with frozen statistics is faster without the layers too.
"""

import copy
from collections import Counter
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .network import Network

MAX_RELATIVE_ERROR = 1e-3  # of the outputs, in f32; rounding gives 1e-6, a wrong pair of layers gives 1
MIN_SCALE = 1e-3  # of a channel, to divide its weights by


def fold_batch_norm(network: Network, side: int) -> Network:
    """A copy of the network without those BatchNorm layers that follow a convolution; or the network itself if it has none.

    Which layer follows which is seen by running the network on one image. The copy is used only if it computes the same.

    Args:
        network: on the CPU, in f32 and in eval mode.
        side: of the square images, in pixels.
    """
    pixels = _random_image(side)
    with torch.inference_mode(False), torch.no_grad():
        folded = copy.deepcopy(network)
        pairs, expected = _find_pairs(folded, pixels)
        for norm, conv in pairs.items():
            _fold(folded, norm, conv)
        computed = torch.cat(folded(pixels), dim=1)
        error = (computed - expected).norm() / expected.norm().clamp(min=1e-12)
    return folded if pairs and error <= MAX_RELATIVE_ERROR else network


def unfold_batch_norm(folded: Network, network: Network, side: int) -> None:
    """Copies the weights of a network without its BatchNorm layers into one that has them; it then computes the same.

    The layers keep their statistics and, up to rounding, weights that were not trained in between come back as they were.
    Where a layer scales a channel by almost 0, its weights cannot be divided by the scale, which becomes 1.

    Args:
        folded: from `fold_batch_norm`, on the CPU.
        network: the one that was folded, or its copy; on the CPU, in f32 and in eval mode.
        side: of the square images, in pixels.
    """
    with torch.no_grad():
        pairs, _ = _find_pairs(network, _random_image(side))
        names, without = {module: name for name, module in network.named_modules()}, dict(folded.named_modules())
        pairs = {norm: conv for norm, conv in pairs.items() if not isinstance(without[names[norm]], nn.BatchNorm2d)}
        paired = {names[module] for pair in pairs.items() for module in pair}
        rest = {key: value for key, value in folded.state_dict().items() if key.rpartition(".")[0] not in paired}
        network.load_state_dict(rest, strict=False)
        for norm, conv in pairs.items():
            _unfold(without[names[conv]], norm, conv)


def _random_image(side: int) -> Tensor:
    return torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _find_pairs(network: Network, pixels: Tensor) -> tuple[dict[nn.BatchNorm2d, nn.Conv2d], Tensor]:
    """Each BatchNorm layer that normalizes the output of a convolution, with it; and the outputs of the network (1, C + D)."""
    outputs: list[tuple[nn.Conv2d, Tensor]] = []  # keeps the tensors, so that each stays another object
    pairs: dict[nn.BatchNorm2d, nn.Conv2d] = {}
    n_calls: Counter[nn.Module] = Counter()

    def after_conv(conv: nn.Module, _: Any, output: Tensor) -> None:
        n_calls[conv] += 1
        outputs.append((conv, output))  # type: ignore[arg-type]

    def before_norm(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        n_calls[norm] += 1
        for conv, output in outputs:
            if output is inputs[0]:
                pairs[norm] = conv  # type: ignore[index]

    handles = []
    for module in network.backbone.modules():
        if type(module) in (nn.BatchNorm2d, BatchNormAct2d) and module.track_running_stats and module.affine:
            handles.append(module.register_forward_pre_hook(before_norm))
        elif isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(after_conv))
    try:
        expected = torch.cat(network(pixels), dim=1)
    finally:
        for handle in handles:
            handle.remove()
    shared = Counter(pairs.values())
    once = {norm: conv for norm, conv in pairs.items() if n_calls[norm] == n_calls[conv] == shared[conv] == 1}
    return once, expected


def _fold(network: nn.Module, norm: nn.BatchNorm2d, conv: nn.Conv2d) -> None:
    """Multiplies the weights of a convolution by the scales of its BatchNorm layer, and leaves the layer's activation."""
    mean, variance = _statistics(norm)
    conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias)
    rest = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
    for parent in network.modules():
        for name, child in parent.named_children():
            if child is norm:
                setattr(parent, name, rest)


def _unfold(folded: nn.Conv2d, norm: nn.BatchNorm2d, conv: nn.Conv2d) -> None:
    """Sets the weights of a convolution and its BatchNorm layer so that both compute what the folded convolution does."""
    assert folded.bias is not None, "folding gives a convolution a bias"
    mean, variance = _statistics(norm)
    deviation = (variance + norm.eps).sqrt()
    scale = norm.weight / deviation
    scale = torch.where(scale.abs() < MIN_SCALE, torch.ones_like(scale), scale)
    conv.weight.copy_(folded.weight / scale.view(-1, 1, 1, 1))
    norm.weight.copy_(scale * deviation)
    norm.bias.copy_(folded.bias + scale * (mean if conv.bias is None else mean - conv.bias))


def _statistics(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The mean and the variance of each channel."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("A BatchNorm layer without statistics cannot be folded.")
    return norm.running_mean, norm.running_var

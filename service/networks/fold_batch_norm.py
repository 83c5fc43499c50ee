"""Folds BatchNorm layers into the convolutions before them. In inference both are linear, so one layer computes the same."""

import copy
from collections import Counter
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .network import Network

MAX_RELATIVE_ERROR = 1e-3  # of the outputs, in f32; rounding gives 1e-6, a wrong pair of layers gives 1


def fold_batch_norm(network: Network, side: int) -> Network:
    """A copy of the network without those BatchNorm layers that follow a convolution; or the network itself if it has none.

    Which layer follows which is seen by running the network on one image. The copy is used only if it computes the same.

    Args:
        network: on the CPU, in f32 and in eval mode.
        side: of the square images, in pixels.
    """
    pixels = torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(False), torch.no_grad():
        folded = copy.deepcopy(network)
        pairs, expected = _find_pairs(folded, pixels)
        for norm, conv in pairs.items():
            _fold(folded, norm, conv)
        computed = torch.cat(folded(pixels), dim=1)
        error = (computed - expected).norm() / expected.norm().clamp(min=1e-12)
    return folded if pairs and error <= MAX_RELATIVE_ERROR else network


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
        if type(module) in (nn.BatchNorm2d, BatchNormAct2d) and module.running_mean is not None:
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
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("A BatchNorm layer without statistics cannot be folded.")
    weight, bias = norm.weight, norm.bias
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, weight, bias
    )
    rest = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
    for parent in network.modules():
        for name, child in parent.named_children():
            if child is norm:
                setattr(parent, name, rest)

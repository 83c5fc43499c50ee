"""Grad-CAM for any network with spatial feature maps. Needs torch, so it is imported only on request.

Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization".
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..artifact import Artifact
from ..inference.engine import Pixels
from ..networks import network as networks
from ..networks.network import Network


class GradCam:
    """A package's network in torch, with gradients.

    Args:
        threads: number of torch threads.
    """

    def __init__(self, artifact: Artifact, threads: int) -> None:
        self._network = networks.load(artifact).eval()
        self._threads = threads

    def __call__(self, pixels: Pixels, label: int) -> NDArray[np.float64] | None:
        """The first-order contribution of each position of the last map to a label's logit, for uint8 (S, S, 3)."""
        with _limit_threads(self._threads):
            return compute_gradcam(self._network, torch.from_numpy(pixels.copy())[None], label)


def compute_gradcam(network: Network, batch: Tensor, label: int) -> NDArray[np.float64] | None:
    """The Grad-CAM map (h, w) of one image, uint8 (1, S, S, 3); None if the logit depends on no spatial feature map.

    It uses the output of the backbone; if the logit does not depend on its positions, as with a ViT's last block, which
    passes only the class token on, the last stage before it. A channel's weight is the sum of the logit's gradient over the
    positions. The paper takes the mean, which differs only in scale; the sum is on the scale of the logit, and with global
    average pooling it gives the class activation map.
    """
    with _record_stages(network.backbone) as stages, torch.enable_grad():
        last, logits = network.last_map_and_logits(batch)
        output = [(last, n_channels(network.backbone, last))] if last.requires_grad else []
        n_prefix = n_prefix_tokens(network.backbone)
        for tensor, width in reversed([*stages, *output]):
            [slope] = torch.autograd.grad(logits[0, label], [tensor], retain_graph=True, allow_unused=True)
            activations, gradient = to_spatial(tensor, width, n_prefix), to_spatial(slope, width, n_prefix)
            if activations is not None and gradient is not None and bool(gradient.any()):
                weights = gradient.sum(dim=(1, 2))
                gradcam: NDArray[np.float64] = torch.einsum("d,dhw->hw", weights, activations).detach().double().numpy()
                return gradcam
    return None


def to_spatial(tensor: Tensor | None, width: int, n_prefix: int) -> Tensor | None:
    """A feature map of one image as (D, h, w), from any layout; None if it has no spatial positions.

    Args:
        tensor: (1, D, h, w), (1, h, w, D), or tokens (1, T, D).
        width: D.
        n_prefix: number of tokens before the patch tokens, such as the class token.
    """
    if tensor is None:
        return None
    if tensor.ndim == 3 and tensor.shape[2] == width:
        side = math.isqrt(tensor.shape[1] - n_prefix)
        if side * side != tensor.shape[1] - n_prefix:
            return None
        tensor = tensor[:1, n_prefix:].reshape(1, side, side, width)
    if tensor.ndim != 4 or width not in (tensor.shape[1], tensor.shape[3]):
        return None
    channels_first = tensor if tensor.shape[1] == width else tensor.permute(0, 3, 1, 2)
    return channels_first[0] if channels_first[0, 0].numel() > 1 else None


@contextmanager
def _record_stages(backbone: nn.Module) -> Iterator[list[tuple[Tensor, int]]]:
    """The output of each stage with its number of channels, in forward order. The list is filled during the forward pass."""
    outputs: list[tuple[Tensor, int]] = []
    modules = dict(backbone.named_modules())
    stages = [stage for stage in getattr(backbone, "feature_info", []) if stage["module"] in modules]

    def record(width: int) -> Any:
        return lambda _module, _inputs, tensor: outputs.append((tensor, width)) if isinstance(tensor, Tensor) else None

    hooks = [modules[stage["module"]].register_forward_hook(record(stage["num_chs"])) for stage in stages]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def n_channels(backbone: nn.Module, last: Tensor) -> int:
    """The number of channels of a backbone's output: its `num_features`, unless fully connected layers follow the last map."""
    n_features = int(getattr(backbone, "num_features", last.shape[1]))
    return n_features if n_features in (last.shape[1], last.shape[-1]) else int(last.shape[1])


def n_prefix_tokens(backbone: nn.Module) -> int:
    """The number of non-patch tokens of a backbone, such as the class token; 0 if it has none."""
    return int(getattr(backbone, "num_prefix_tokens", 0))


@contextmanager
def _limit_threads(threads: int) -> Iterator[None]:
    previous = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(previous)

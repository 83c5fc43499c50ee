"""Grad-CAM of any network that has maps, with torch: imported only where somebody asks for it.

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
    """A package's network with a way back through it.

    Args:
        threads: that compute.
    """

    def __init__(self, artifact: Artifact, threads: int) -> None:
        self._network = networks.load(artifact).eval()
        self._threads = threads

    def __call__(self, pixels: Pixels, label: int) -> NDArray[np.float64] | None:
        """What each position of the last map adds to a label's logit, to first order, of uint8 (S, S, 3)."""
        with _at_most(self._threads):
            return gradient_map(self._network, torch.from_numpy(pixels.copy())[None], label)


def gradient_map(network: Network, batch: Tensor, label: int) -> NDArray[np.float64] | None:
    """The map (h, w) of one image, uint8 (1, S, S, 3); None if no map has positions that the logit depends on.

    The last map is what the body ends with; where the logit hears nothing of its positions, as behind a ViT's last block,
    which leaves all to a token of its own, the last stage before it. A channel's weight is the sum of the logit's gradient
    over the positions. The paper takes their mean, which is the same but for the scale; the sum is on the scale of the logit,
    and where the vectors are means over the map, it gives the class activation map.
    """
    with _stages_of(network.backbone) as stages, torch.enable_grad():
        last, logits = network.ending(batch)
        ended = [(last, width_of(network.backbone, last))] if last.requires_grad else []
        for tensor, width in reversed([*stages, *ended]):
            [slope] = torch.autograd.grad(logits[0, label], [tensor], retain_graph=True, allow_unused=True)
            seen, gradient = (positions(one, width, prefix_tokens(network.backbone)) for one in (tensor, slope))
            if seen is not None and gradient is not None and bool(gradient.any()):
                found: NDArray[np.float64] = torch.einsum("d,dhw->hw", gradient.sum(dim=(1, 2)), seen).detach().double().numpy()
                return found
    return None


def positions(tensor: Tensor | None, width: int, n_prefix: int) -> Tensor | None:
    """A map of one image as (D, h, w), whatever its layout; None if it has no positions beside each other.

    Args:
        tensor: (1, D, h, w), (1, h, w, D), or tokens (1, T, D).
        width: D.
        n_prefix: tokens that belong to no place in the image, before those that do.
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
    first = tensor if tensor.shape[1] == width else tensor.permute(0, 3, 1, 2)
    return first[0] if first[0, 0].numel() > 1 else None


@contextmanager
def _stages_of(body: nn.Module) -> Iterator[list[tuple[Tensor, int]]]:
    """What each stage says, with its width, in the order in which they do; filled while the body runs."""
    said: list[tuple[Tensor, int]] = []
    modules = dict(body.named_modules())
    facts = [fact for fact in getattr(body, "feature_info", []) if fact["module"] in modules]

    def listen(width: int) -> Any:
        return lambda _module, _given, tensor: said.append((tensor, width)) if isinstance(tensor, Tensor) else None

    hooks = [modules[fact["module"]].register_forward_hook(listen(fact["num_chs"])) for fact in facts]
    try:
        yield said
    finally:
        for hook in hooks:
            hook.remove()


def width_of(body: nn.Module, last: Tensor) -> int:
    """The channels of what a body ends with; those of its vectors, unless connected layers lie between."""
    told = int(getattr(body, "num_features", last.shape[1]))
    return told if told in (last.shape[1], last.shape[-1]) else int(last.shape[1])


def prefix_tokens(body: nn.Module) -> int:
    """How many tokens of a body belong to no place in the image; 0 where it has none."""
    return int(getattr(body, "num_prefix_tokens", 0))


@contextmanager
def _at_most(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""Images that were changed just so that the network errs: no pixel by much, each in the direction that hurts. Needs torch.

FGSM makes one such step (Goodfellow, Shlens & Szegedy 2015, "Explaining and Harnessing Adversarial Examples"); PGD several
smaller ones from a random start, never leaving the ball around the image (Madry et al. 2018, "Towards Deep Learning Models
Resistant to Adversarial Attacks"). Steps are whole 255ths, so what comes out are images that a file can hold.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from graft.service.networks.network import Network

Pixels = NDArray[np.uint8]

PGD_STEPS = 5
AT_ONCE = 24  # images


def attacker(network: Network) -> Network:
    """The network as attacks need it: its own weights at rest."""
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def losses(network: Network, pixels: Tensor, targets: Tensor) -> Tensor:
    """Each image's loss in nats (N,), of float (N, S, S, 3) in [0, 255] and int64 (N,) or bool (N, C)."""
    logits, _ = network(pixels)
    if targets.ndim == 1:
        return F.cross_entropy(logits, targets, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, targets.float(), reduction="none").mean(dim=1)


def uphill(network: Network, pixels: Tensor, targets: Tensor) -> Tensor:
    """The sign of the loss's gradient at each value of the images: -1, 0 or 1, float (N, S, S, 3)."""
    with torch.enable_grad():
        leaf = pixels.detach().requires_grad_()
        [gradient] = torch.autograd.grad(losses(network, leaf, targets).sum(), leaf)
    return gradient.sign()


def fgsm(network: Network, images: Pixels, targets: NDArray[np.generic], radii: Sequence[float]) -> Iterator[Pixels]:
    """One step of each radius, in 255ths: uint8 (N, S, S, 3) for each; one gradient serves all of them."""
    pixels, truth = _tensors(images, targets)
    direction = uphill(network, pixels, truth)
    for radius in radii:
        yield _images(pixels + round(radius) * direction)


def pgd(network: Network, images: Pixels, targets: NDArray[np.generic], radius: float, seed: int = 0) -> Pixels:
    """Several steps of a quarter of the radius, in 255ths, that stay within it: uint8 (N, S, S, 3)."""
    pixels, truth = _tensors(images, targets)
    whole = round(radius)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(-whole, whole + 1, pixels.shape, generator=generator)
    low, high = (pixels - whole).clamp(min=0), (pixels + whole).clamp(max=255)
    found = (pixels + start).clamp(low, high)
    for _ in range(PGD_STEPS):
        found = (found + max(1, whole // 4) * uphill(network, found, truth)).clamp(low, high)
    return _images(found)


def _tensors(images: Pixels, targets: NDArray[np.generic]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(images).float(), torch.from_numpy(np.asarray(targets))


def _images(pixels: Tensor) -> Pixels:
    found: Pixels = pixels.clamp(0, 255).to(torch.uint8).numpy()
    return found

"""Adversarial attacks: bounded pixel changes that increase the loss, FGSM and PGD. Needs torch.

FGSM takes one step along the sign of the gradient (Goodfellow, Shlens & Szegedy 2015, "Explaining and Harnessing Adversarial
Examples"). PGD takes several smaller steps from a random start and projects each back onto the L-infinity ball around the
image (Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks"). Steps are whole 255ths, so the
results are valid 8-bit images.
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
BATCH_SIZE = 24  # images


def attack_model(network: Network) -> Network:
    """Prepares a network for attacks: evaluation mode, frozen weights, channels-last memory."""
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def per_sample_loss(network: Network, pixels: Tensor, targets: Tensor) -> Tensor:
    """The loss of each image, in nats, (N,).

    Args:
        pixels: float (N, S, S, 3) in [0, 255].
        targets: int64 (N,), or bool (N, C) if an image may have several labels.
    """
    logits, _ = network(pixels)
    if targets.ndim == 1:
        return F.cross_entropy(logits, targets, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, targets.float(), reduction="none").mean(dim=1)


def gradient_sign(network: Network, pixels: Tensor, targets: Tensor) -> Tensor:
    """The sign of the gradient of the loss with respect to the images: -1, 0 or 1, float (N, S, S, 3)."""
    with torch.enable_grad():
        leaf = pixels.detach().requires_grad_()
        [gradient] = torch.autograd.grad(per_sample_loss(network, leaf, targets).sum(), leaf)
    return gradient.sign()


def fgsm(network: Network, images: Pixels, targets: NDArray[np.generic], radii: Sequence[float]) -> Iterator[Pixels]:
    """One gradient-sign step per radius, in 255ths: yields uint8 (N, S, S, 3) for each. All radii share one gradient."""
    pixels, labels = _to_tensors(images, targets)
    direction = gradient_sign(network, pixels, labels)
    for radius in radii:
        yield _to_images(pixels + round(radius) * direction)


def pgd(network: Network, images: Pixels, targets: NDArray[np.generic], radius: float, seed: int = 0) -> Pixels:
    """Projected gradient steps of a quarter of the radius, in 255ths, that stay within the radius: uint8 (N, S, S, 3)."""
    pixels, labels = _to_tensors(images, targets)
    epsilon = round(radius)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(-epsilon, epsilon + 1, pixels.shape, generator=generator)
    low, high = (pixels - epsilon).clamp(min=0), (pixels + epsilon).clamp(max=255)
    adversarial = (pixels + start).clamp(low, high)
    for _ in range(PGD_STEPS):
        step = max(1, epsilon // 4) * gradient_sign(network, adversarial, labels)
        adversarial = (adversarial + step).clamp(low, high)
    return _to_images(adversarial)


def _to_tensors(images: Pixels, targets: NDArray[np.generic]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(images).float(), torch.from_numpy(np.asarray(targets))


def _to_images(pixels: Tensor) -> Pixels:
    images: Pixels = pixels.clamp(0, 255).to(torch.uint8).numpy()
    return images

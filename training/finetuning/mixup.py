"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) on batches of images and soft targets."""

import torch
from torch import Tensor


def mixup_or_cutmix(images: Tensor, targets: Tensor, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """Mixes each image of a batch with a random other one of the batch. Uses torch's global random state.

    Args:
        images: uint8 (N, H, W, 3).
        targets: float (N, C).
        mixup: alpha of the Beta distribution of mixup; 0 turns it off.
        cutmix: alpha of the Beta distribution of CutMix; 0 turns it off. If both are on, each batch uses one of them at random.

    Returns:
        The images, uint8 or float in [0, 255], and float targets, with unchanged shapes.
    """
    if len(images) < 2 or not (mixup or cutmix):
        return images, targets
    partner = torch.randperm(len(images)).to(images.device)
    use_cutmix = bool(cutmix) and (not mixup or torch.rand(()).item() < 0.5)
    alpha = torch.tensor(cutmix if use_cutmix else mixup, dtype=torch.float64)
    ratio = torch.distributions.Beta(alpha, alpha).sample().item()  # weight of the original image
    if use_cutmix:
        images, ratio = _cutmix(images, partner, ratio)
    else:
        images = torch.lerp(images[partner].float(), images.float(), ratio)
    return images, torch.lerp(targets[partner], targets, ratio)


def _cutmix(images: Tensor, partner: Tensor, ratio: float) -> tuple[Tensor, float]:
    """Pastes a random rectangle of the partner images; also returns the fraction of original pixels."""
    height, width = images.shape[1:3]
    box_height, box_width = round(height * (1 - ratio) ** 0.5), round(width * (1 - ratio) ** 0.5)
    top, left = (int(torch.randint(0, margin + 1, ())) for margin in (height - box_height, width - box_width))
    mixed = images.clone()
    rows, columns = slice(top, top + box_height), slice(left, left + box_width)
    mixed[:, rows, columns] = images[partner, rows, columns]
    return mixed, 1 - box_height * box_width / (height * width)

"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) on batches of images and soft targets, by torchvision."""

import torch
from torch import Tensor
from torchvision.transforms import v2


def mixup_or_cutmix(images: Tensor, targets: Tensor, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """Mixes each image of a shuffled batch with another one of the batch. Uses torch's global random state.

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
    if cutmix and (not mixup or torch.rand(()).item() < 0.5):
        mixed, targets = v2.CutMix(alpha=cutmix)(images.permute(0, 3, 1, 2), targets)
        return mixed.permute(0, 2, 3, 1), targets
    mixed, targets = v2.MixUp(alpha=mixup)(images.float(), targets)
    return mixed, targets

"""Two images in one: mixup (Zhang et al. 2018) blends them, CutMix (Yun et al. 2019) pastes a part; the targets follow."""

import torch
from torch import Tensor


def mix(images: Tensor, targets: Tensor, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """Each image of a batch with another of the same batch, by chance from torch's own random state.

    Args:
        images: uint8 (N, H, W, 3).
        targets: float (N, C).
        mixup: alpha of the blend's Beta distribution; 0 never blends.
        cutmix: alpha of the pasted part's; 0 never pastes. If neither is 0, a coin decides for each batch.

    Returns:
        The images, uint8 or float in [0, 255], and float targets, both of the shapes that came.
    """
    if len(images) < 2 or not (mixup or cutmix):
        return images, targets
    partner = torch.randperm(len(images)).to(images.device)
    pastes = bool(cutmix) and (not mixup or torch.rand(()).item() < 0.5)
    alpha = torch.tensor(cutmix if pastes else mixup, dtype=torch.float64)
    share = torch.distributions.Beta(alpha, alpha).sample().item()  # of the image's own
    if pastes:
        images, share = _pasted(images, partner, share)
    else:
        images = torch.lerp(images[partner].float(), images.float(), share)
    return images, torch.lerp(targets[partner], targets, share)


def _pasted(images: Tensor, partner: Tensor, share: float) -> tuple[Tensor, float]:
    """The images with a rectangle of their partners', and the share of their own pixels that is left."""
    height, width = images.shape[1:3]
    tall, wide = round(height * (1 - share) ** 0.5), round(width * (1 - share) ** 0.5)
    top, left = (int(torch.randint(0, room + 1, ())) for room in (height - tall, width - wide))
    pasted = images.clone()
    pasted[:, top : top + tall, left : left + wide] = images[partner, top : top + tall, left : left + wide]
    return pasted, 1 - tall * wide / (height * width)

"""Random training-time augmentations; the only importer of albumentations."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import cv2

from graft.training.config.finetune_config import FineTuneConfig
from graft.training.runtime.isolation import preserved_environment

# Otherwise albumentations checks for updates over the network on import.
with preserved_environment(NO_ALBUMENTATIONS_UPDATE="1"):
    import albumentations as A

Augmentation: TypeAlias = A.Compose

# Augmentations of `--augment-corruptions`, each with probability 0.5. Their strength goes up to about the highest
# severity of `graft evaluate --robust`.
CORRUPTION_AUGMENTATIONS: Mapping[str, Callable[[], A.BasicTransform]] = {
    "translation": lambda: A.Affine(translate_percent=(-0.3, 0.3), border_mode=cv2.BORDER_REFLECT_101, p=0.5),
    "rotation": lambda: A.Rotate((-90, 90), interpolation=cv2.INTER_LINEAR, border_mode=cv2.BORDER_REFLECT_101, p=0.5),
    "scale": lambda: A.Affine(
        scale=(0.5, 2.0), keep_ratio=True, balanced_scale=True, border_mode=cv2.BORDER_REFLECT_101, p=0.5
    ),
    "flip": lambda: A.SquareSymmetry(p=0.5),
    "brightness": lambda: A.ColorJitter((0.25, 2.5), (1, 1), (1, 1), (0, 0), p=0.5),
    "blur": lambda: A.GaussianBlur(blur_limit=0, sigma_limit=(0.5, 6.0), p=0.5),
    "noise": lambda: A.GaussNoise(std_range=(0.02, 0.25), p=0.5),
    "jpeg": lambda: A.ImageCompression(quality_range=(5, 60), p=0.5),
    "occlusion": lambda: A.CoarseDropout((1, 1), (0.2, 0.6), (0.2, 0.6), p=0.5),
}


def train_transforms(side: int, config: FineTuneConfig) -> A.Compose:
    """Random crop, flip, rotation, color jitter and corruptions: uint8 (H, W, 3) -> uint8 (side, side, 3).

    The crop comes first, so that the other transforms process fewer pixels. The corruptions come last.
    """
    corruptions = [CORRUPTION_AUGMENTATIONS[name]() for name in config.augment_corruptions]
    if config.augment == "none":
        return A.Compose([A.Resize(side, side), *corruptions], strict=True)  # a no-op: the images have this size
    min_scale = {"light": 0.7, "medium": 0.5, "strong": 0.35}[config.augment]
    crop = A.RandomResizedCrop((side, side), scale=(min_scale, 1.0), ratio=(3 / 4, 4 / 3), interpolation=cv2.INTER_LINEAR)
    transforms: list[A.BasicTransform] = [crop, *([A.HorizontalFlip(p=0.5)] if config.flips else [])]
    if config.augment != "light":
        degrees, jitter, hue = (20, 0.4, 0.04) if config.augment == "strong" else (10, 0.2, 0.02)
        if config.rotations:
            rotation = A.Rotate((-degrees, degrees), interpolation=cv2.INTER_LINEAR, border_mode=cv2.BORDER_REFLECT_101, p=0.5)
            transforms.append(rotation)
        limits = (1 - jitter, 1 + jitter)
        transforms.append(A.ColorJitter(brightness=limits, contrast=limits, saturation=limits, hue=(-hue, hue), p=0.5))
    return A.Compose([*transforms, *corruptions], strict=True)

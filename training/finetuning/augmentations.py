"""Random training-time augmentations; the only importer of albumentations."""

from collections.abc import Callable, Mapping, Sequence

import albumentations as A
import cv2

# What `--harden` adds to the changes, each to one image in two: up to about the worst that `graft evaluate --robust` tries.
HARDER: Mapping[str, Callable[[], A.BasicTransform]] = {
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


def random_changes(side: int, augment: str, flips: bool, rotations: bool, harden: Sequence[str] = ()) -> A.Compose:
    """Crop and scale, mirror, turn, recolour, harden: uint8 (H, W, 3) -> uint8 (side, side, 3).

    The crop comes first, so that everything after it works on few pixels; what was asked for by name comes last.
    """
    harder = [HARDER[name]() for name in harden]
    if augment == "none":
        return A.Compose([A.Resize(side, side), *harder], strict=True)  # of what has that size already
    smallest = {"light": 0.7, "medium": 0.5, "strong": 0.35}[augment]
    crop = A.RandomResizedCrop((side, side), scale=(smallest, 1.0), ratio=(3 / 4, 4 / 3), interpolation=cv2.INTER_LINEAR)
    changes: list[A.BasicTransform] = [crop, *([A.HorizontalFlip(p=0.5)] if flips else [])]
    if augment != "light":
        degrees, light, hue = (20, 0.4, 0.04) if augment == "strong" else (10, 0.2, 0.02)
        if rotations:
            turn = A.Rotate((-degrees, degrees), interpolation=cv2.INTER_LINEAR, border_mode=cv2.BORDER_REFLECT_101, p=0.5)
            changes.append(turn)
        around = (1 - light, 1 + light)
        changes.append(A.ColorJitter(brightness=around, contrast=around, saturation=around, hue=(-hue, hue), p=0.5))
    return A.Compose([*changes, *harder], strict=True)

"""Image corruptions on network inputs: uint8 (S, S, 3) in, the same out. Numpy and Pillow only.

They run after the preprocessing of the service, so a severity means the same for every image. Pixels from outside the image
are reflect-padded, as in the training augmentations: black corners would be a second corruption. Random choices (direction,
position, noise) come from the generator argument.
"""

import io
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Pixels = NDArray[np.uint8]
Change = Callable[[Pixels, float, np.random.Generator], Pixels]

WAYS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))  # (dy, dx)


def moved(pixels: Pixels, down: int, right: int) -> Pixels:
    """Translates by (dy, dx) pixels, down and right; |dy| and |dx| < S."""
    side, margin = len(pixels), max(abs(down), abs(right))
    return _mirrored(pixels, margin)[margin - down :, margin - right :][:side, :side]


def turned(pixels: Pixels, degrees: float) -> Pixels:
    """Rotates counterclockwise about the center."""
    margin = 0 if degrees % 90 == 0 else int(0.21 * len(pixels)) + 2  # how far the corners of a square extend beyond its sides
    image = Image.fromarray(_mirrored(pixels, margin)).rotate(degrees, Image.Resampling.BILINEAR)
    return _centre(np.asarray(image), len(pixels))


def scaled(pixels: Pixels, times: float) -> Pixels:
    """Scales about the center; factor >= 0.5."""
    side = len(pixels)
    margin = max(0, int(np.ceil(side * (1 / times - 1) / 2)))
    edge = margin + side / 2 - side / times / 2
    image = Image.fromarray(_mirrored(pixels, margin))
    box = (edge, edge, edge + side / times, edge + side / times)
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box=box))


def brightened(pixels: Pixels, times: float) -> Pixels:
    """Multiplies every value by a factor and clips at 255."""
    return _bytes(pixels * np.float32(times))


def blurred(pixels: Pixels, deviation: float) -> Pixels:
    """Gaussian blur; the standard deviation is in pixels."""
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(deviation)))


def noised(pixels: Pixels, deviation: float, random: np.random.Generator) -> Pixels:
    """Adds independent Gaussian noise to each value; the standard deviation is in 255ths."""
    return _bytes(pixels + random.normal(0, deviation, pixels.shape))


def compressed(pixels: Pixels, lost: float) -> Pixels:
    """JPEG compression at quality 100 - quality_loss."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=round(100 - lost))
    return np.asarray(Image.open(file))


def covered(pixels: Pixels, share: float, random: np.random.Generator) -> Pixels:
    """Covers a random square with the image's mean color; the square's side is a fraction of the image's side."""
    side = round(share * len(pixels))
    top, left = random.integers(0, len(pixels) - side + 1, 2)
    occluded = pixels.copy()
    occluded[top : top + side, left : left + side] = _bytes(pixels.mean(axis=(0, 1)))
    return occluded


def _translation(pixels: Pixels, severity: float, random: np.random.Generator) -> Pixels:
    distance, (dy, dx) = round(severity * len(pixels)), WAYS[random.integers(len(WAYS))]
    return moved(pixels, dy * distance, dx * distance)


def _rotation(pixels: Pixels, severity: float, random: np.random.Generator) -> Pixels:
    return turned(pixels, severity * random.choice((-1, 1)))


CHANGES: Mapping[str, Change] = {
    "translation": _translation,
    "rotation": _rotation,
    "scale": lambda pixels, severity, _: scaled(pixels, severity),
    "flip": lambda pixels, severity, _: pixels[::-1] if severity == 2 else pixels[:, ::-1],
    "brightness": lambda pixels, severity, _: brightened(pixels, severity),
    "blur": lambda pixels, severity, _: blurred(pixels, severity),
    "noise": noised,
    "jpeg": lambda pixels, severity, _: compressed(pixels, severity),
    "occlusion": covered,
}


def _mirrored(pixels: Pixels, room: int) -> Pixels:
    """Reflect padding on every side; the edge pixels are not repeated."""
    return np.pad(pixels, ((room, room), (room, room), (0, 0)), "reflect") if room else pixels


def _centre(pixels: Pixels, side: int) -> Pixels:
    edge = (len(pixels) - side) // 2
    crop: Pixels = pixels[edge : edge + side, edge : edge + side]
    return crop


def _bytes(values: NDArray[np.floating]) -> Pixels:
    rounded: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return rounded

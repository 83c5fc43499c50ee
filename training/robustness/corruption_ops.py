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
CorruptionOp = Callable[[Pixels, float, np.random.Generator], Pixels]

DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))  # (dy, dx)


def translate(pixels: Pixels, dy: int, dx: int) -> Pixels:
    """Translates by (dy, dx) pixels, down and right; |dy| and |dx| < S."""
    side, margin = len(pixels), max(abs(dy), abs(dx))
    return _reflect_pad(pixels, margin)[margin - dy :, margin - dx :][:side, :side]


def rotate(pixels: Pixels, degrees: float) -> Pixels:
    """Rotates counterclockwise about the center."""
    margin = 0 if degrees % 90 == 0 else int(0.21 * len(pixels)) + 2  # how far the corners of a square extend beyond its sides
    image = Image.fromarray(_reflect_pad(pixels, margin)).rotate(degrees, Image.Resampling.BILINEAR)
    return _center_crop(np.asarray(image), len(pixels))


def scale(pixels: Pixels, factor: float) -> Pixels:
    """Scales about the center; factor >= 0.5."""
    side = len(pixels)
    margin = max(0, int(np.ceil(side * (1 / factor - 1) / 2)))
    edge = margin + side / 2 - side / factor / 2
    image = Image.fromarray(_reflect_pad(pixels, margin))
    box = (edge, edge, edge + side / factor, edge + side / factor)
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box=box))


def brightness(pixels: Pixels, factor: float) -> Pixels:
    """Multiplies every value by a factor and clips at 255."""
    return _to_uint8(pixels * np.float32(factor))


def gaussian_blur(pixels: Pixels, sigma: float) -> Pixels:
    """Gaussian blur; the standard deviation is in pixels."""
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma)))


def gaussian_noise(pixels: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    """Adds independent Gaussian noise to each value; the standard deviation is in 255ths."""
    return _to_uint8(pixels + rng.normal(0, sigma, pixels.shape))


def jpeg(pixels: Pixels, quality_loss: float) -> Pixels:
    """JPEG compression at quality 100 - quality_loss."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=round(100 - quality_loss))
    return np.asarray(Image.open(file))


def occlude(pixels: Pixels, fraction: float, rng: np.random.Generator) -> Pixels:
    """Covers a random square with the image's mean color; the square's side is a fraction of the image's side."""
    side = round(fraction * len(pixels))
    top, left = rng.integers(0, len(pixels) - side + 1, 2)
    occluded = pixels.copy()
    occluded[top : top + side, left : left + side] = _to_uint8(pixels.mean(axis=(0, 1)))
    return occluded


def _translation(pixels: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    distance, (dy, dx) = round(severity * len(pixels)), DIRECTIONS[rng.integers(len(DIRECTIONS))]
    return translate(pixels, dy * distance, dx * distance)


def _rotation(pixels: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    return rotate(pixels, severity * rng.choice((-1, 1)))


CORRUPTION_OPS: Mapping[str, CorruptionOp] = {
    "translation": _translation,
    "rotation": _rotation,
    "scale": lambda pixels, severity, _: scale(pixels, severity),
    "flip": lambda pixels, severity, _: pixels[::-1] if severity == 2 else pixels[:, ::-1],
    "brightness": lambda pixels, severity, _: brightness(pixels, severity),
    "blur": lambda pixels, severity, _: gaussian_blur(pixels, severity),
    "noise": gaussian_noise,
    "jpeg": lambda pixels, severity, _: jpeg(pixels, severity),
    "occlusion": occlude,
}


def _reflect_pad(pixels: Pixels, margin: int) -> Pixels:
    """Reflect padding on every side; the edge pixels are not repeated."""
    return np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), "reflect") if margin else pixels


def _center_crop(pixels: Pixels, side: int) -> Pixels:
    edge = (len(pixels) - side) // 2
    crop: Pixels = pixels[edge : edge + side, edge : edge + side]
    return crop


def _to_uint8(values: NDArray[np.floating]) -> Pixels:
    rounded: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return rounded

"""Disturbances of the pixels that the network sees: uint8 (S, S, 3) in, the same out. Numpy and Pillow only.

They are made after the service's own preprocessing, so a severity means the same for every image. What comes in from
beyond the edge is the image's mirror image, as in the random changes of training: black corners would be a second
disturbance. What is random (a direction, a place, noise) is drawn from the generator that is given.
"""

import io
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Pixels = NDArray[np.uint8]
Change = Callable[[Pixels, float, np.random.Generator], Pixels]

WAYS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))  # down and to the right


def moved(pixels: Pixels, down: int, right: int) -> Pixels:
    """The image moved by so many pixels, |down| and |right| < S."""
    side, room = len(pixels), max(abs(down), abs(right))
    return _mirrored(pixels, room)[room - down :, room - right :][:side, :side]


def turned(pixels: Pixels, degrees: float) -> Pixels:
    """The image turned about its centre, to the left."""
    room = 0 if degrees % 90 == 0 else int(0.21 * len(pixels)) + 2  # what a square's corners reach beyond its sides
    image = Image.fromarray(_mirrored(pixels, room)).rotate(degrees, Image.Resampling.BILINEAR)
    return _centre(np.asarray(image), len(pixels))


def scaled(pixels: Pixels, times: float) -> Pixels:
    """The image shown so many times as large, about its centre; times >= 0.5."""
    side = len(pixels)
    room = max(0, int(np.ceil(side * (1 / times - 1) / 2)))
    edge = room + side / 2 - side / times / 2
    image = Image.fromarray(_mirrored(pixels, room))
    box = (edge, edge, edge + side / times, edge + side / times)
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box=box))


def brightened(pixels: Pixels, times: float) -> Pixels:
    """Every value so many times as large; what exceeds 255 becomes 255."""
    return _bytes(pixels * np.float32(times))


def blurred(pixels: Pixels, deviation: float) -> Pixels:
    """Gaussian blur of a standard deviation in pixels."""
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(deviation)))


def noised(pixels: Pixels, deviation: float, random: np.random.Generator) -> Pixels:
    """Gaussian noise of a standard deviation in 255ths, for each value by itself."""
    return _bytes(pixels + random.normal(0, deviation, pixels.shape))


def compressed(pixels: Pixels, lost: float) -> Pixels:
    """What a JPEG of quality 100 - lost keeps of it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=round(100 - lost))
    return np.asarray(Image.open(file))


def covered(pixels: Pixels, share: float, random: np.random.Generator) -> Pixels:
    """A square of that share of the side, in the image's mean colour, laid somewhere on it."""
    side = round(share * len(pixels))
    top, left = random.integers(0, len(pixels) - side + 1, 2)
    found = pixels.copy()
    found[top : top + side, left : left + side] = _bytes(pixels.mean(axis=(0, 1)))
    return found


def _translation(pixels: Pixels, severity: float, random: np.random.Generator) -> Pixels:
    far, (down, right) = round(severity * len(pixels)), WAYS[random.integers(len(WAYS))]
    return moved(pixels, down * far, right * far)


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
    """The image with so much of its mirror image on every side, the edge itself not repeated."""
    return np.pad(pixels, ((room, room), (room, room), (0, 0)), "reflect") if room else pixels


def _centre(pixels: Pixels, side: int) -> Pixels:
    edge = (len(pixels) - side) // 2
    found: Pixels = pixels[edge : edge + side, edge : edge + side]
    return found


def _bytes(values: NDArray[np.floating]) -> Pixels:
    found: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return found

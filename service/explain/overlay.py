"""An explanation as a picture: what the network saw, glowing where it speaks for the label. Numpy and Pillow only."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..inference.engine import Floats, Pixels
from .explainer import Explanation

SHOWN = 448  # pixels of an overlay's side
COVERED = 0.6  # how much of the picture an overlay's strongest colour hides
FADED = 0.7  # how grey the picture below is made, so that a yellow flower is not taken for heat

# Ten steps of matplotlib's "inferno" (CC0): even to the eye, and in grey too. It begins where alpha is 0.
COLOURS = np.frombuffer(
    bytes.fromhex("000004 1b0c41 4a0c6b 781c6d a52c60 cf4446 ed6925 fb9b06 f7d13d fcffa4"), np.uint8
).reshape(10, 3)


def overlay(explanation: Explanation) -> bytes:
    """A PNG of what the network saw, 448 pixels wide and high; what speaks for the label glows."""
    file = io.BytesIO()
    Image.fromarray(glowing(explanation.decoded.pixels, strength(explanation), SHOWN)).save(file, "PNG")
    return file.getvalue()


def glowing(pixels: Pixels, heat: Floats, side: int) -> Pixels:
    """Pixels (S, S, 3), faded, below heat (h, w) in [0, 1] of any grid: uint8 (side, side, 3)."""
    square = (side, side)
    picture = Image.fromarray(pixels).resize(square, Image.Resampling.LANCZOS)
    faded = np.asarray(Image.blend(picture, picture.convert("L").convert("RGB"), FADED))
    smooth = np.clip(np.asarray(Image.fromarray(heat).resize(square, Image.Resampling.BICUBIC)), 0, 1)
    hidden = COVERED * smooth[..., None]
    shown: Pixels = np.round(faded * (1 - hidden) + coloured(smooth) * hidden).astype(np.uint8)
    return shown


def coloured(heat: Floats) -> NDArray[np.float64]:
    """The colours of heat (...) in [0, 1]: (..., 3) in [0, 255]."""
    steps = np.linspace(0, 1, len(COLOURS))
    return np.stack([np.interp(heat, steps, channel) for channel in COLOURS.T], axis=-1)


def strength(explanation: Explanation) -> Floats:
    """How strongly each position speaks for the label, float32 (h, w) in [0, 1]; 0 where it does not.

    A position of a class activation map speaks for the label if the logit would be above 0 were the whole image like it.
    """
    speaking = np.maximum(explanation.map + explanation.bias, 0)
    most = float(speaking.max())
    found: Floats = (speaking / most if most > 0 else speaking).astype(np.float32)
    return found

"""Renders an explanation as a heat map over the network's input. Numpy and Pillow only."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..inference.engine import Floats, Pixels
from .explainer import Explanation

OVERLAY_PX = 448  # pixels per side of an overlay
MAX_OPACITY = 0.6  # opacity of the strongest color
DESATURATION = 0.7  # of the image below, so that a yellow flower is not mistaken for a hot spot

# Ten steps of matplotlib's "inferno" (CC0): perceptually uniform, also in gray. It starts where alpha is 0.
INFERNO = np.frombuffer(
    bytes.fromhex("000004 1b0c41 4a0c6b 781c6d a52c60 cf4446 ed6925 fb9b06 f7d13d fcffa4"), np.uint8
).reshape(10, 3)


def overlay(explanation: Explanation) -> bytes:
    """A PNG of the network's input, 448 x 448 pixels, with the heat map on top."""
    file = io.BytesIO()
    Image.fromarray(blend(explanation.decoded.pixels, normalize(explanation), OVERLAY_PX)).save(file, "PNG")
    return file.getvalue()


def blend(pixels: Pixels, heatmap: Floats, side: int) -> Pixels:
    """Blends a heat map (h, w) in [0, 1] of any resolution over desaturated pixels (S, S, 3): uint8 (side, side, 3)."""
    size = (side, side)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    background = np.asarray(Image.blend(image, image.convert("L").convert("RGB"), DESATURATION))
    smooth = np.clip(np.asarray(Image.fromarray(heatmap).resize(size, Image.Resampling.BICUBIC)), 0, 1)
    alpha = MAX_OPACITY * smooth[..., None]
    blended: Pixels = np.round(background * (1 - alpha) + apply_colormap(smooth) * alpha).astype(np.uint8)
    return blended


def apply_colormap(heatmap: Floats) -> NDArray[np.float64]:
    """The colors of values (...) in [0, 1]: float64 (..., 3) in [0, 255]."""
    steps = np.linspace(0, 1, len(INFERNO))
    return np.stack([np.interp(heatmap, steps, channel) for channel in INFERNO.T], axis=-1)


def normalize(explanation: Explanation) -> Floats:
    """The positive part of a map, scaled to [0, 1]: float32 (h, w). 0 where a position does not support the label.

    A position of a class activation map supports the label if its value at every position would give a logit above 0.
    """
    positive = np.maximum(explanation.map + explanation.bias, 0)
    peak = float(positive.max())
    scaled: Floats = (positive / peak if peak > 0 else positive).astype(np.float32)
    return scaled

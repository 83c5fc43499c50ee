"""Renders an explanation as a heat map over the network's input. Numpy and Pillow only."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..inference.engine import Floats, Pixels
from .explainer import Explanation

OVERLAY_PX = 448  # pixels per side of an overlay
MAX_OPACITY = 0.6  # opacity of the strongest color
DESATURATION = 0.85  # of the image below, so that a colored object is not mistaken for a hot spot
CONTOUR_LEVELS = 4  # steps of the map between which a contour is drawn

# Ten steps of matplotlib's "viridis" (CC0): perceptually uniform, also in gray and with color vision deficiency. Red and
# orange, frequent colors of flowers and food, are not in it. It starts where alpha is 0.
VIRIDIS = np.frombuffer(
    bytes.fromhex("440154 482878 3e4989 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725"), np.uint8
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
    inner, outer = contours(smooth)
    blended[outer] = 0
    blended[inner] = 255
    return blended


def contours(heatmap: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Contours of a map (h, w) in [0, 1]: the pixels just above each level, and those just below it, bool (h, w) each.

    Drawn in white and black, they are visible on every background.
    """
    level = np.minimum((heatmap * CONTOUR_LEVELS).astype(int), CONTOUR_LEVELS - 1)
    padded = np.pad(level, 1, mode="edge")
    neighbors = np.stack([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])
    return level > neighbors.min(axis=0), level < neighbors.max(axis=0)


def apply_colormap(heatmap: Floats) -> NDArray[np.float64]:
    """The colors of values (...) in [0, 1]: float64 (..., 3) in [0, 255]."""
    steps = np.linspace(0, 1, len(VIRIDIS))
    return np.stack([np.interp(heatmap, steps, channel) for channel in VIRIDIS.T], axis=-1)


def normalize(explanation: Explanation) -> Floats:
    """The positive part of a map, scaled to [0, 1]: float32 (h, w). 0 where a position does not support the label.

    A position of a class activation map supports the label if its value at every position would give a logit above 0.
    """
    positive = np.maximum(explanation.map + explanation.bias, 0)
    peak = float(positive.max())
    scaled: Floats = (positive / peak if peak > 0 else positive).astype(np.float32)
    return scaled

"""Visualizes the kernels of the first layer as color images, from the weights alone. No torch.

Krizhevsky et al. 2012, "ImageNet Classification with Deep Convolutional Neural Networks", figure 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graft.service.inference.engine import Floats, Pixels
from graft.training.visualization import contact_sheet

MAX_FILTERS = 128  # kernels to show
DEAD_THRESHOLD = 0.05  # share of the largest absolute weight; a kernel below it is dead
TILE_SIZE = 44  # pixels of a tile
SHEET_WIDTH = 900  # maximum width of a row of tiles in pixels
RGB_CHANNELS, GRAY_CHANNELS = 3, 1  # channels of an image


@dataclass(frozen=True)
class Filters:
    """The kernels of a first layer.

    Attributes:
        name: of the weight tensor.
        kernels: float32 (n, h, w, 3), in the order of the network.
        is_dense: whether each unit covers the entire image, as in a multilayer perceptron.
    """

    name: str
    kernels: Floats
    is_dense: bool

    @property
    def n_dead(self) -> int:
        """Number of kernels with weights close to zero."""
        return int((self._max_abs_weights() < DEAD_THRESHOLD * self._max_abs_weights().max()).sum())

    def strongest(self) -> Floats:
        """At most 128 kernels, those with the largest weights, in the order of the network."""
        order = np.sort(np.argsort(-self._max_abs_weights(), kind="stable")[:MAX_FILTERS])
        return self.kernels[order]

    def _max_abs_weights(self) -> Floats:
        largest: Floats = np.abs(self.kernels).max(axis=(1, 2, 3))
        return largest


def first_filters(weights: Path, crop: int) -> Filters | None:
    """The kernels of the first layer in a package's weights; None if the first layer does not take image channels.

    Args:
        crop: input size of the network in pixels.
    """
    from safetensors import safe_open

    with safe_open(weights, framework="numpy") as tensors:
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118 - no mapping
        name = find_first_layer(shapes, crop)
        return to_filters(name, tensors.get_tensor(name), crop) if name else None


def find_first_layer(shapes: Mapping[str, tuple[int, ...]], crop: int) -> str | None:
    """Finds the weight tensor of the first layer by shape, because a weights file has no order.

    Only a first layer has kernels with three input channels, except rare grouped convolutions, which are smaller. The
    kernels of a grayscale first layer have one channel, as in depthwise convolutions, so that case needs a single match.
    """
    kernels = {name: shape for name, shape in shapes.items() if len(shape) == 4}
    rgb = [name for name, shape in kernels.items() if shape[1] == RGB_CHANNELS]
    if rgb:
        return min(rgb, key=lambda name: (-kernels[name][2] * kernels[name][3], name))
    gray = [name for name, shape in kernels.items() if shape[1] == GRAY_CHANNELS]
    if gray:
        return gray[0] if len(gray) == 1 else None
    inputs = (RGB_CHANNELS * crop**2, GRAY_CHANNELS * crop**2)
    dense = sorted(name for name, shape in shapes.items() if len(shape) == 2 and shape[1] in inputs)
    return dense[0] if dense else None


def to_filters(name: str, tensor: NDArray[np.floating], crop: int) -> Filters:
    """Converts convolution weights (n, channels, h, w) or dense weights (n, channels * crop * crop) to filters."""
    is_dense = tensor.ndim == 2
    weights = tensor.reshape(len(tensor), -1, crop, crop) if is_dense else tensor
    rgb = weights if weights.shape[1] == RGB_CHANNELS else weights.repeat(RGB_CHANNELS, axis=1)
    return Filters(name, np.ascontiguousarray(rgb.transpose(0, 2, 3, 1), dtype=np.float32), is_dense)


def to_rgb(kernels: Floats) -> Pixels:
    """Kernels (n, h, w, 3) as uint8 colors: gray is a weight of 0; each kernel is scaled by its largest weight.

    A dead kernel stays gray, because scaling would only amplify noise.
    """
    largest = np.abs(kernels).max(axis=(1, 2, 3), keepdims=True)
    scale = np.maximum(largest, DEAD_THRESHOLD * largest.max()) + np.finfo(np.float32).tiny
    colors: Pixels = np.round(127.5 * (1 + kernels / scale)).astype(np.uint8)
    return colors


def to_png(filters: Filters) -> bytes:
    """The kernels as a PNG of tiles."""
    images = to_rgb(filters.strongest())
    side = max(TILE_SIZE // images.shape[1], 1) * images.shape[1]
    return contact_sheet.tile_sheet(list(images), max(1, SHEET_WIDTH // (side + contact_sheet.GAP)), side)


def describe(filters: Filters) -> str:
    """A caption for the filters."""
    n, height, width = filters.kernels.shape[:3]
    count = f"All {n}" if n <= MAX_FILTERS else f"The {MAX_FILTERS} strongest of {n}"
    kind = (
        f"units of the first layer, each with weights for {width}x{height} pixels"
        if filters.is_dense
        else (f"kernels of the first layer, {width}x{height} pixels each")
    )
    dead = f" {filters.n_dead} dead kernels (weights close to zero)." if filters.n_dead else ""
    return f"{count} {kind}. Gray is a weight of 0; a kernel responds to the colors it shows.{dead}"

"""What the first layer of a network looks for: its kernels as colour pictures, from the weights alone. No torch.

Krizhevsky et al. 2012, "ImageNet Classification with Deep Convolutional Neural Networks", figure 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graft.service.inference.engine import Floats, Pixels
from graft.training.visualization import contact_sheet

MOST = 128  # kernels that are shown
IDLE = 0.05  # of the largest weight there is: a kernel with none above is next to zero
SIDE = 44  # pixels of a small kernel's tile
SHEET = 900  # pixels that a row of tiles may take
COLOURED, GREY = 3, 1  # channels of an image


@dataclass(frozen=True)
class Filters:
    """The kernels of a first layer.

    Attributes:
        name: of its weights.
        kernels: float32 (n, h, w, 3), in the network's order.
        whole: whether each of them sees the whole image, as in a perceptron.
    """

    name: str
    kernels: Floats
    whole: bool

    @property
    def n_idle(self) -> int:
        """How many are next to zero."""
        return int((self._largest() < IDLE * self._largest().max()).sum())

    def shown(self) -> Floats:
        """At most 128, those with the largest weights, in the network's order."""
        kept = np.sort(np.argsort(-self._largest(), kind="stable")[:MOST])
        return self.kernels[kept]

    def _largest(self) -> Floats:
        largest: Floats = np.abs(self.kernels).max(axis=(1, 2, 3))
        return largest


def first_filters(weights: Path, crop: int) -> Filters | None:
    """The first layer's kernels in a package's weights; None if that layer does not look at an image's colours.

    Args:
        crop: the side of the image that the network sees, in pixels.
    """
    from safetensors import safe_open

    with safe_open(weights, framework="numpy") as tensors:
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118 - no mapping
        name = first_layer(shapes, crop)
        return as_filters(name, tensors.get_tensor(name), crop) if name else None


def first_layer(shapes: Mapping[str, tuple[int, ...]], crop: int) -> str | None:
    """The tensor that meets the image first, by its shape: a file of weights knows no order.

    Only a first layer has kernels of three channels, but for rare grouped ones, which are smaller. One that looks at grey
    has kernels of one channel, as depthwise layers have, so there must be just one such layer.
    """
    kernels = {name: shape for name, shape in shapes.items() if len(shape) == 4}
    coloured = [name for name, shape in kernels.items() if shape[1] == COLOURED]
    if coloured:
        return min(coloured, key=lambda name: (-kernels[name][2] * kernels[name][3], name))
    grey = [name for name, shape in kernels.items() if shape[1] == GREY]
    if grey:
        return grey[0] if len(grey) == 1 else None
    inputs = (COLOURED * crop**2, GREY * crop**2)
    rows = sorted(name for name, shape in shapes.items() if len(shape) == 2 and shape[1] in inputs)
    return rows[0] if rows else None


def as_filters(name: str, tensor: NDArray[np.floating], crop: int) -> Filters:
    """Weights (n, channels, h, w), or (n, channels * crop * crop) of a layer that sees the whole image, as pictures."""
    whole = tensor.ndim == 2
    shaped = tensor.reshape(len(tensor), -1, crop, crop) if whole else tensor
    coloured = shaped if shaped.shape[1] == COLOURED else shaped.repeat(COLOURED, axis=1)
    return Filters(name, np.ascontiguousarray(coloured.transpose(0, 2, 3, 1), dtype=np.float32), whole)


def coloured(kernels: Floats) -> Pixels:
    """Kernels (n, h, w, 3) as colours uint8: grey is a weight of 0, and each is as strong as its largest weight allows.

    One that is next to zero stays grey, instead of showing its noise.
    """
    largest = np.abs(kernels).max(axis=(1, 2, 3), keepdims=True)
    scale = np.maximum(largest, IDLE * largest.max()) + np.finfo(np.float32).tiny
    shown: Pixels = np.round(127.5 * (1 + kernels / scale)).astype(np.uint8)
    return shown


def picture(filters: Filters) -> bytes:
    """The kernels as a PNG of tiles."""
    shown = coloured(filters.shown())
    side = max(SIDE // shown.shape[1], 1) * shown.shape[1]
    return contact_sheet.sheet(list(shown), max(1, SHEET // (side + contact_sheet.GAP)), side)


def sentence(filters: Filters) -> str:
    """What they are, for a person."""
    n, tall, wide = filters.kernels.shape[:3]
    many = f"All {n}" if n <= MOST else f"The {MOST} strongest of {n}"
    what = (
        f"units of the first layer, each with a weight for every one of {wide}x{tall} pixels"
        if filters.whole
        else (f"kernels of the first layer, {wide}x{tall} pixels each")
    )
    idle = f" Next to zero: {filters.n_idle} of them." if filters.n_idle else ""
    return f"{many} {what}. Grey is a weight of 0; a colour is what the kernel answers to.{idle}"

"""Arithmetic of convolution and pooling layers: output sizes, weights, multiply-adds and receptive fields. No torch.

Every pair is (height, width). The recursion follows Araujo, Norris and Sim, Computing Receptive Fields of Convolutional
Neural Networks (Distill, 2019).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Pair = tuple[int, int]
Box = tuple[int, int, int, int]  # (left, top, right, bottom); right and bottom are exclusive


def output_size(n: int, kernel: int, stride: int = 1, padding: float = 0, dilation: int = 1) -> int:
    """The output size along one axis of `n` cells: floor((n + 2p - d(f - 1) - 1) / s) + 1.

    Args:
        padding: cells added at each end; 0.5 means one cell in total.
    """
    return math.floor((n + 2 * padding - dilation * (kernel - 1) - 1) / stride) + 1


def ceil_padding(n: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Pair:
    """The effective padding, (before, after), of a pooling layer with torch's `ceil_mode`.

    Torch drops a last window that would start in the padding after the input.
    """
    extent = dilation * (kernel - 1) + 1
    n_outputs = math.ceil((n + 2 * padding - extent) / stride) + 1
    if (n_outputs - 1) * stride >= n + padding:
        n_outputs -= 1
    return padding, padding + max(0, (n_outputs - 1) * stride + extent - n - 2 * padding)


def conv_weights(kernel: Pair, c_in: int, c_out: int, groups: int = 1, bias: bool = True) -> int:
    """The number of weights of a convolution: (f * f * c_in / groups + 1) * c_out."""
    return (kernel[0] * kernel[1] * c_in // groups + int(bias)) * c_out


def conv_multiply_adds(kernel: Pair, c_in: int, output: Pair, c_out: int, groups: int = 1) -> int:
    """The multiply-adds of a convolution with an output map of (height, width) `output`."""
    return kernel[0] * kernel[1] * (c_in // groups) * output[0] * output[1] * c_out


def linear_weights(d_in: int, d_out: int, bias: bool = True) -> int:
    """The number of weights of a fully connected layer, which is a 1x1 convolution on one position."""
    return conv_weights((1, 1), d_in, d_out, bias=bias)


@dataclass(frozen=True)
class SlidingWindow:
    """The sliding window of a convolution or pooling layer.

    Attributes:
        pad_before: cells of padding at the top and on the left.
        pad_after: cells of padding at the bottom and on the right; these differ with `ceil_mode` and in TensorFlow.
    """

    kernel: Pair
    stride: Pair = (1, 1)
    pad_before: Pair = (0, 0)
    pad_after: Pair = (0, 0)
    dilation: Pair = (1, 1)

    @property
    def padding(self) -> tuple[float, float]:
        """The mean of the padding at both ends: p in the formula."""
        return (self.pad_before[0] + self.pad_after[0]) / 2, (self.pad_before[1] + self.pad_after[1]) / 2

    def output(self, size: Pair) -> Pair:
        """The output size on a map of `size` cells."""
        height, width = zip(size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return output_size(*height), output_size(*width)


@dataclass(frozen=True)
class ReceptiveField:
    """The input pixels that each position of a feature map can depend on, including padding around the image.

    Attributes:
        size: pixels.
        stride: pixels between the fields of adjacent positions; 0 if all positions share one field.
        offset: pixels from the image edge to the center of the first position's field. Pixel 0 extends from 0 to 1.
    """

    size: Pair = (1, 1)
    stride: Pair = (1, 1)
    offset: tuple[float, float] = (0.5, 0.5)

    def after(self, window: SlidingWindow) -> "ReceptiveField":
        """The field after one more layer: the size grows by d(f - 1) strides, and the stride is multiplied by s."""
        top, left = self._start
        stride_y, stride_x = self.stride
        grow_y, grow_x = (dilation * (n - 1) for dilation, n in zip(window.dilation, window.kernel, strict=True))
        height, width = self.size[0] + grow_y * stride_y, self.size[1] + grow_x * stride_x
        stride = (stride_y * window.stride[0], stride_x * window.stride[1])
        return _field(top - window.pad_before[0] * stride_y, left - window.pad_before[1] * stride_x, height, width, stride)

    def box(self, row: int, column: int) -> Box:
        """The field of one position: (left, top, right, bottom) in pixels, not clipped to the image."""
        top, left = self._start[0] + row * self.stride[0], self._start[1] + column * self.stride[1]
        return left, top, left + self.size[1], top + self.size[0]

    @property
    def _start(self) -> Pair:
        """The top left corner of the first position's field: (top, left)."""
        return round(self.offset[0] - self.size[0] / 2), round(self.offset[1] - self.size[1] / 2)

    def pooled(self, map_size: Pair, image_size: Pair) -> "ReceptiveField":
        """The field after pooling over all positions of a map, clipped to the image; usually the whole image."""
        left, top, _, _ = self.box(0, 0)
        _, _, right, bottom = self.box(map_size[0] - 1, map_size[1] - 1)
        left, top = max(0, left), max(0, top)
        return _field(top, left, min(image_size[0], bottom) - top, min(image_size[1], right) - left, (0, 0))


def full_image_field(image_size: Pair) -> ReceptiveField:
    """The field that covers the whole image."""
    return _field(0, 0, *image_size, (0, 0))


def union(fields: Sequence[ReceptiveField]) -> ReceptiveField:
    """The field where branches join: the smallest field that contains all of theirs.

    If a branch has the same field at every position, that field is the whole image and the other branches add nothing.

    Raises:
        ValueError: if the branches have different strides, so that no single field describes their sum.
    """
    shared = [field for field in fields if field.stride == (0, 0)]
    relevant = shared or fields
    strides = {field.stride for field in relevant}
    if len(strides) != 1:
        raise ValueError(f"Branches with receptive-field strides of {sorted(strides)} pixels have no field in common.")
    lefts, tops, rights, bottoms = zip(*(field.box(0, 0) for field in relevant), strict=True)
    return _field(min(tops), min(lefts), max(bottoms) - min(tops), max(rights) - min(lefts), strides.pop())


def _field(top: int, left: int, height: int, width: int, stride: Pair) -> ReceptiveField:
    return ReceptiveField((height, width), stride, (top + height / 2, left + width / 2))

"""What a sliding window does: sizes, weights, multiply-adds, and which pixels of the image an output sees. No torch.

Every pair is (down, across). The recursion is that of Araujo, Norris and Sim, Computing Receptive Fields of Convolutional
Neural Networks (Distill, 2019).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Pair = tuple[int, int]
Box = tuple[int, int, int, int]  # (left, top, right, bottom), where right and bottom are not inside


def output_size(n: int, kernel: int, stride: int = 1, padding: float = 0, dilation: int = 1) -> int:
    """How many places a window of `kernel` cells finds along `n` cells: floor((n + 2p - d(f - 1) - 1) / s) + 1.

    Args:
        padding: cells added to each end; 0.5 means one in all.
    """
    return math.floor((n + 2 * padding - dilation * (kernel - 1) - 1) / stride) + 1


def same_padding(n: int, kernel: int, stride: int = 1, dilation: int = 1) -> Pair:
    """The cells before and after `n` of them with which a window finds ceil(n / stride) places, as TensorFlow pads."""
    missing = max(0, (math.ceil(n / stride) - 1) * stride + dilation * (kernel - 1) + 1 - n)
    return missing // 2, missing - missing // 2


def ceil_padding(n: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Pair:
    """The cells before and after `n` of them that rounding up (`ceil_mode`) comes to.

    A last window that began in the padding after the cells would see none of them, so there is none.
    """
    reach = dilation * (kernel - 1) + 1
    places = math.ceil((n + 2 * padding - reach) / stride) + 1
    if (places - 1) * stride >= n + padding:
        places -= 1
    return padding, padding + max(0, (places - 1) * stride + reach - n - 2 * padding)


def conv_weights(kernel: Pair, c_in: int, c_out: int, groups: int = 1, bias: bool = True) -> int:
    """The numbers that a convolution learns: (f * f * c_in / groups + 1) * c_out."""
    return (kernel[0] * kernel[1] * c_in // groups + int(bias)) * c_out


def conv_multiply_adds(kernel: Pair, c_in: int, output: Pair, c_out: int, groups: int = 1) -> int:
    """The multiplications, each with its addition, by which a convolution fills a map of `output` places."""
    return kernel[0] * kernel[1] * (c_in // groups) * output[0] * output[1] * c_out


def linear_weights(d_in: int, d_out: int, bias: bool = True) -> int:
    """The numbers that a fully connected layer learns; it is a convolution of one place."""
    return conv_weights((1, 1), d_in, d_out, bias=bias)


@dataclass(frozen=True)
class Window:
    """How a convolution or a pooling slides over a map.

    Attributes:
        before: cells of padding above and to the left.
        after: cells of padding below and to the right; they differ where a size is rounded up, and in TensorFlow.
    """

    kernel: Pair
    stride: Pair = (1, 1)
    before: Pair = (0, 0)
    after: Pair = (0, 0)
    dilation: Pair = (1, 1)

    @property
    def padding(self) -> tuple[float, float]:
        """Cells of padding at each end, on average: what the formula calls p."""
        return (self.before[0] + self.after[0]) / 2, (self.before[1] + self.after[1]) / 2

    def output(self, size: Pair) -> Pair:
        """The places it finds on a map of `size` cells."""
        down, across = zip(size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return output_size(*down), output_size(*across)


@dataclass(frozen=True)
class ReceptiveField:
    """Which pixels of the image each position of a map can depend on, the padding around the image included.

    Attributes:
        size: pixels.
        stride: pixels from one position's field to the next one's; 0 where every position sees the same.
        offset: pixels from the image's edge to the centre of the first position's field. Pixel 0 reaches from 0 to 1.
    """

    size: Pair = (1, 1)
    stride: Pair = (1, 1)
    offset: tuple[float, float] = (0.5, 0.5)

    def through(self, window: Window) -> "ReceptiveField":
        """The field after one more layer: it grows by d(f - 1) strides, and the stride is s times as wide from here on."""
        top, left = self._start
        down, across = self.stride
        reach_down, reach_across = (far * (n - 1) for far, n in zip(window.dilation, window.kernel, strict=True))
        height, width = self.size[0] + reach_down * down, self.size[1] + reach_across * across
        stride = (down * window.stride[0], across * window.stride[1])
        return _field(top - window.before[0] * down, left - window.before[1] * across, height, width, stride)

    def box(self, row: int, column: int) -> Box:
        """What one position sees: (left, top, right, bottom) in pixels, not cut off at the image's edges."""
        top, left = self._start[0] + row * self.stride[0], self._start[1] + column * self.stride[1]
        return left, top, left + self.size[1], top + self.size[0]

    @property
    def _start(self) -> Pair:
        """The upper left corner of the first position's field: (top, left)."""
        return round(self.offset[0] - self.size[0] / 2), round(self.offset[1] - self.size[1] / 2)

    def over(self, positions: Pair, image: Pair) -> "ReceptiveField":
        """What is seen by all positions of a map together, within the image; mostly all of it."""
        left, top, _, _ = self.box(0, 0)
        _, _, right, bottom = self.box(positions[0] - 1, positions[1] - 1)
        left, top = max(0, left), max(0, top)
        return _field(top, left, min(image[0], bottom) - top, min(image[1], right) - left, (0, 0))


def whole(image: Pair) -> ReceptiveField:
    """The field of whatever sees all of an image."""
    return _field(0, 0, *image, (0, 0))


def union(fields: Sequence[ReceptiveField]) -> ReceptiveField:
    """What is seen where branches meet: the smallest field that holds all of theirs.

    A branch that sees the same from every position sees the whole image, so there the others add nothing.

    Raises:
        ValueError: if their positions are not equally far apart, so that no single field describes the sum.
    """
    fixed = [field for field in fields if field.stride == (0, 0)]
    joined = fixed or fields
    strides = {field.stride for field in joined}
    if len(strides) != 1:
        raise ValueError(f"Branches whose positions are {sorted(strides)} pixels apart have no field in common.")
    lefts, tops, rights, bottoms = zip(*(field.box(0, 0) for field in joined), strict=True)
    return _field(min(tops), min(lefts), max(bottoms) - min(tops), max(rights) - min(lefts), strides.pop())


def _field(top: int, left: int, height: int, width: int, stride: Pair) -> ReceptiveField:
    return ReceptiveField((height, width), stride, (top + height / 2, left + width / 2))

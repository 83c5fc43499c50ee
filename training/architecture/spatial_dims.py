"""Tracks which tensor dimensions run along the image's height and width through reshape, permute, select and slice."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from graft.training.architecture.receptive_field import Pair, ReceptiveField, SlidingWindow

if TYPE_CHECKING:
    from torch import Tensor

HEIGHT, WIDTH = "height", "width"
PARTIAL = "partial"  # an axis that was split into several dimensions, as in window attention
NO_AXES: frozenset[str] = frozenset()
MAP_AXES = (frozenset({HEIGHT}), frozenset({WIDTH}))


@dataclass(frozen=True)
class TensorInfo:
    """The spatial layout and receptive field of a tensor that depends on the image.

    Attributes:
        axes: for each dimension of the tensor, the axes of the map that it runs along: none, one, or both.
        size: the map's rows and columns, as computed.
        field: of each position; None if unknown.
        pad_before: padding at the top and on the left that was added separately and that no window has consumed yet.
        pad_after: the same at the bottom and on the right.
    """

    axes: tuple[frozenset[str], ...]
    size: Pair
    field: ReceptiveField | None
    pad_before: Pair = (0, 0)
    pad_after: Pair = (0, 0)

    def after_window(self, window: SlidingWindow) -> "TensorInfo":
        """The tensor after a sliding window."""
        field = self.field.after(window) if self.field else None
        return replace(self, size=window.output(self.size), field=field, pad_before=(0, 0), pad_after=(0, 0))

    @property
    def with_padding(self) -> "TensorInfo":
        """The tensor with its pending padding as part of the map."""
        has_padding = self.pad_before != (0, 0) or self.pad_after != (0, 0)
        return (
            self.after_window(SlidingWindow((1, 1), pad_before=self.pad_before, pad_after=self.pad_after))
            if has_padding
            else self
        )


@dataclass(frozen=True)
class Operation:
    """One call of a torch operator.

    Attributes:
        name: the operator's name without its overload: `convolution`.
        pointwise: whether torch tags the operator as pointwise.
        arguments: by name, including defaults.
        inputs: the tensors among the arguments that depend on the image.
        out: the first result.
        image_size: the image's height and width.
    """

    name: str
    pointwise: bool
    arguments: Mapping[str, Any]
    inputs: Sequence[tuple["Tensor", TensorInfo]]
    out: "Tensor"
    image_size: Pair

    def info(self, argument: str) -> TensorInfo | None:
        """The info of one argument; None if it does not depend on the image."""
        return next((info for tensor, info in self.inputs if tensor is self.arguments[argument]), None)


def unknown_info(tensor: "Tensor") -> TensorInfo:
    """The info of a tensor that depends on the image in an unknown way."""
    return TensorInfo((NO_AXES,) * tensor.ndim, (1, 1), None)


def mix_positions(info: TensorInfo, along: frozenset[str], operation: Operation) -> TensorInfo:
    """The tensor after an operation that mixes all positions along some axes."""
    if not along or info.field is None:
        return info
    field = info.field.pooled(info.size, operation.image_size) if along == {HEIGHT, WIDTH} else None
    return replace(info, field=field)


def reshape(operation: Operation) -> TensorInfo:
    """A new shape; the values keep their order."""
    [(tensor, info), *_] = operation.inputs
    info = info.with_padding
    return replace(info, axes=regroup_axes(info, tensor.shape, operation.out.shape))


def regroup_axes(info: TensorInfo, old: Sequence[int], new: Sequence[int]) -> tuple[frozenset[str], ...]:
    """The axes after a reshape: matches groups of old and new dimensions that have the same product."""
    axes: list[frozenset[str]] = []
    old_dims, new_dims = list(zip(old, info.axes, strict=True)), list(new)
    while new_dims:
        old_group, new_group = ([old_dims.pop(0)] if old_dims else []), [new_dims.pop(0)]
        while math.prod(n for n, _ in old_group) != math.prod(new_group):
            if math.prod(n for n, _ in old_group) < math.prod(new_group):
                old_group.append(old_dims.pop(0))
            else:
                new_group.append(new_dims.pop(0))
        axes += _split_axis(NO_AXES.union(*(axis for _, axis in old_group)), new_group, info.size)
    return tuple(axes)


def _split_axis(axis: frozenset[str], new_dims: Sequence[int], size: Pair) -> list[frozenset[str]]:
    """Assigns the axes of one group of old dimensions to its new dimensions."""
    non_trivial = [n for n in new_dims if n > 1]
    if not axis or len(non_trivial) < 2:
        # A dimension of size 1 may be part of the group.
        return [axis if n > 1 or len(new_dims) == 1 else NO_AXES for n in new_dims]
    if axis == {HEIGHT, WIDTH} and tuple(new_dims) == size:
        return list(MAP_AXES)
    return [axis | {PARTIAL} if n > 1 else NO_AXES for n in new_dims]


def permute(operation: Operation) -> TensorInfo:
    """A new order of the dimensions."""
    [(_, info), *_] = operation.inputs
    info = info.with_padding
    axes = list(info.axes)
    if operation.name == "permute":
        axes = [axes[dim] for dim in operation.arguments["dims"]]
    else:
        dim0, dim1 = (0, len(axes) - 1) if operation.name == "t" else (operation.arguments["dim0"], operation.arguments["dim1"])
        axes[dim0], axes[dim1] = axes[dim1], axes[dim0]
    return replace(info, axes=tuple(axes))


def select(operation: Operation) -> TensorInfo:
    """`select` or `unbind`: indexing that removes a dimension."""
    [(_, info), *_] = operation.inputs
    axes = list(info.with_padding.axes)
    del axes[operation.arguments["dim"]]
    return replace(info.with_padding, axes=tuple(axes))


def slice_dim(operation: Operation) -> TensorInfo:
    """A part of a dimension. If it runs along the map, the positions shift, and the field becomes unknown."""
    [(tensor, info), *_] = operation.inputs
    info = info.with_padding
    dim = operation.arguments["dim"]
    shifts = info.axes[dim] in MAP_AXES and operation.out.shape[dim] != tensor.shape[dim]
    return replace(info, field=None) if shifts else info

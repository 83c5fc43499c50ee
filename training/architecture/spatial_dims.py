"""Tracks which tensor dimensions run along the image's height and width through reshape, permute, select and slice."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from graft.training.architecture.receptive_field import Pair, ReceptiveField, Window

if TYPE_CHECKING:
    from torch import Tensor

DOWN, ACROSS = "height", "width"
PART = "partial"  # an axis that was split into several dimensions, as in window attention
NONE: frozenset[str] = frozenset()
MAP = (frozenset({DOWN}), frozenset({ACROSS}))


@dataclass(frozen=True)
class Seen:
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
    before: Pair = (0, 0)
    after: Pair = (0, 0)

    def through(self, window: Window) -> "Seen":
        """The tensor after a sliding window."""
        field = self.field.through(window) if self.field else None
        return replace(self, size=window.output(self.size), field=field, before=(0, 0), after=(0, 0))

    @property
    def settled(self) -> "Seen":
        """The tensor with its pending padding as part of the map."""
        has_padding = self.before != (0, 0) or self.after != (0, 0)
        return self.through(Window((1, 1), before=self.before, after=self.after)) if has_padding else self


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
    given: Mapping[str, Any]
    inputs: Sequence[tuple["Tensor", Seen]]
    out: "Tensor"
    image: Pair

    def seen(self, argument: str) -> Seen | None:
        """The info of one argument; None if it does not depend on the image."""
        return next((info for tensor, info in self.inputs if tensor is self.given[argument]), None)


def unknown(tensor: "Tensor") -> Seen:
    """The info of a tensor that depends on the image in an unknown way."""
    return Seen((NONE,) * tensor.ndim, (1, 1), None)


def mixed(seen: Seen, along: frozenset[str], operation: Operation) -> Seen:
    """The tensor after an operation that mixes all positions along some axes."""
    if not along or seen.field is None:
        return seen
    field = seen.field.over(seen.size, operation.image) if along == {DOWN, ACROSS} else None
    return replace(seen, field=field)


def reshaped(operation: Operation) -> Seen:
    """A new shape; the values keep their order."""
    [(tensor, info), *_] = operation.inputs
    info = info.settled
    return replace(info, axes=regrouped(info, tensor.shape, operation.out.shape))


def regrouped(seen: Seen, old: Sequence[int], new: Sequence[int]) -> tuple[frozenset[str], ...]:
    """The axes after a reshape: matches groups of old and new dimensions that have the same product."""
    axes: list[frozenset[str]] = []
    old_dims, new_dims = list(zip(old, seen.axes, strict=True)), list(new)
    while new_dims:
        old_group, new_group = ([old_dims.pop(0)] if old_dims else []), [new_dims.pop(0)]
        while math.prod(n for n, _ in old_group) != math.prod(new_group):
            if math.prod(n for n, _ in old_group) < math.prod(new_group):
                old_group.append(old_dims.pop(0))
            else:
                new_group.append(new_dims.pop(0))
        axes += _shared_out(NONE.union(*(axis for _, axis in old_group)), new_group, seen.size)
    return tuple(axes)


def _shared_out(axis: frozenset[str], wide: Sequence[int], size: Pair) -> list[frozenset[str]]:
    """Assigns the axes of one group of old dimensions to its new dimensions."""
    non_trivial = [n for n in wide if n > 1]
    if not axis or len(non_trivial) < 2:
        # A dimension of size 1 may be part of the group.
        return [axis if n > 1 or len(wide) == 1 else NONE for n in wide]
    if axis == {DOWN, ACROSS} and tuple(wide) == size:
        return list(MAP)
    return [axis | {PART} if n > 1 else NONE for n in wide]


def permuted(operation: Operation) -> Seen:
    """A new order of the dimensions."""
    [(_, info), *_] = operation.inputs
    info = info.settled
    axes = list(info.axes)
    if operation.name == "permute":
        axes = [axes[dim] for dim in operation.given["dims"]]
    else:
        dim0, dim1 = (0, len(axes) - 1) if operation.name == "t" else (operation.given["dim0"], operation.given["dim1"])
        axes[dim0], axes[dim1] = axes[dim1], axes[dim0]
    return replace(info, axes=tuple(axes))


def picked(operation: Operation) -> Seen:
    """`select` or `unbind`: indexing that removes a dimension."""
    [(_, info), *_] = operation.inputs
    axes = list(info.settled.axes)
    del axes[operation.given["dim"]]
    return replace(info.settled, axes=tuple(axes))


def sliced(operation: Operation) -> Seen:
    """A part of a dimension. If it runs along the map, the positions shift, and the field becomes unknown."""
    [(tensor, info), *_] = operation.inputs
    info = info.settled
    dim = operation.given["dim"]
    shifts = info.axes[dim] in MAP and operation.out.shape[dim] != tensor.shape[dim]
    return replace(info, field=None) if shifts else info

"""Operations that change a tensor's shape or the order of its dimensions -> where its positions lie afterwards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from graft.training.architecture.receptive_field import Pair, ReceptiveField, Window

if TYPE_CHECKING:
    from torch import Tensor

import math

DOWN, ACROSS = "down", "across"
PART = "part"  # of an axis that was cut into several, as windows of attention are
NONE: frozenset[str] = frozenset()
MAP = (frozenset({DOWN}), frozenset({ACROSS}))


@dataclass(frozen=True)
class Seen:
    """What is known of a tensor that depends on the image.

    Attributes:
        axes: for each of its dimensions, along which of the map's two it runs: none of them, one, or both.
        size: the map's rows and columns, as our arithmetic says.
        field: of each position; None where it is not known.
        before: padding above and to the left that was laid on, and that no window has used yet.
        after: the same below and to the right.
    """

    axes: tuple[frozenset[str], ...]
    size: Pair
    field: ReceptiveField | None
    before: Pair = (0, 0)
    after: Pair = (0, 0)

    def through(self, window: Window) -> "Seen":
        """After a window has slid over the map."""
        field = self.field.through(window) if self.field else None
        return replace(self, size=window.output(self.size), field=field, before=(0, 0), after=(0, 0))

    @property
    def settled(self) -> "Seen":
        """With its padding as part of the map."""
        padded = self.before != (0, 0) or self.after != (0, 0)
        return self.through(Window((1, 1), before=self.before, after=self.after)) if padded else self


@dataclass(frozen=True)
class Operation:
    """One call of torch's.

    Attributes:
        name: torch's own of the operation, without its variant: `convolution`.
        pointwise: whether torch says that each number of its result depends on those in the same place alone.
        given: its arguments by name, those that were left out too.
        inputs: the tensors among them that depend on the image.
        out: its first result.
        image: the image's height and width.
    """

    name: str
    pointwise: bool
    given: Mapping[str, Any]
    inputs: Sequence[tuple["Tensor", Seen]]
    out: "Tensor"
    image: Pair

    def seen(self, argument: str) -> Seen | None:
        """What is known of one argument."""
        return next((seen for tensor, seen in self.inputs if tensor is self.given[argument]), None)


def unknown(tensor: "Tensor") -> Seen:
    """What is known of a tensor of which nothing is but that it depends on the image."""
    return Seen((NONE,) * tensor.ndim, (1, 1), None)


def mixed(seen: Seen, along: frozenset[str], operation: Operation) -> Seen:
    """After all cells along some axes were mixed."""
    if not along or seen.field is None:
        return seen
    field = seen.field.over(seen.size, operation.image) if along == {DOWN, ACROSS} else None
    return replace(seen, field=field)


def reshaped(operation: Operation) -> Seen:
    """The same numbers in the same order, in another shape."""
    [(tensor, seen), *_] = operation.inputs
    seen = seen.settled
    return replace(seen, axes=regrouped(seen, tensor.shape, operation.out.shape))


def regrouped(seen: Seen, old: Sequence[int], new: Sequence[int]) -> tuple[frozenset[str], ...]:
    """The axes of a tensor whose shape is read otherwise, its numbers staying in their order."""
    found: list[frozenset[str]] = []
    left, right = list(zip(old, seen.axes, strict=True)), list(new)
    while right:
        group, wide = ([left.pop(0)] if left else []), [right.pop(0)]
        while math.prod(n for n, _ in group) != math.prod(wide):
            if math.prod(n for n, _ in group) < math.prod(wide):
                group.append(left.pop(0))
            else:
                wide.append(right.pop(0))
        found += _shared_out(NONE.union(*(axis for _, axis in group)), wide, seen.size)
    return tuple(found)


def _shared_out(axis: frozenset[str], wide: Sequence[int], size: Pair) -> list[frozenset[str]]:
    cut = [n for n in wide if n > 1]
    if not axis or len(cut) < 2:
        # A dimension of one cell may have been left beside it.
        return [axis if n > 1 or len(wide) == 1 else NONE for n in wide]
    if axis == {DOWN, ACROSS} and tuple(wide) == size:
        return list(MAP)
    return [axis | {PART} if n > 1 else NONE for n in wide]


def permuted(operation: Operation) -> Seen:
    """Dimensions in another order."""
    [(_, seen), *_] = operation.inputs
    seen = seen.settled
    axes = list(seen.axes)
    if operation.name == "permute":
        axes = [axes[dim] for dim in operation.given["dims"]]
    else:
        one, other = (0, len(axes) - 1) if operation.name == "t" else (operation.given["dim0"], operation.given["dim1"])
        axes[one], axes[other] = axes[other], axes[one]
    return replace(seen, axes=tuple(axes))


def picked(operation: Operation) -> Seen:
    """One index along a dimension, or one after the other, which takes the dimension away."""
    [(_, seen), *_] = operation.inputs
    axes = list(seen.settled.axes)
    del axes[operation.given["dim"]]
    return replace(seen.settled, axes=tuple(axes))


def sliced(operation: Operation) -> Seen:
    """Part of a dimension; where it is the map's, the positions stand elsewhere from then on."""
    [(tensor, seen), *_] = operation.inputs
    seen = seen.settled
    dim = operation.given["dim"]
    moved = seen.axes[dim] in MAP and operation.out.shape[dim] != tensor.shape[dim]
    return replace(seen, field=None) if moved else seen

"""Operations that change a tensor's shape or the order of its dimensions -> where its positions lie afterwards."""

import math
from collections.abc import Sequence
from dataclasses import replace

from training.positions import ACROSS, DOWN, MAP, NONE, PART, Operation, Seen
from training.receptive import Pair


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

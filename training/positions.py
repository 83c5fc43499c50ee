"""What is known of a tensor that depends on the image: where its positions lie in its shape, and what each can see."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from training.receptive import Pair, ReceptiveField, Window

if TYPE_CHECKING:
    from torch import Tensor

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

"""A network's layers as records: one operation of torch's -> its sizes, weights and operations, by our own arithmetic."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graft.training.architecture import op_rules
from graft.training.architecture.receptive_field import Pair, ReceptiveField, conv_multiply_adds, conv_weights, linear_weights
from graft.training.architecture.spatial_dims import ACROSS, DOWN, Operation, Seen

if TYPE_CHECKING:
    from torch import Tensor


KINDS: Mapping[str, str] = {
    "max_pool2d_with_indices": "max pool",
    "adaptive_max_pool2d": "max pool",
    "avg_pool2d": "average pool",
    "_adaptive_avg_pool2d": "average pool",
    "native_batch_norm": "batch norm",
    "_native_batch_norm_legit_no_training": "batch norm",
    "native_layer_norm": "layer norm",
    "native_group_norm": "group norm",
    "cat": "concat",
}
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "_scaled_dot_product_flash_attention_for_cpu")


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        name: the torch module's.
        kind: such as `convolution` or `max pool`.
        output: height, width, channels; of tokens: their number, 1, channels.
        receptive_field: of each position; None where it is not known.
        weights: numbers that are learned.
        multiply_adds: of one image; norms count none, because they can be folded into what precedes them.
        kernel: (height, width) of the window, if one slides over the map, which then has stride and padding too.
        padding: cells at each end; 0.5 where one is added, at the end alone.
    """

    name: str
    kind: str
    output: tuple[int, int, int]
    receptive_field: ReceptiveField | None
    weights: int = 0
    multiply_adds: int = 0
    kernel: Pair | None = None
    stride: Pair | None = None
    padding: tuple[float, float] | None = None


@dataclass(frozen=True)
class Anatomy:
    """A network's layers in the order in which they run, and what they come to.

    Attributes:
        image: the input's height and width in pixels.
        n_bytes: of all weights and statistics in memory.
    """

    layers: tuple[Layer, ...]
    image: Pair
    weights: int
    n_bytes: int

    @property
    def multiply_adds(self) -> int:
        """Of one image."""
        return sum(layer.multiply_adds for layer in self.layers)


def layer(name: str, operation: Operation, seen: Seen, fresh: Mapping[str, int]) -> Layer | None:
    """The layer that an operation is; None if it is none of its own, as ReLU is not.

    Args:
        name: of the module that it runs in.
        seen: what is known of its result.
        fresh: sizes, by name, of the learned weights that it is the first to use.
    """
    output, field = _output(operation.out, seen), seen.field
    if operation.name == "convolution":
        return _convolution(name, operation, seen, bool(fresh))
    if operation.name in PRODUCTS:
        return _product(name, operation, seen, bool(fresh))
    kind, window = KINDS.get(operation.name), None
    if operation.name == "mean":
        window = op_rules.all_over(operation)
        kind = "global pool" if window else None
    elif kind and kind.endswith("pool"):
        window = op_rules.window(operation)
    if kind is None and not fresh:
        return None
    kind = kind or ("scale" if operation.name.startswith("mul") else "learned")
    named, weights = name or ", ".join(sorted(fresh)) or kind, sum(fresh.values())
    if window is None:
        return Layer(named, kind, output, field, weights)
    return Layer(named, kind, output, field, weights, 0, window.kernel, window.stride, window.padding)


def _convolution(name: str, operation: Operation, seen: Seen, fresh: bool) -> Layer:
    weight: Tensor = operation.given["weight"]
    groups, c_out = operation.given["groups"], weight.shape[0]
    c_in, window = weight.shape[1] * groups, op_rules.window(operation)
    cells = (1, math.prod(weight.shape[2:])) if window is None else window.kernel
    depthwise = 1 < groups == c_in
    kind = "depthwise" if depthwise else "grouped" if groups > 1 else "convolution"
    height, width, _ = _output(operation.out, seen)
    weights = conv_weights(cells, c_in, c_out, groups, operation.given["bias"] is not None) if fresh else 0
    operations = conv_multiply_adds(cells, c_in, (height, width), c_out, groups)
    output = (height, width, c_out)
    if window is None:
        return Layer(name, kind, output, seen.field, weights, operations)
    return Layer(name, kind, output, seen.field, weights, operations, window.kernel, window.stride, window.padding)


def _product(name: str, operation: Operation, seen: Seen, fresh: bool) -> Layer:
    output, out = _output(operation.out, seen), operation.out
    if len(operation.inputs) == 1:
        [(tensor, _)] = operation.inputs
        d_in, d_out = tensor.shape[-1], out.shape[-1]
        weights = linear_weights(d_in, d_out, "self" in operation.given and operation.name == "addmm") if fresh else 0
        return Layer(name, "linear", output, seen.field, weights, out.numel() * d_in)
    if operation.name.startswith("_scaled"):
        query, key = operation.given["query"], operation.given["key"]
        return Layer(name, "attention", output, seen.field, 0, 2 * query.numel() * key.shape[-2])
    shared = operation.inputs[0][0].shape[-1]
    return Layer(name, "attention", output, seen.field, 0, out.numel() * shared)


def _output(tensor: "Tensor", seen: Seen) -> tuple[int, int, int]:
    """Height, width and channels, by our arithmetic where the map's two axes stand apart."""
    along = [axis for axis in seen.axes if axis]
    if {frozenset({DOWN}), frozenset({ACROSS})} <= set(along):
        height, width = seen.size
    else:
        height, width = math.prod(n for n, axis in zip(tensor.shape, seen.axes, strict=True) if axis), 1
    return height, width, tensor.numel() // (height * width)


def merged(layers: list[Layer], new: Layer) -> list[Layer]:
    """With one more layer; attention's two products are one, and what a bias adds belongs to its layer."""
    last = layers[-1] if layers else None
    if last and last.name == new.name and (new.kind == last.kind == "attention" or new.kind == "learned"):
        kind = last.kind if new.kind == "learned" else new.kind
        operations = last.multiply_adds + new.multiply_adds
        joined = Layer(
            new.name,
            kind,
            new.output,
            new.receptive_field,
            last.weights + new.weights,
            operations,
            last.kernel,
            last.stride,
            last.padding,
        )
        return [*layers[:-1], joined]
    return [*layers, new]


Shape = tuple[int, ...]  # of a map: channels, height, width


def fields(anatomy: Anatomy, modules: Mapping[str, str], shapes: Mapping[str, Shape]) -> dict[str, ReceptiveField]:
    """The receptive field of each stage's map; stages of which it is not known are left out.

    Where branches meet, as behind a shortcut, that of the branch that sees most.

    Args:
        modules: by stage, the name of the module that says it; "" for one that the whole network says.
        shapes: of each stage's map.
    """
    found = {stage: _widest(anatomy, modules.get(stage, ""), shape) for stage, shape in shapes.items()}
    return {stage: field for stage, field in found.items() if field is not None}


def _widest(anatomy: Anatomy, module: str, shape: Shape) -> ReceptiveField | None:
    saying = [layer for layer in anatomy.layers if _says(layer, shape)]
    # A stage that ends in a module without layers, as VGG's in a ReLU, is the end of what has its shape.
    inside = [layer for layer in saying if _within(layer, module)] or saying
    known = [layer.receptive_field for layer in inside if layer.receptive_field is not None]
    return max(known, key=lambda field: field.size) if inside and len(known) == len(inside) else None


def _within(layer: Layer, module: str) -> bool:
    return not module or f"{layer.name}.".startswith(f"{module}.")


def _says(layer: Layer, shape: Shape) -> bool:
    """Whether a layer's output is a map of that shape, or as many tokens of that width, one of their own perhaps among them."""
    depth, tall, wide = shape
    return layer.output == (tall, wide, depth) or (
        layer.output[1:] == (1, depth) and layer.output[0] - tall * wide in (0, 1, 2)
    )

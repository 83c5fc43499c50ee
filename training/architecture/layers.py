"""Layer records of a model summary: converts a torch operation to sizes, weights and multiply-adds, computed by formula."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graft.training.architecture import op_rules
from graft.training.architecture.receptive_field import Pair, ReceptiveField, conv_multiply_adds, conv_weights, linear_weights
from graft.training.architecture.spatial_dims import HEIGHT, WIDTH, Operation, TensorInfo

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
MATMULS = ("mm", "addmm", "bmm", "baddbmm", "_scaled_dot_product_flash_attention_for_cpu")


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        name: of the torch module.
        kind: such as `convolution` or `max pool`.
        output: height, width, channels; for tokens: number of tokens, 1, channels.
        receptive_field: of each position; None if unknown.
        weights: number of learned parameters.
        multiply_adds: for one image; 0 for norms, because they can be folded into the layer before them.
        kernel: (height, width) of the sliding window; None if there is none, and then no stride and padding either.
        padding: cells at each end; 0.5 if one cell is added at one end only.
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
class ModelSummary:
    """The layers of a network in execution order, and their totals.

    Attributes:
        image_size: height and width of the input in pixels.
        n_bytes: memory of all parameters and buffers.
    """

    layers: tuple[Layer, ...]
    image_size: Pair
    weights: int
    n_bytes: int

    @property
    def multiply_adds(self) -> int:
        """The multiply-adds for one image."""
        return sum(layer.multiply_adds for layer in self.layers)


def make_layer(name: str, operation: Operation, info: TensorInfo, new_weights: Mapping[str, int]) -> Layer | None:
    """Converts an operation to a layer; None if it is not listed as one, such as ReLU.

    Args:
        name: of the module that runs the operation.
        info: of the operation's result.
        new_weights: sizes, by name, of the parameters that no earlier operation used.
    """
    output, field = _output_shape(operation.out, info), info.field
    if operation.name == "convolution":
        return _convolution(name, operation, info, bool(new_weights))
    if operation.name in MATMULS:
        return _matmul(name, operation, info, bool(new_weights))
    kind, window = KINDS.get(operation.name), None
    if operation.name == "mean":
        window = op_rules.global_pool_window(operation)
        kind = "global pool" if window else None
    elif kind and kind.endswith("pool"):
        window = op_rules.sliding_window(operation)
    if kind is None and not new_weights:
        return None
    kind = kind or ("scale" if operation.name.startswith("mul") else "learned")
    layer_name, weights = name or ", ".join(sorted(new_weights)) or kind, sum(new_weights.values())
    if window is None:
        return Layer(layer_name, kind, output, field, weights)
    return Layer(layer_name, kind, output, field, weights, 0, window.kernel, window.stride, window.padding)


def _convolution(name: str, operation: Operation, info: TensorInfo, first_use: bool) -> Layer:
    weight: Tensor = operation.arguments["weight"]
    groups, c_out = operation.arguments["groups"], weight.shape[0]
    c_in, window = weight.shape[1] * groups, op_rules.sliding_window(operation)
    kernel = (1, math.prod(weight.shape[2:])) if window is None else window.kernel
    depthwise = 1 < groups == c_in
    kind = "depthwise" if depthwise else "grouped" if groups > 1 else "convolution"
    height, width, _ = _output_shape(operation.out, info)
    weights = conv_weights(kernel, c_in, c_out, groups, operation.arguments["bias"] is not None) if first_use else 0
    multiply_adds = conv_multiply_adds(kernel, c_in, (height, width), c_out, groups)
    output = (height, width, c_out)
    if window is None:
        return Layer(name, kind, output, info.field, weights, multiply_adds)
    return Layer(name, kind, output, info.field, weights, multiply_adds, window.kernel, window.stride, window.padding)


def _matmul(name: str, operation: Operation, info: TensorInfo, first_use: bool) -> Layer:
    output, out = _output_shape(operation.out, info), operation.out
    if len(operation.inputs) == 1:
        [(tensor, _)] = operation.inputs
        d_in, d_out = tensor.shape[-1], out.shape[-1]
        weights = linear_weights(d_in, d_out, "self" in operation.arguments and operation.name == "addmm") if first_use else 0
        return Layer(name, "linear", output, info.field, weights, out.numel() * d_in)
    if operation.name.startswith("_scaled"):
        query, key = operation.arguments["query"], operation.arguments["key"]
        return Layer(name, "attention", output, info.field, 0, 2 * query.numel() * key.shape[-2])
    inner = operation.inputs[0][0].shape[-1]
    return Layer(name, "attention", output, info.field, 0, out.numel() * inner)


def _output_shape(tensor: "Tensor", info: TensorInfo) -> tuple[int, int, int]:
    """Height, width and channels; computed by formula where height and width are separate dimensions."""
    spatial_axes = [axis for axis in info.axes if axis]
    if {frozenset({HEIGHT}), frozenset({WIDTH})} <= set(spatial_axes):
        height, width = info.size
    else:
        height, width = math.prod(n for n, axis in zip(tensor.shape, info.axes, strict=True) if axis), 1
    return height, width, tensor.numel() // (height * width)


def merge_layer(layers: list[Layer], new: Layer) -> list[Layer]:
    """Appends a layer. The two products of attention become one layer, and a separate bias joins its layer."""
    last = layers[-1] if layers else None
    if last and last.name == new.name and (new.kind == last.kind == "attention" or new.kind == "learned"):
        kind = last.kind if new.kind == "learned" else new.kind
        multiply_adds = last.multiply_adds + new.multiply_adds
        combined = Layer(
            new.name,
            kind,
            new.output,
            new.receptive_field,
            last.weights + new.weights,
            multiply_adds,
            last.kernel,
            last.stride,
            last.padding,
        )
        return [*layers[:-1], combined]
    return [*layers, new]


Shape = tuple[int, ...]  # of a feature map: channels, height, width


def stage_receptive_fields(
    summary: ModelSummary, modules: Mapping[str, str], shapes: Mapping[str, Shape]
) -> dict[str, ReceptiveField]:
    """The receptive field of each stage's feature map; stages with an unknown field are left out.

    Where branches join, as after a shortcut, it is the largest field among the branches.

    Args:
        modules: by stage, the name of the module that outputs it; "" for an output of the whole network.
        shapes: shape of each stage's map.
    """
    by_stage = {stage: _largest_field(summary, modules.get(stage, ""), shape) for stage, shape in shapes.items()}
    return {stage: field for stage, field in by_stage.items() if field is not None}


def _largest_field(summary: ModelSummary, module: str, shape: Shape) -> ReceptiveField | None:
    matching = [layer for layer in summary.layers if _has_shape(layer, shape)]
    # A stage may end in a module without layers, such as a ReLU in VGG. Then all layers with its shape count.
    inside = [layer for layer in matching if _is_inside(layer, module)] or matching
    known = [layer.receptive_field for layer in inside if layer.receptive_field is not None]
    return max(known, key=lambda field: field.size) if inside and len(known) == len(inside) else None


def _is_inside(layer: Layer, module: str) -> bool:
    return not module or f"{layer.name}.".startswith(f"{module}.")


def _has_shape(layer: Layer, shape: Shape) -> bool:
    """Whether a layer outputs a map of that shape, or as many tokens, possibly with one or two extra (class, distillation)."""
    channels, height, width = shape
    return layer.output == (height, width, channels) or (
        layer.output[1:] == (1, channels) and layer.output[0] - height * width in (0, 1, 2)
    )

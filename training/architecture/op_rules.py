"""Rules by torch operator: how map size and receptive field propagate.

They cover the operators of convolutional networks and transformers. After any other operator the field is unknown; it is
never guessed. As usual, two influences are ignored: a gate (squeeze-and-excitation) and the statistics of a norm depend on
the whole image, but the features that pass through them keep their field.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from graft.training.architecture import spatial_dims
from graft.training.architecture.receptive_field import Pair, SlidingWindow, ceil_padding, union
from graft.training.architecture.spatial_dims import (
    HEIGHT,
    MAP_AXES,
    NO_AXES,
    WIDTH,
    Operation,
    TensorInfo,
    mix_positions,
    unknown_info,
)

if TYPE_CHECKING:
    from torch import Tensor


def propagate(operation: Operation) -> TensorInfo:
    """The info of an operation's result."""
    rule = RULES.get(operation.name, _elementwise if operation.pointwise else None)
    info = rule(operation) if rule else unknown_info(operation.out)
    return info if len(info.axes) == operation.out.ndim else unknown_info(operation.out)


def sliding_window(operation: Operation) -> SlidingWindow | None:
    """The sliding window of a convolution or pooling, including padding that was added before it.

    None if it does not slide over the map (it runs along channels), or if its windows are not all equal.
    """
    [(_, info), *_] = operation.inputs
    if info.axes[-2:] != MAP_AXES:
        return None
    arguments = operation.arguments
    if "adaptive" in operation.name:
        return _adaptive(info.with_padding.size, _to_pair(arguments["output_size"]))
    kernel = arguments["weight"].shape[2:] if operation.name == "convolution" else _to_pair(arguments["kernel_size"])
    stride = _to_pair(arguments["stride"] or kernel)
    padding, dilation = _to_pair(arguments["padding"]), _to_pair(arguments.get("dilation") or 1)
    pad_before, pad_after = _add(padding, info.pad_before), _add(padding, info.pad_after)
    if arguments.get("ceil_mode"):
        axes = zip(info.size, kernel, stride, padding, dilation, strict=True)
        pad_after = _to_pair([ceil_padding(*axis)[1] for axis in axes])
    return None if arguments.get("transposed") else SlidingWindow(_to_pair(kernel), stride, pad_before, pad_after, dilation)


def _adaptive(size: Pair, output_size: Pair) -> SlidingWindow | None:
    if size[0] % output_size[0] or size[1] % output_size[1]:
        return None
    step = (size[0] // output_size[0], size[1] // output_size[1])
    return SlidingWindow(step, step)


def _conv(operation: Operation) -> TensorInfo:
    [(_, info), *_] = operation.inputs
    conv_window = sliding_window(operation)
    if conv_window:
        return info.after_window(conv_window)
    on_map = any(info.axes[2:])
    return (
        unknown_info(operation.out)
        if on_map or len(info.axes) != operation.out.ndim
        else mix_positions(info, info.axes[1], operation)
    )


def _pad(operation: Operation) -> TensorInfo:
    [(_, info), *_] = operation.inputs
    pad = [*operation.arguments["pad"], 0, 0, 0, 0]
    if info.axes[-2:] != MAP_AXES or any(pad[4:]):
        return _elementwise(operation)
    return replace(info, pad_before=_add(info.pad_before, (pad[2], pad[0])), pad_after=_add(info.pad_after, (pad[3], pad[1])))


def _reduce(operation: Operation) -> TensorInfo:
    """A reduction such as mean, sum or max over some dimensions."""
    [(_, info), *_] = operation.inputs
    info, dims = info.with_padding, _reduced_dims(operation)
    along = NO_AXES.union(*(info.axes[dim] for dim in dims))
    keepdim = operation.arguments.get("keepdim", False)
    axes = tuple(axis for dim, axis in enumerate(info.axes) if keepdim or dim not in dims)
    size = (1 if HEIGHT in along else info.size[0], 1 if WIDTH in along else info.size[1])
    return replace(mix_positions(info, along, operation), axes=axes, size=size)


def _reduced_dims(operation: Operation) -> set[int]:
    """The dimensions that a reduction removes."""
    [(tensor, _), *_] = operation.inputs
    dims = operation.arguments.get("dim")
    if dims is None or dims == []:
        return set(range(tensor.ndim))
    return {dim % tensor.ndim for dim in (dims if isinstance(dims, Sequence) else [dims])}


def global_pool_window(operation: Operation) -> SlidingWindow | None:
    """The window of a global average pool; None if a mean is not over a whole map."""
    [(_, info), *_] = operation.inputs
    along = NO_AXES.union(*(info.axes[dim] for dim in _reduced_dims(operation)))
    size = info.with_padding.size
    return SlidingWindow(size, size) if along == {HEIGHT, WIDTH} and size != (1, 1) else None


def _softmax(operation: Operation) -> TensorInfo:
    """A softmax: every result depends on all values along its dimension."""
    [(_, info), *_] = operation.inputs
    return mix_positions(info, info.axes[operation.arguments["dim"]], operation)


def _matmul(operation: Operation) -> TensorInfo:
    """A matrix product, (..., n, k) by (..., k, m); one factor may be weights."""
    names = ("mat1", "mat2") if operation.name == "addmm" else ("batch1", "batch2") if operation.name == "baddbmm" else None
    first, second = names or ("self", "mat2")
    left, right = operation.info(first), operation.info(second)
    n_axes = operation.out.ndim
    left_axes = left.axes if left else (NO_AXES,) * n_axes
    right_axes = right.axes if right else (NO_AXES,) * n_axes
    merged = _merge([info for info in (left, right) if info])
    batch_axes = (a | b for a, b in zip(left_axes[:-2], right_axes[:-2], strict=True))
    axes = (*batch_axes, left_axes[-2], right_axes[-1])
    mixed_info = mix_positions(merged, left_axes[-1] | right_axes[-2], operation)
    size = mixed_info.size if HEIGHT in left_axes[-2] | right_axes[-1] else (1, 1)
    return replace(mixed_info, axes=axes, size=size)


def _attention(operation: Operation) -> TensorInfo:
    """Fused attention: each position of the query depends on every key."""
    query, key, value = (operation.info(name) for name in ("query", "key", "value"))
    if not query or not key or not value:
        return unknown_info(operation.out)
    return replace(mix_positions(_merge([query, key, value]), key.axes[-2], operation), axes=query.axes)


def _merge(infos: Sequence[TensorInfo]) -> TensorInfo:
    """The joint info of several tensors."""
    padded = [info.with_padding for info in infos]
    fields = [info.field for info in padded if info.field]
    try:
        field = union(fields) if len(fields) == len(padded) else None
    except ValueError:  # the branches have no field in common
        field = None
    return replace(padded[0], field=field)


def _elementwise(operation: Operation) -> TensorInfo:
    """An operation that keeps every position in place. A smaller tensor broadcast over the map is a gate and is ignored."""
    shape = operation.out.shape
    n_positions = [_n_positions(tensor, info) for tensor, info in operation.inputs]
    full = [pair for pair, n in zip(operation.inputs, n_positions, strict=True) if n == max(n_positions)]
    if math.prod(shape) != max(tensor.numel() for tensor, _ in full) and len(shape) != max(t.ndim for t, _ in full):
        return unknown_info(operation.out)
    merged = _merge([info for _, info in full])
    if any(info.field is None for _, info in operation.inputs):
        merged = replace(merged, field=None)
    return replace(merged, axes=(NO_AXES,) * (len(shape) - len(merged.axes)) + merged.axes)


def _n_positions(tensor: "Tensor", info: TensorInfo) -> int:
    return math.prod(n for n, axis in zip(tensor.shape, info.axes, strict=True) if axis)


def _concat(operation: Operation) -> TensorInfo:
    return _merge([info for _, info in operation.inputs])


def _to_pair(value: Any) -> Pair:
    numbers = [value] if isinstance(value, int) else list(value)
    return int(numbers[0]), int(numbers[-1])


def _add(one: Pair, other: Pair) -> Pair:
    return one[0] + other[0], one[1] + other[1]


RULES: Mapping[str, Callable[[Operation], TensorInfo]] = {
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit_no_training", "native_layer_norm"), _elementwise),
    **dict.fromkeys(("native_group_norm", "native_dropout", "hardswish_", "_prelu_kernel"), _elementwise),
    **dict.fromkeys(("alias", "detach", "expand", "_to_copy"), _elementwise),
    **dict.fromkeys(("convolution", "max_pool2d_with_indices", "avg_pool2d"), _conv),
    **dict.fromkeys(("_adaptive_avg_pool2d", "adaptive_max_pool2d"), _conv),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "max", "var", "std", "var_mean"), _reduce),
    **dict.fromkeys(("_softmax", "_safe_softmax", "softmax"), _softmax),
    **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm"), _matmul),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze"), spatial_dims.reshape),
    **dict.fromkeys(("permute", "transpose", "t"), spatial_dims.permute),
    **dict.fromkeys(("select", "unbind"), spatial_dims.select),
    **dict.fromkeys(("slice", "split", "split_with_sizes", "narrow"), spatial_dims.slice_dim),
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "constant_pad_nd": _pad,
    "cat": _concat,
}

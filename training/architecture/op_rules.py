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
from graft.training.architecture.receptive_field import Pair, Window, ceil_padding, union
from graft.training.architecture.spatial_dims import ACROSS, DOWN, MAP, NONE, Operation, Seen, mixed, unknown

if TYPE_CHECKING:
    from torch import Tensor


def after(operation: Operation) -> Seen:
    """The info of an operation's result."""
    rule = RULES.get(operation.name, _elementwise if operation.pointwise else None)
    info = rule(operation) if rule else unknown(operation.out)
    return info if len(info.axes) == operation.out.ndim else unknown(operation.out)


def window(operation: Operation) -> Window | None:
    """The sliding window of a convolution or pooling, including padding that was added before it.

    None if it does not slide over the map (it runs along channels), or if its windows are not all equal.
    """
    [(_, info), *_] = operation.inputs
    if info.axes[-2:] != MAP:
        return None
    arguments = operation.given
    if "adaptive" in operation.name:
        return _adaptive(info.settled.size, _two(arguments["output_size"]))
    kernel = arguments["weight"].shape[2:] if operation.name == "convolution" else _two(arguments["kernel_size"])
    stride = _two(arguments["stride"] or kernel)
    padding, dilation = _two(arguments["padding"]), _two(arguments.get("dilation") or 1)
    pad_before, pad_after = _plus(padding, info.before), _plus(padding, info.after)
    if arguments.get("ceil_mode"):
        axes = zip(info.size, kernel, stride, padding, dilation, strict=True)
        pad_after = _two([ceil_padding(*axis)[1] for axis in axes])
    return None if arguments.get("transposed") else Window(_two(kernel), stride, pad_before, pad_after, dilation)


def _adaptive(size: Pair, wanted: Pair) -> Window | None:
    if size[0] % wanted[0] or size[1] % wanted[1]:
        return None
    step = (size[0] // wanted[0], size[1] // wanted[1])
    return Window(step, step)


def _slid(operation: Operation) -> Seen:
    [(_, info), *_] = operation.inputs
    conv_window = window(operation)
    if conv_window:
        return info.through(conv_window)
    on_map = any(info.axes[2:])
    return unknown(operation.out) if on_map or len(info.axes) != operation.out.ndim else mixed(info, info.axes[1], operation)


def _padded(operation: Operation) -> Seen:
    [(_, info), *_] = operation.inputs
    pad = [*operation.given["pad"], 0, 0, 0, 0]
    if info.axes[-2:] != MAP or any(pad[4:]):
        return _elementwise(operation)
    return replace(info, before=_plus(info.before, (pad[2], pad[0])), after=_plus(info.after, (pad[3], pad[1])))


def _reduced(operation: Operation) -> Seen:
    """A reduction such as mean, sum or max over some dimensions."""
    [(_, info), *_] = operation.inputs
    info, dims = info.settled, _gone(operation)
    along = NONE.union(*(info.axes[dim] for dim in dims))
    keepdim = operation.given.get("keepdim", False)
    axes = tuple(axis for dim, axis in enumerate(info.axes) if keepdim or dim not in dims)
    size = (1 if DOWN in along else info.size[0], 1 if ACROSS in along else info.size[1])
    return replace(mixed(info, along, operation), axes=axes, size=size)


def _gone(operation: Operation) -> set[int]:
    """The dimensions that a reduction removes."""
    [(tensor, _), *_] = operation.inputs
    dims = operation.given.get("dim")
    if dims is None or dims == []:
        return set(range(tensor.ndim))
    return {dim % tensor.ndim for dim in (dims if isinstance(dims, Sequence) else [dims])}


def all_over(operation: Operation) -> Window | None:
    """The window of a global average pool; None if a mean is not over a whole map."""
    [(_, info), *_] = operation.inputs
    along = NONE.union(*(info.axes[dim] for dim in _gone(operation)))
    size = info.settled.size
    return Window(size, size) if along == {DOWN, ACROSS} and size != (1, 1) else None


def _normalised_along(operation: Operation) -> Seen:
    """A softmax: every result depends on all values along its dimension."""
    [(_, info), *_] = operation.inputs
    return mixed(info, info.axes[operation.given["dim"]], operation)


def _multiplied(operation: Operation) -> Seen:
    """A matrix product, (..., n, k) by (..., k, m); one factor may be weights."""
    names = ("mat1", "mat2") if operation.name == "addmm" else ("batch1", "batch2") if operation.name == "baddbmm" else None
    first, second = names or ("self", "mat2")
    left, right = operation.seen(first), operation.seen(second)
    n_axes = operation.out.ndim
    left_axes = left.axes if left else (NONE,) * n_axes
    right_axes = right.axes if right else (NONE,) * n_axes
    merged = _joined([info for info in (left, right) if info])
    batch_axes = (a | b for a, b in zip(left_axes[:-2], right_axes[:-2], strict=True))
    axes = (*batch_axes, left_axes[-2], right_axes[-1])
    mixed_info = mixed(merged, left_axes[-1] | right_axes[-2], operation)
    size = mixed_info.size if DOWN in left_axes[-2] | right_axes[-1] else (1, 1)
    return replace(mixed_info, axes=axes, size=size)


def _attended(operation: Operation) -> Seen:
    """Fused attention: each position of the query depends on every key."""
    query, key, value = (operation.seen(name) for name in ("query", "key", "value"))
    if not query or not key or not value:
        return unknown(operation.out)
    return replace(mixed(_joined([query, key, value]), key.axes[-2], operation), axes=query.axes)


def _joined(seen: Sequence[Seen]) -> Seen:
    """The joint info of several tensors."""
    padded = [info.settled for info in seen]
    fields = [info.field for info in padded if info.field]
    try:
        field = union(fields) if len(fields) == len(padded) else None
    except ValueError:  # the branches have no field in common
        field = None
    return replace(padded[0], field=field)


def _elementwise(operation: Operation) -> Seen:
    """An operation that keeps every position in place. A smaller tensor broadcast over the map is a gate and is ignored."""
    shape = operation.out.shape
    n_positions = [_places(tensor, info) for tensor, info in operation.inputs]
    full = [pair for pair, n in zip(operation.inputs, n_positions, strict=True) if n == max(n_positions)]
    if math.prod(shape) != max(tensor.numel() for tensor, _ in full) and len(shape) != max(t.ndim for t, _ in full):
        return unknown(operation.out)
    merged = _joined([info for _, info in full])
    if any(info.field is None for _, info in operation.inputs):
        merged = replace(merged, field=None)
    return replace(merged, axes=(NONE,) * (len(shape) - len(merged.axes)) + merged.axes)


def _places(tensor: "Tensor", seen: Seen) -> int:
    return math.prod(n for n, axis in zip(tensor.shape, seen.axes, strict=True) if axis)


def _concatenated(operation: Operation) -> Seen:
    return _joined([info for _, info in operation.inputs])


def _two(given: Any) -> Pair:
    numbers = [given] if isinstance(given, int) else list(given)
    return int(numbers[0]), int(numbers[-1])


def _plus(one: Pair, other: Pair) -> Pair:
    return one[0] + other[0], one[1] + other[1]


RULES: Mapping[str, Callable[[Operation], Seen]] = {
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit_no_training", "native_layer_norm"), _elementwise),
    **dict.fromkeys(("native_group_norm", "native_dropout", "hardswish_", "_prelu_kernel"), _elementwise),
    **dict.fromkeys(("alias", "detach", "expand", "_to_copy"), _elementwise),
    **dict.fromkeys(("convolution", "max_pool2d_with_indices", "avg_pool2d"), _slid),
    **dict.fromkeys(("_adaptive_avg_pool2d", "adaptive_max_pool2d"), _slid),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "max", "var", "std", "var_mean"), _reduced),
    **dict.fromkeys(("_softmax", "_safe_softmax", "softmax"), _normalised_along),
    **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm"), _multiplied),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "unsqueeze", "squeeze"), spatial_dims.reshaped),
    **dict.fromkeys(("permute", "transpose", "t"), spatial_dims.permuted),
    **dict.fromkeys(("select", "unbind"), spatial_dims.picked),
    **dict.fromkeys(("slice", "split", "split_with_sizes", "narrow"), spatial_dims.sliced),
    "_scaled_dot_product_flash_attention_for_cpu": _attended,
    "constant_pad_nd": _padded,
    "cat": _concatenated,
}

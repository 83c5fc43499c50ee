"""Torch's operations -> what becomes of a map's positions: their number, and which pixels of the image each can see.

Rules for what convolutional networks and transformers are made of; after any other operation the field is unknown, and
nothing is guessed. Two influences are left out, as is usual: a gate (squeeze-and-excitation) and a norm's statistics see the
whole image, and yet what passes through them keeps its own field.
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
    """What is known of an operation's result."""
    rule = RULES.get(operation.name, _elementwise if operation.pointwise else None)
    seen = rule(operation) if rule else unknown(operation.out)
    return seen if len(seen.axes) == operation.out.ndim else unknown(operation.out)


def window(operation: Operation) -> Window | None:
    """How a convolution or a pooling slides over the map, padding that was laid on before included.

    None if it does not: it runs along channels, or its windows are not all alike.
    """
    [(_, seen), *_] = operation.inputs
    if seen.axes[-2:] != MAP:
        return None
    given = operation.given
    if "adaptive" in operation.name:
        return _adaptive(seen.settled.size, _two(given["output_size"]))
    kernel = given["weight"].shape[2:] if operation.name == "convolution" else _two(given["kernel_size"])
    stride = _two(given["stride"] or kernel)
    padding, dilation = _two(given["padding"]), _two(given.get("dilation") or 1)
    before, behind = _plus(padding, seen.before), _plus(padding, seen.after)
    if given.get("ceil_mode"):
        axes = zip(seen.size, kernel, stride, padding, dilation, strict=True)
        behind = _two([ceil_padding(*axis)[1] for axis in axes])
    return None if given.get("transposed") else Window(_two(kernel), stride, before, behind, dilation)


def _adaptive(size: Pair, wanted: Pair) -> Window | None:
    if size[0] % wanted[0] or size[1] % wanted[1]:
        return None
    step = (size[0] // wanted[0], size[1] // wanted[1])
    return Window(step, step)


def _slid(operation: Operation) -> Seen:
    [(_, seen), *_] = operation.inputs
    found = window(operation)
    if found:
        return seen.through(found)
    on_map = any(seen.axes[2:])
    return unknown(operation.out) if on_map or len(seen.axes) != operation.out.ndim else mixed(seen, seen.axes[1], operation)


def _padded(operation: Operation) -> Seen:
    [(_, seen), *_] = operation.inputs
    pad = [*operation.given["pad"], 0, 0, 0, 0]
    if seen.axes[-2:] != MAP or any(pad[4:]):
        return _elementwise(operation)
    return replace(seen, before=_plus(seen.before, (pad[2], pad[0])), after=_plus(seen.after, (pad[3], pad[1])))


def _reduced(operation: Operation) -> Seen:
    """A mean, sum, maximum or the like over some dimensions."""
    [(_, seen), *_] = operation.inputs
    seen, gone = seen.settled, _gone(operation)
    along = NONE.union(*(seen.axes[dim] for dim in gone))
    keep = operation.given.get("keepdim", False)
    axes = tuple(axis for dim, axis in enumerate(seen.axes) if keep or dim not in gone)
    size = (1 if DOWN in along else seen.size[0], 1 if ACROSS in along else seen.size[1])
    return replace(mixed(seen, along, operation), axes=axes, size=size)


def _gone(operation: Operation) -> set[int]:
    """The dimensions that a reduction is over."""
    [(tensor, _), *_] = operation.inputs
    dims = operation.given.get("dim")
    if dims is None or dims == []:
        return set(range(tensor.ndim))
    return {dim % tensor.ndim for dim in (dims if isinstance(dims, Sequence) else [dims])}


def all_over(operation: Operation) -> Window | None:
    """The window that a mean over all of a map is; None if it is not one over a map."""
    [(_, seen), *_] = operation.inputs
    along = NONE.union(*(seen.axes[dim] for dim in _gone(operation)))
    size = seen.settled.size
    return Window(size, size) if along == {DOWN, ACROSS} and size != (1, 1) else None


def _normalised_along(operation: Operation) -> Seen:
    """A softmax: every result depends on all along its dimension."""
    [(_, seen), *_] = operation.inputs
    return mixed(seen, seen.axes[operation.given["dim"]], operation)


def _multiplied(operation: Operation) -> Seen:
    """A product of matrices: (..., n, k) by (..., k, m), one of which may be weights."""
    names = ("mat1", "mat2") if operation.name == "addmm" else ("batch1", "batch2") if operation.name == "baddbmm" else None
    first, second = names or ("self", "mat2")
    left, right = operation.seen(first), operation.seen(second)
    n_axes = operation.out.ndim
    a = left.axes if left else (NONE,) * n_axes
    b = right.axes if right else (NONE,) * n_axes
    joined = _joined([seen for seen in (left, right) if seen])
    axes = (*(one | other for one, other in zip(a[:-2], b[:-2], strict=True)), a[-2], b[-1])
    along = a[-1] | b[-2]
    done = mixed(joined, along, operation)
    size = done.size if DOWN in a[-2] | b[-1] else (1, 1)
    return replace(done, axes=axes, size=size)


def _attended(operation: Operation) -> Seen:
    """Attention in one operation: each position of the query sees every key's."""
    query, key, value = (operation.seen(name) for name in ("query", "key", "value"))
    if not query or not key or not value:
        return unknown(operation.out)
    return replace(mixed(_joined([query, key, value]), key.axes[-2], operation), axes=query.axes)


def _joined(seen: Sequence[Seen]) -> Seen:
    """What is known of several tensors together."""
    settled = [one.settled for one in seen]
    fields = [one.field for one in settled if one.field]
    try:
        field = union(fields) if len(fields) == len(settled) else None
    except ValueError:  # of branches that have no field in common nothing can be said
        field = None
    return replace(settled[0], field=field)


def _elementwise(operation: Operation) -> Seen:
    """Whatever leaves each position where it is; a smaller tensor that is spread over the map is a gate."""
    shape = operation.out.shape
    places = [_places(tensor, seen) for tensor, seen in operation.inputs]
    full = [(t, s) for (t, s), n_places in zip(operation.inputs, places, strict=True) if n_places == max(places)]
    if math.prod(shape) != max(tensor.numel() for tensor, _ in full) and len(shape) != max(t.ndim for t, _ in full):
        return unknown(operation.out)
    joined = _joined([seen for _, seen in full])
    if any(seen.field is None for _, seen in operation.inputs):
        joined = replace(joined, field=None)
    return replace(joined, axes=(NONE,) * (len(shape) - len(joined.axes)) + joined.axes)


def _places(tensor: "Tensor", seen: Seen) -> int:
    return math.prod(n for n, axis in zip(tensor.shape, seen.axes, strict=True) if axis)


def _concatenated(operation: Operation) -> Seen:
    return _joined([seen for _, seen in operation.inputs])


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

"""Traces a torch network into a layer-by-layer model summary.

One forward pass on torch's `meta` device (tensors without data) intercepts every operation. So branches, gates and functions
outside modules are recorded as they really run, and a network of 150 layers takes a second.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from graft.training.architecture import layers, op_rules
from graft.training.architecture.layers import Layer, ModelSummary
from graft.training.architecture.receptive_field import Pair, ReceptiveField
from graft.training.architecture.spatial_dims import MAP_AXES, NO_AXES, Operation, TensorInfo


def trace_layers(network: nn.Module, batch: Tensor) -> ModelSummary:
    """Summarizes the layers of a network on torch's `meta` device, in the order of one image's forward pass.

    Args:
        batch: float (1, 3, H, W) or uint8 (1, H, W, 3), on the same device.
    """
    height_dim = 2 if batch.is_floating_point() else 1
    image_size = (batch.shape[height_dim], batch.shape[height_dim + 1])
    axes = tuple(MAP_AXES[dim - height_dim] if dim in (height_dim, height_dim + 1) else NO_AXES for dim in range(4))
    tracer = _OpTracer(network, image_size)
    tracer.record(batch, TensorInfo(axes, image_size, ReceptiveField()))
    hooks = [hook for name, module in network.named_modules() for hook in tracer.add_hooks(name, module)]
    try:
        with torch.no_grad(), tracer:
            network.eval()(batch)
    finally:
        for hook in hooks:
            hook.remove()
    parameters = list(network.parameters())
    n_weights = sum(tensor.numel() for tensor in parameters)
    n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in [*parameters, *network.buffers()])
    return ModelSummary(tracer.all_layers(), image_size, n_weights, n_bytes)


class _OpTracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Intercepts every operation during a forward pass."""

    def __init__(self, network: nn.Module, image_size: Pair) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._layers: list[Layer] = []
        self._image_size = image_size
        self._module_stack = [""]  # names of the running modules, innermost last
        self._infos: dict[int, TensorInfo] = {}
        self._parameter_names = {id(tensor): frozenset([name]) for name, tensor in network.named_parameters()}
        self._unused_sizes = {name: tensor.numel() for name, tensor in network.named_parameters()}
        self._extra_weights = 0  # number of weights beside those of the layers, such as the scale of a standardized convolution
        self._references: list[Tensor] = []  # keeps tensors alive, because the id of a deleted one can be reused

    def add_hooks(self, name: str, module: nn.Module) -> tuple[Any, Any]:
        """Adds hooks that record which module is running."""

        def enter(*_: object) -> None:
            self._module_stack.append(name)

        def leave(*_: object) -> None:
            self._module_stack.pop()

        return module.register_forward_pre_hook(enter), module.register_forward_hook(leave)

    def record(self, tensor: Tensor, info: TensorInfo) -> None:
        """Stores the info of a tensor."""
        self._infos[id(tensor)] = info
        self._references.append(tensor)

    def all_layers(self) -> tuple[Layer, ...]:
        """All layers, and a last entry for the weights beside those of the layers or unused in inference."""
        n_other = sum(self._unused_sizes.values()) + self._extra_weights
        others = [Layer("(others)", "learned", (0, 0, 0), None, n_other)] if n_other else []
        return (*self._layers, *others)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        arguments = _bind_arguments(function, args, kwargs or {})
        tensors = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
        results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        names = NO_AXES.union(*(self._parameter_names.get(id(tensor), NO_AXES) for tensor in tensors))
        inputs = [(tensor, self._infos[id(tensor)]) for tensor in tensors if id(tensor) in self._infos]
        if not inputs:  # transforms weights before they are used
            self._parameter_names.update({id(tensor): names for tensor in results if names})
            self._references += results
        elif results:
            name, pointwise = function.overloadpacket.__name__, torch.Tag.pointwise in function.tags
            operations = [Operation(name, pointwise, arguments, inputs, out, self._image_size) for out in results]
            infos = [op_rules.propagate(operation) for operation in operations]
            self._add_layer(operations[0], infos[0], names)
            for out, info in zip(results, infos, strict=True):
                self.record(out, info)
        return result

    def _add_layer(self, operation: Operation, info: TensorInfo, parameter_names: frozenset[str]) -> None:
        new_weights = {name: self._unused_sizes[name] for name in parameter_names if name in self._unused_sizes}
        layer = layers.make_layer(self._module_stack[-1], operation, info, new_weights)
        if layer:
            self._layers = layers.merge_layer(self._layers, layer)
            self._extra_weights += sum(new_weights.values()) - layer.weights
            self._unused_sizes = {name: size for name, size in self._unused_sizes.items() if name not in new_weights}


def _bind_arguments(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """An operator's arguments by name, including defaults."""
    schema = function._schema.arguments
    positional = {argument.name: value for argument, value in zip(schema, args, strict=False)}
    return {argument.name: argument.default_value for argument in schema} | positional | kwargs

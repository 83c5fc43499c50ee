"""A torch network -> its anatomy.

One pass with tensors that hold no numbers (torch's `meta` device), each operation of which is looked at: so branches, gates
and functions that are no modules are met as they really run, and a network of 150 layers takes a second.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from graft.training.architecture import layers, op_rules
from graft.training.architecture.layers import Anatomy, Layer
from graft.training.architecture.receptive_field import Pair, ReceptiveField
from graft.training.architecture.spatial_dims import MAP, NONE, Operation, Seen


def dissect(network: nn.Module, batch: Tensor) -> Anatomy:
    """The layers of a network on torch's `meta` device, met by one image.

    Args:
        batch: float (1, 3, H, W) or uint8 (1, H, W, 3), on the same device.
    """
    top = 2 if batch.is_floating_point() else 1  # the height's dimension
    image = (batch.shape[top], batch.shape[top + 1])
    axes = tuple(MAP[dim - top] if dim in (top, top + 1) else NONE for dim in range(4))
    knife = _Knife(network, image)
    knife.know(batch, Seen(axes, image, ReceptiveField()))
    hooks = [hook for name, module in network.named_modules() for hook in knife.follow(name, module)]
    try:
        with torch.no_grad(), knife:
            network.eval()(batch)
    finally:
        for hook in hooks:
            hook.remove()
    parameters = list(network.parameters())
    n_weights = sum(tensor.numel() for tensor in parameters)
    n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in [*parameters, *network.buffers()])
    return Anatomy(knife.all_layers(), image, n_weights, n_bytes)


class _Knife(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks at every operation while a network runs."""

    def __init__(self, network: nn.Module, image: Pair) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._layers: list[Layer] = []
        self._image = image
        self._inside = [""]  # the names of the modules that are running, the innermost last
        self._seen: dict[int, Seen] = {}
        self._learned = {id(tensor): frozenset([name]) for name, tensor in network.named_parameters()}
        self._unused = {name: tensor.numel() for name, tensor in network.named_parameters()}
        self._beside = 0  # what is learned beside a convolution's own weights, such as their scale
        self._kept: list[Tensor] = []  # lest another tensor gets the id of one that is gone

    def follow(self, name: str, module: nn.Module) -> tuple[Any, Any]:
        """Hooks that tell when a module runs."""

        def enter(*_: object) -> None:
            self._inside.append(name)

        def leave(*_: object) -> None:
            self._inside.pop()

        return module.register_forward_pre_hook(enter), module.register_forward_hook(leave)

    def know(self, tensor: Tensor, seen: Seen) -> None:
        """Remembers what is known of a tensor."""
        self._seen[id(tensor)] = seen
        self._kept.append(tensor)

    def all_layers(self) -> tuple[Layer, ...]:
        """Those met, and what is learned beside their own weights, or is not used for one image's answer."""
        left = sum(self._unused.values()) + self._beside
        rest = [Layer("(others)", "learned", (0, 0, 0), None, left)] if left else []
        return (*self._layers, *rest)

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        result = function(*given, **(named or {}))
        arguments = _by_name(function, given, named or {})
        tensors = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
        results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        learned = NONE.union(*(self._learned.get(id(tensor), NONE) for tensor in tensors))
        inputs = [(tensor, self._seen[id(tensor)]) for tensor in tensors if id(tensor) in self._seen]
        if not inputs:  # weights on their way to where they are used
            self._learned.update({id(tensor): learned for tensor in results if learned})
            self._kept += results
        elif results:
            name, pointwise = function.overloadpacket.__name__, torch.Tag.pointwise in function.tags
            done = [Operation(name, pointwise, arguments, inputs, out, self._image) for out in results]
            known = [op_rules.after(operation) for operation in done]
            self._note(done[0], known[0], learned)
            for out, seen in zip(results, known, strict=True):
                self.know(out, seen)
        return result

    def _note(self, operation: Operation, seen: Seen, learned: frozenset[str]) -> None:
        fresh = {name: self._unused[name] for name in learned if name in self._unused}
        layer = layers.layer(self._inside[-1], operation, seen, fresh)
        if layer:
            self._layers = layers.merged(self._layers, layer)
            self._beside += sum(fresh.values()) - layer.weights
            self._unused = {name: size for name, size in self._unused.items() if name not in fresh}


def _by_name(function: Any, given: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
    """An operation's arguments by name, with the defaults of those that were left out."""
    wanted = function._schema.arguments
    first = {argument.name: value for argument, value in zip(wanted, given, strict=False)}
    return {argument.name: argument.default_value for argument in wanted} | first | named

"""A network's layers from the first to the last: how fast each learns, whether it learns at all, and how it starts."""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from graft.service.networks.network import Network
from graft.training.config.finetune_config import Plan
from graft.training.config.hyperparameters import layer_rates, open_layers


def layers(network: Network) -> list[list[str]]:
    """The names of the backbone's parameters, layer by layer, in timm's own order; one layer where timm knows none."""
    from timm.models import group_parameters

    names = [name for name, _ in network.backbone.named_parameters()]
    body: Any = network.backbone
    if not hasattr(body, "group_matcher"):
        return [names]
    found: dict[int, list[str]] = group_parameters(body, body.group_matcher(coarse=False))
    kept = [[name for name in found[number] if name in set(names)] for number in sorted(found)]
    return [layer for layer in kept if layer]


def groups(network: Network, plan: Plan) -> list[dict[str, Any]]:
    """What the optimizer is given: parameters by learning rate, and by whether they shrink; biases and norms do not."""
    named = dict(network.backbone.named_parameters())
    in_layers = layers(network)
    rates = layer_rates(plan.backbone_rate, plan.bottom_ratio, len(in_layers))
    parts = [(rate, [named[name] for name in names]) for rate, names in zip(rates, in_layers, strict=True)]
    by_kind: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for rate, parameters in [*parts, (plan.head_rate, list(network.head.parameters()))]:
        for parameter in parameters:
            if parameter.requires_grad:
                by_kind.setdefault((rate, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": plan.weight_decay if shrinks else 0.0}
        for (rate, shrinks), parameters in by_kind.items()
    ]


def freeze(network: Network, plan: Plan) -> None:
    """Leaves only the head and the plan's last layers to learn."""
    in_layers = layers(network)
    held = {name for layer in in_layers[: len(in_layers) - open_layers(len(in_layers), plan.unfreeze)] for name in layer}
    for name, parameter in network.backbone.named_parameters():
        parameter.requires_grad_(name not in held)


def settle(network: Network, frozen_norm: bool) -> None:
    """Puts into eval mode what must not move in training: parts that do not learn, and BatchNorm where it is frozen.

    Without it, frozen parts would still drop paths, and their BatchNorm would follow each batch.
    """
    for module in network.modules():
        parameters = list(module.parameters())
        held = bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
        if held or (frozen_norm and isinstance(module, _BatchNorm)):
            module.eval()


def start_fresh(network: Network, seed: int, backbone: bool) -> None:
    """Random weights after He et al. 2015 for the head, and for the backbone's convolutions if it starts fresh too.

    What else a backbone has (attention, tokens, norms) keeps the random weights that timm knows to suit it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in network.backbone.modules() if backbone else ():
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
                # Of a grouped convolution each output feeds one group only; torch's own fan-out does not know that.
                fan_out = module.out_channels * module.weight[0, 0].numel() / module.groups
                nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.kaiming_normal_(network.head.weight, nonlinearity="linear")
        nn.init.zeros_(network.head.bias)

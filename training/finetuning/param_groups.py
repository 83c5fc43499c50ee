"""Optimizer parameter groups, layer freezing, and weight initialization."""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from graft.service.networks.network import Network
from graft.training.config.finetune_config import FineTuneConfig
from graft.training.config.hyperparameters import layer_learning_rates, n_trainable_layers


def layer_parameter_names(network: Network) -> list[list[str]]:
    """Parameter names of the backbone, grouped by layer in timm's order; a single group if timm defines no layers."""
    from timm.models import group_parameters

    names = [name for name, _ in network.backbone.named_parameters()]
    backbone: Any = network.backbone
    if not hasattr(backbone, "group_matcher"):
        return [names]
    by_layer: dict[int, list[str]] = group_parameters(backbone, backbone.group_matcher(coarse=False))
    grouped = [[name for name in by_layer[number] if name in set(names)] for number in sorted(by_layer)]
    return [layer for layer in grouped if layer]


def param_groups(network: Network, config: FineTuneConfig) -> list[dict[str, Any]]:
    """Optimizer parameter groups by learning rate and weight decay; biases and norms have no weight decay."""
    named = dict(network.backbone.named_parameters())
    backbone_layers = layer_parameter_names(network)
    rates = layer_learning_rates(config.backbone_lr, config.layer_decay, len(backbone_layers))
    backbone = [(rate, [named[name] for name in names]) for rate, names in zip(rates, backbone_layers, strict=True)]
    by_options: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for rate, parameters in [*backbone, (config.head_lr, list(network.head.parameters()))]:
        for parameter in parameters:
            if parameter.requires_grad:
                by_options.setdefault((rate, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": config.weight_decay if decays else 0.0}
        for (rate, decays), parameters in by_options.items()
    ]


def freeze_layers(network: Network, config: FineTuneConfig) -> None:
    """Freezes the backbone except for its trainable last layers."""
    backbone_layers = layer_parameter_names(network)
    n_frozen = len(backbone_layers) - n_trainable_layers(len(backbone_layers), config.unfreeze)
    frozen = {name for layer in backbone_layers[:n_frozen] for name in layer}
    for name, parameter in network.backbone.named_parameters():
        parameter.requires_grad_(name not in frozen)


def set_eval_modules(network: Network, freeze_bn: bool) -> None:
    """Puts frozen modules into eval mode, and with `freeze_bn` all BatchNorm layers.

    Otherwise frozen modules would still apply drop path, and their BatchNorm statistics would follow each batch.
    """
    for module in network.modules():
        parameters = list(module.parameters())
        frozen = bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
        if frozen or (freeze_bn and isinstance(module, _BatchNorm)):
            module.eval()


def init_weights(network: Network, seed: int, backbone: bool) -> None:
    """Initializes the head, and optionally the backbone's convolutions, after He et al. 2015.

    Other parts of the backbone (attention, tokens, norms) keep timm's own initialization.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in network.backbone.modules() if backbone else ():
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
                # Each output of a grouped convolution feeds one group only; torch's fan-out ignores that.
                fan_out = module.out_channels * module.weight[0, 0].numel() / module.groups
                nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        assert isinstance(network.head, nn.Linear), "training starts from a linear head"
        nn.init.kaiming_normal_(network.head.weight, nonlinearity="linear")
        nn.init.zeros_(network.head.bias)

"""Registers classic networks that timm lacks (MLP, LeNet-5, AlexNet) as timm models. Imports torch.

They are part of the service because the CUDA engine builds a package's network by name. `graft.training.backbones.registry`
parses this file's source for the model names. torchvision's models are in `graft.service.networks.torchvision`.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn


def pretrained_cfg(input_side: int, mean: Sequence[float], std: Sequence[float], **overrides: Any) -> dict[str, Any]:
    """A timm pretrained config. For a network without weights it only describes the preprocessing."""
    return {
        "input_size": (3, input_side, input_side),
        "mean": mean,
        "std": std,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "num_classes": 1000,
        "classifier": "classifier",
        "license": "bsd-3-clause",
    } | overrides


ImageSize = int | tuple[int, int]  # side of a square, or (height, width); timm passes either

_HALF = (0.5, 0.5, 0.5)

default_cfgs = generate_default_cfgs(
    {
        "mlp.untrained": pretrained_cfg(32, _HALF, _HALF, num_classes=10, fixed_input_size=True),
        "lenet5.untrained": pretrained_cfg(
            32, _HALF, _HALF, num_classes=10, fixed_input_size=True, first_conv="stages.0.conv1"
        ),
        "alexnet.untrained": pretrained_cfg(
            227, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, fixed_input_size=True, first_conv="stages.0.conv1"
        ),
    }
)


def select_stages(indices: Sequence[int] | int | None, maps: list[Tensor]) -> list[Tensor]:
    """The requested stages: by index, the last n, or all."""
    if indices is None:
        return maps
    return maps[-indices:] if isinstance(indices, int) else [maps[index] for index in indices]


class ClassicCNN(nn.Module):
    """A sequential CNN: convolutional stages, then fully connected layers.

    Args:
        stages: convolutions and pooling; none for a multilayer perceptron.
        widths: output widths of the hidden fully connected layers.
        img_size: input size in pixels; determines the input width of the first fully connected layer.
        drop_rate: dropout probability after each hidden fully connected layer.
    """

    def __init__(
        self, stages: Sequence[nn.Module], widths: Sequence[int], img_size: ImageSize, num_classes: int, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        self.stages = nn.Sequential(*stages)
        width, layers = self._flattened_size(img_size), OrderedDict[str, nn.Module]()
        for number, out_width in enumerate(widths, 1):
            layers[f"fc{number}"] = nn.Linear(width, out_width)
            layers[f"relu{number}"] = nn.ReLU()
            layers[f"drop{number}"] = nn.Dropout(drop_rate)
            width = out_width
        self.hidden = nn.Sequential(layers)
        self.num_features = self.head_hidden_size = width
        self.feature_info = [
            {"module": f"stages.{index}", "num_chs": next(reversed(list(stage.parameters()))).shape[0]}
            for index, stage in enumerate(stages)
        ]
        self.reset_classifier(num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def _flattened_size(self, img_size: ImageSize) -> int:
        """The length of the flattened output of the stages."""
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        try:
            with torch.no_grad():
                output: Tensor = self.stages(torch.zeros(1, 3, height, width))
        except RuntimeError:
            raise ValueError(f"an input of {height} x {width} pixels is too small for its stages") from None
        return output.numel()

    def reset_classifier(self, num_classes: int) -> None:
        """Replaces the classifier by one with random weights; 0 classes removes it."""
        self.num_classes = num_classes
        self.classifier = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Groups the parameters by layer, as timm models do."""
        return {"stem": r"^stages\.0", "blocks": [(r"^stages\.(\d+)", None), (r"^hidden\.fc(\d+)", (99,))]}

    def forward_intermediates(
        self, x: Tensor, indices: Sequence[int] | int | None = None, output_fmt: str = "NCHW"
    ) -> tuple[Tensor, list[Tensor]]:
        """The last feature map, and the maps (N, C, h, w) after the requested stages."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return x, select_stages(indices, maps)

    def forward_head(self, x: Tensor) -> Tensor:
        """The fully connected layers."""
        output: Tensor = self.classifier(self.hidden(x.flatten(1)))
        return output

    def forward(self, x: Tensor) -> Tensor:
        """Pixels (N, 3, S, S) to logits (N, C), or to vectors (N, D) if there is no classifier."""
        return self.forward_head(self.stages(x))


def _conv_stage(first_number: int, convolutions: Sequence[nn.Conv2d], pool: nn.Module) -> nn.Sequential:
    layers = OrderedDict[str, nn.Module]()
    for layer_number, convolution in enumerate(convolutions, first_number):
        layers[f"conv{layer_number}"], layers[f"relu{layer_number}"] = convolution, nn.ReLU()
    layers["pool"] = pool
    return nn.Sequential(layers)


def _mlp(img_size: ImageSize, num_classes: int) -> ClassicCNN:
    return ClassicCNN([], (512, 256), img_size, num_classes)


def _lenet5(img_size: ImageSize, num_classes: int) -> ClassicCNN:
    stages = [
        _conv_stage(1, [nn.Conv2d(3, 6, 5)], nn.MaxPool2d(2)),
        _conv_stage(2, [nn.Conv2d(6, 16, 5)], nn.MaxPool2d(2)),
    ]
    return ClassicCNN(stages, (120, 84), img_size, num_classes)


def _alexnet(img_size: ImageSize, num_classes: int) -> ClassicCNN:
    stages = [
        _conv_stage(1, [nn.Conv2d(3, 96, 11, stride=4)], nn.MaxPool2d(3, 2)),
        _conv_stage(2, [nn.Conv2d(96, 256, 5, padding=2)], nn.MaxPool2d(3, 2)),
        _conv_stage(
            3,
            [nn.Conv2d(256, 384, 3, padding=1), nn.Conv2d(384, 384, 3, padding=1), nn.Conv2d(384, 256, 3, padding=1)],
            nn.MaxPool2d(3, 2),
        ),
    ]
    return ClassicCNN(stages, (4096, 4096), img_size, num_classes, drop_rate=0.5)


def build(model_fn: Any, variant: str, pretrained: bool, kwargs: dict[str, Any], pretrained_filter_fn: Any = None) -> Any:
    """Builds a model through timm, with its pretrained config and, if `pretrained`, its weights.

    Args:
        model_fn: builds the model from timm's `num_classes` and `img_size`.
        kwargs: the keyword arguments that timm passes to the entry point.
        pretrained_filter_fn: removes unneeded tensors from a checkpoint.
    """
    unsupported = ("global_pool", "in_chans")
    return build_model_with_cfg(
        model_fn, variant, pretrained, kwargs_filter=unsupported, pretrained_filter_fn=pretrained_filter_fn, **kwargs
    )


@register_model
def mlp(pretrained: bool = False, **kwargs: Any) -> ClassicCNN:
    """A multilayer perceptron with two hidden layers: a baseline without convolutions."""
    model: ClassicCNN = build(_mlp, "mlp", pretrained, kwargs)
    return model


@register_model
def lenet5(pretrained: bool = False, **kwargs: Any) -> ClassicCNN:
    """LeNet-5 (LeCun et al. 1998) in its common modern form: color input, ReLU, 2 x 2 max pooling."""
    model: ClassicCNN = build(_lenet5, "lenet5", pretrained, kwargs)
    return model


@register_model
def alexnet(pretrained: bool = False, **kwargs: Any) -> ClassicCNN:
    """AlexNet (Krizhevsky et al. 2012) in its common form: one tower, 227 x 227 pixels.

    Without local response normalization, which has no benefit according to Simonyan and Zisserman (2015).
    """
    model: ClassicCNN = build(_alexnet, "alexnet", pretrained, kwargs)
    return model

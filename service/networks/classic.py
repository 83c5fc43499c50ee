"""Networks that the lectures name and timm has not, as timm's own kind. Loads torch. torchvision's: `graft.service.networks.torchvision`.

They stand here and not in training, because a GPU's engine builds a package's network by its name. `graft.training.backbones.registry`
reads this file's text for the names.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn


def config(side: int, mean: Sequence[float], std: Sequence[float], **told: Any) -> dict[str, Any]:
    """What timm asks of a network's weights; of random ones, how its input is to be prepared."""
    return {
        "input_size": (3, side, side),
        "mean": mean,
        "std": std,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "num_classes": 1000,
        "classifier": "classifier",
        "license": "bsd-3-clause",
    } | told


Size = int | tuple[int, int]  # a square's side, or height and width; timm gives either

_HALF = (0.5, 0.5, 0.5)

default_cfgs = generate_default_cfgs(
    {
        "mlp.untrained": config(32, _HALF, _HALF, num_classes=10, fixed_input_size=True),
        "lenet5.untrained": config(32, _HALF, _HALF, num_classes=10, fixed_input_size=True, first_conv="stages.0.conv1"),
        "alexnet.untrained": config(
            227, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, fixed_input_size=True, first_conv="stages.0.conv1"
        ),
    }
)


def chosen(indices: Sequence[int] | int | None, maps: list[Tensor]) -> list[Tensor]:
    """The stages that are asked for: by number, the last so many, or all."""
    if indices is None:
        return maps
    return maps[-indices:] if isinstance(indices, int) else [maps[index] for index in indices]


class Tower(nn.Module):
    """Stages one behind the other, then fully connected layers: how the first networks were built.

    Args:
        stages: of convolutions and pooling; none for a multilayer perceptron.
        widths: of the fully connected layers before the classifier.
        img_size: the input's pixels, on which the first fully connected layer's width depends.
        drop_rate: share of each fully connected layer's outputs that is hidden while it learns.
    """

    def __init__(
        self, stages: Sequence[nn.Module], widths: Sequence[int], img_size: Size, num_classes: int, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        self.stages = nn.Sequential(*stages)
        width, layers = self._flat(img_size), OrderedDict[str, nn.Module]()
        for number, wide in enumerate(widths, 1):
            layers[f"fc{number}"] = nn.Linear(width, wide)
            layers[f"relu{number}"] = nn.ReLU()
            layers[f"drop{number}"] = nn.Dropout(drop_rate)
            width = wide
        self.hidden = nn.Sequential(layers)
        self.num_features = self.head_hidden_size = width
        self.feature_info = [
            {"module": f"stages.{number}", "num_chs": next(reversed(list(stage.parameters()))).shape[0]}
            for number, stage in enumerate(stages)
        ]
        self.reset_classifier(num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def _flat(self, img_size: Size) -> int:
        """How many numbers the stages leave of an image."""
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        try:
            with torch.no_grad():
                left: Tensor = self.stages(torch.zeros(1, 3, height, width))
        except RuntimeError:
            raise ValueError(f"its stages leave nothing of {height} x {width} pixels") from None
        return left.numel()

    def reset_classifier(self, num_classes: int) -> None:
        """Another classifier with random weights; 0 labels: none."""
        self.num_classes = num_classes
        self.classifier = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The parameters layer by layer, as timm's own networks tell them."""
        return {"stem": r"^stages\.0", "blocks": [(r"^stages\.(\d+)", None), (r"^hidden\.fc(\d+)", (99,))]}

    def forward_intermediates(
        self, x: Tensor, indices: Sequence[int] | int | None = None, output_fmt: str = "NCHW"
    ) -> tuple[Tensor, list[Tensor]]:
        """What the stages end with, and the maps (N, C, h, w) after those that are asked for."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return x, chosen(indices, maps)

    def forward_head(self, x: Tensor) -> Tensor:
        """The fully connected layers."""
        found: Tensor = self.classifier(self.hidden(x.flatten(1)))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, C) of pixels (N, 3, S, S); without a classifier, vectors (N, D)."""
        return self.forward_head(self.stages(x))


def _stage(number: int, convolutions: Sequence[nn.Conv2d], pool: nn.Module) -> nn.Sequential:
    layers = OrderedDict[str, nn.Module]()
    for place, convolution in enumerate(convolutions, number):
        layers[f"conv{place}"], layers[f"relu{place}"] = convolution, nn.ReLU()
    layers["pool"] = pool
    return nn.Sequential(layers)


def _mlp(img_size: Size, num_classes: int) -> Tower:
    return Tower([], (512, 256), img_size, num_classes)


def _lenet5(img_size: Size, num_classes: int) -> Tower:
    stages = [
        _stage(1, [nn.Conv2d(3, 6, 5)], nn.MaxPool2d(2)),
        _stage(2, [nn.Conv2d(6, 16, 5)], nn.MaxPool2d(2)),
    ]
    return Tower(stages, (120, 84), img_size, num_classes)


def _alexnet(img_size: Size, num_classes: int) -> Tower:
    stages = [
        _stage(1, [nn.Conv2d(3, 96, 11, stride=4)], nn.MaxPool2d(3, 2)),
        _stage(2, [nn.Conv2d(96, 256, 5, padding=2)], nn.MaxPool2d(3, 2)),
        _stage(
            3,
            [nn.Conv2d(256, 384, 3, padding=1), nn.Conv2d(384, 384, 3, padding=1), nn.Conv2d(384, 256, 3, padding=1)],
            nn.MaxPool2d(3, 2),
        ),
    ]
    return Tower(stages, (4096, 4096), img_size, num_classes, drop_rate=0.5)


def assembled(make: Any, name: str, pretrained: bool, choices: dict[str, Any], kept: Any = None) -> Any:
    """What timm makes of a network: with its weights' facts, and its weights if they are to be had.

    Args:
        make: builds it from timm's `num_classes` and `img_size`.
        choices: what timm hands to an entry point; that is its own affair.
        kept: leaves of a file's tensors those that the network has.
    """
    unasked = ("global_pool", "in_chans")
    return build_model_with_cfg(make, name, pretrained, kwargs_filter=unasked, pretrained_filter_fn=kept, **choices)


@register_model
def mlp(pretrained: bool = False, **choices: Any) -> Tower:
    """A multilayer perceptron of two hidden layers: what convolutions are to be compared with."""
    built: Tower = assembled(_mlp, "mlp", pretrained, choices)
    return built


@register_model
def lenet5(pretrained: bool = False, **choices: Any) -> Tower:
    """LeNet-5 (LeCun et al. 1998) as the lectures draw it: colour in, ReLU, the largest of each 2 by 2."""
    built: Tower = assembled(_lenet5, "lenet5", pretrained, choices)
    return built


@register_model
def alexnet(pretrained: bool = False, **choices: Any) -> Tower:
    """AlexNet (Krizhevsky et al. 2012) as the lectures draw it: one tower, 227 pixels.

    Without local response normalisation, which Simonyan and Zisserman (2015) found to bring nothing.
    """
    built: Tower = assembled(_alexnet, "alexnet", pretrained, choices)
    return built

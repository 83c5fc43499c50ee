"""Networks that the lectures name and timm has not, as timm's own kind: ours, and two of torchvision's. Loads torch.

They stand here and not in training, because a GPU's engine builds a package's network by its name. `training.backbones`
reads this file's text for the names.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torchvision import models


def _config(side: int, mean: Sequence[float], std: Sequence[float], **told: Any) -> dict[str, Any]:
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
_TORCHVISION = "https://download.pytorch.org/models"

default_cfgs = generate_default_cfgs(
    {
        "mlp.untrained": _config(32, _HALF, _HALF, num_classes=10, fixed_input_size=True),
        "lenet5.untrained": _config(32, _HALF, _HALF, num_classes=10, fixed_input_size=True, first_conv="stages.0.conv1"),
        "alexnet.untrained": _config(
            227, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, fixed_input_size=True, first_conv="stages.0.conv1"
        ),
        "tv_alexnet.tv_in1k": _config(
            224,
            IMAGENET_DEFAULT_MEAN,
            IMAGENET_DEFAULT_STD,
            crop_pct=0.875,
            url=f"{_TORCHVISION}/alexnet-owt-7be5be79.pth",
            first_conv="features.0",
            classifier="classifier.6",
        ),
        # Its weights came from TensorFlow, and with them how pixels are scaled.
        "googlenet.tv_in1k": _config(
            224,
            IMAGENET_INCEPTION_MEAN,
            IMAGENET_INCEPTION_STD,
            crop_pct=0.875,
            url=f"{_TORCHVISION}/googlenet-1378be20.pth",
            first_conv="conv1.conv",
            classifier="fc",
        ),
    }
)


def _chosen(indices: Sequence[int] | int | None, maps: list[Tensor]) -> list[Tensor]:
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
        return x, _chosen(indices, maps)

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


class TorchvisionAlexNet(models.AlexNet):
    """torchvision's AlexNet, after Krizhevsky's later paper, under its own tensors' names."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.num_classes = num_classes
        self.num_features, self.head_hidden_size = 256, 4096

    def reset_classifier(self, num_classes: int) -> None:
        """Another classifier with random weights; 0 labels: none."""
        self.num_classes = num_classes
        self.classifier[6] = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The parameters layer by layer, as timm's own networks tell them."""
        return {"stem": r"^features\.0", "blocks": [(r"^features\.(\d+)", None), (r"^classifier\.(\d+)", (99,))]}

    def forward_intermediates(
        self, x: Tensor, indices: Sequence[int] | int | None = None, output_fmt: str = "NCHW"
    ) -> tuple[Tensor, list[Tensor]]:
        """What the convolutions end with, and the maps (N, C, h, w) after each pooling that is asked for."""
        maps = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)
        return x, _chosen(indices, maps)

    def forward_head(self, x: Tensor) -> Tensor:
        """The fully connected layers."""
        found: Tensor = self.classifier(self.avgpool(x).flatten(1))
        return found


class GoogLeNet(models.GoogLeNet):
    """torchvision's GoogLeNet under its own tensors' names, without the two classifiers that only helped to train it."""

    ENDS = ("maxpool1", "maxpool2", "inception3b", "inception4e", "inception5b")

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, aux_logits=False, init_weights=True)
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = 1024

    def reset_classifier(self, num_classes: int) -> None:
        """Another classifier with random weights; 0 labels: none."""
        self.num_classes = num_classes
        self.fc = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()  # type: ignore[assignment]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The parameters layer by layer, as timm's own networks tell them."""
        with_weights = [name for name, layer in self.named_children() if next(layer.parameters(), None) is not None]
        return {"stem": r"^conv1", "blocks": [(rf"^{name}\.", (number,)) for number, name in enumerate(with_weights)]}

    def forward_intermediates(
        self, x: Tensor, indices: Sequence[int] | int | None = None, output_fmt: str = "NCHW"
    ) -> tuple[Tensor, list[Tensor]]:
        """What the convolutions end with, and the maps (N, C, h, w) at the end of each resolution that is asked for."""
        maps = []
        for name, layer in self.named_children():
            if name == "avgpool":
                break
            x = layer(x)
            if name in self.ENDS:
                maps.append(x)
        return x, _chosen(indices, maps)

    def forward_head(self, x: Tensor) -> Tensor:
        """The mean over all positions, and the classifier."""
        found: Tensor = self.fc(self.dropout(self.avgpool(x).flatten(1)))
        return found


def without_helpers(tensors: dict[str, Tensor], _: nn.Module) -> dict[str, Tensor]:
    """GoogLeNet's tensors but those of the classifiers that only helped to train it."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(("aux1.", "aux2."))}


def _built(make: Any, name: str, pretrained: bool, choices: dict[str, Any]) -> Any:
    # What timm hands to an entry point is its own affair: the weights' facts, an input's size, the number of labels.
    return build_model_with_cfg(
        make, name, pretrained, kwargs_filter=("global_pool", "in_chans"), pretrained_filter_fn=_FILTERS.get(name), **choices
    )


_FILTERS = {"googlenet": without_helpers}


@register_model
def mlp(pretrained: bool = False, **choices: Any) -> Tower:
    """A multilayer perceptron of two hidden layers: what convolutions are to be compared with."""
    built: Tower = _built(_mlp, "mlp", pretrained, choices)
    return built


@register_model
def lenet5(pretrained: bool = False, **choices: Any) -> Tower:
    """LeNet-5 (LeCun et al. 1998) as the lectures draw it: colour in, ReLU, the largest of each 2 by 2."""
    built: Tower = _built(_lenet5, "lenet5", pretrained, choices)
    return built


@register_model
def alexnet(pretrained: bool = False, **choices: Any) -> Tower:
    """AlexNet (Krizhevsky et al. 2012) as the lectures draw it: one tower, 227 pixels.

    Without local response normalisation, which Simonyan and Zisserman (2015) found to bring nothing.
    """
    built: Tower = _built(_alexnet, "alexnet", pretrained, choices)
    return built


@register_model
def tv_alexnet(pretrained: bool = False, **choices: Any) -> TorchvisionAlexNet:
    """torchvision's AlexNet, of which there are weights."""
    built: TorchvisionAlexNet = _built(TorchvisionAlexNet, "tv_alexnet", pretrained, choices)
    return built


@register_model
def googlenet(pretrained: bool = False, **choices: Any) -> GoogLeNet:
    """torchvision's GoogLeNet (Szegedy et al. 2015), of which there are weights."""
    built: GoogLeNet = _built(GoogLeNet, "googlenet", pretrained, choices)
    return built

"""Registers torchvision models that timm lacks as timm models, with torchvision's parameter names. Imports torch."""

from collections.abc import Sequence
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn
from torchvision import models

from .classic import build, pretrained_cfg, select_stages

AUX_HEADS = ("aux1.", "aux2.", "AuxLogits.")  # of GoogLeNet and Inception-v3, in torchvision's and timm's checkpoints
_TORCHVISION = "https://download.pytorch.org/models"

default_cfgs = generate_default_cfgs(
    {
        "tv_alexnet.tv_in1k": pretrained_cfg(
            224,
            IMAGENET_DEFAULT_MEAN,
            IMAGENET_DEFAULT_STD,
            crop_pct=0.875,
            url=f"{_TORCHVISION}/alexnet-owt-7be5be79.pth",
            first_conv="features.0",
            classifier="classifier.6",
        ),
        # The weights were ported from TensorFlow, so they need its pixel scaling.
        "googlenet.tv_in1k": pretrained_cfg(
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


class TorchvisionAlexNet(models.AlexNet):
    """torchvision's AlexNet (Krizhevsky 2014), with torchvision's parameter names."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_features, self.head_hidden_size = 256, 4096
        self.feature_info = [
            {"module": f"features.{index}", "num_chs": width} for index, width in ((2, 64), (5, 192), (12, 256))
        ]
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replaces the classifier by one with random weights; 0 classes removes it."""
        self.num_classes = num_classes
        self.classifier[6] = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Groups the parameters by layer, as timm models do."""
        return {"stem": r"^features\.0", "blocks": [(r"^features\.(\d+)", None), (r"^classifier\.(\d+)", (99,))]}

    def forward_intermediates(
        self, x: Tensor, indices: Sequence[int] | int | None = None, output_fmt: str = "NCHW"
    ) -> tuple[Tensor, list[Tensor]]:
        """The last feature map, and the maps (N, C, h, w) after the requested pooling layers."""
        maps = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)
        return x, select_stages(indices, maps)

    def forward_head(self, x: Tensor) -> Tensor:
        """The fully connected layers."""
        output: Tensor = self.classifier(self.avgpool(x).flatten(1))
        return output


class GoogLeNet(models.GoogLeNet):
    """torchvision's GoogLeNet, with torchvision's parameter names, without the two auxiliary classifiers."""

    STAGE_NAMES = ("maxpool1", "maxpool2", "inception3b", "inception4e", "inception5b")
    STAGE_WIDTHS = (64, 192, 480, 832, 1024)

    def __init__(self, num_classes: int) -> None:
        super().__init__(aux_logits=False, init_weights=True)
        self.num_features = self.head_hidden_size = 1024
        self.feature_info = [
            {"module": name, "num_chs": width} for name, width in zip(self.STAGE_NAMES, self.STAGE_WIDTHS, strict=True)
        ]
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replaces the classifier by one with random weights; 0 classes removes it."""
        self.num_classes = num_classes
        self.fc = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Groups the parameters by layer, as timm models do."""
        layer_names = [name for name, layer in self.named_children() if next(layer.parameters(), None) is not None]
        return {"stem": r"^conv1", "blocks": [(rf"^{name}\.", (depth,)) for depth, name in enumerate(layer_names)]}

    def forward_intermediates(
        self, x: Tensor, indices: Sequence[int] | int | None = None, output_fmt: str = "NCHW"
    ) -> tuple[Tensor, list[Tensor]]:
        """The last feature map, and the maps (N, C, h, w) at the end of the requested stages."""
        maps = []
        for name, layer in self.named_children():
            if name == "avgpool":
                break
            x = layer(x)
            if name in self.STAGE_NAMES:
                maps.append(x)
        return x, select_stages(indices, maps)

    def forward_head(self, x: Tensor) -> Tensor:
        """Global average pooling and the classifier."""
        output: Tensor = self.fc(self.dropout(self.avgpool(x).flatten(1)))
        return output


def drop_aux_heads(tensors: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Removes the tensors of auxiliary classifiers from a checkpoint, unless the network has them too."""
    state_dict = network.state_dict()
    return {name: tensor for name, tensor in tensors.items() if name in state_dict or not name.startswith(AUX_HEADS)}


@register_model
def tv_alexnet(pretrained: bool = False, **kwargs: Any) -> TorchvisionAlexNet:
    """torchvision's AlexNet; pretrained weights are available."""
    model: TorchvisionAlexNet = build(TorchvisionAlexNet, "tv_alexnet", pretrained, kwargs)
    return model


@register_model
def googlenet(pretrained: bool = False, **kwargs: Any) -> GoogLeNet:
    """torchvision's GoogLeNet (Szegedy et al. 2015); pretrained weights are available."""
    model: GoogLeNet = build(GoogLeNet, "googlenet", pretrained, kwargs, drop_aux_heads)
    return model

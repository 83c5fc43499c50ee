"""The torch model: normalization, backbone and head. Training and the CUDA engine share it.

Only these two import this module: on a CPU the service needs no torch.
"""

from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..artifact import Artifact
from ..manifest import Backbone, Preprocessing
from . import torchvision  # noqa: F401 - registers its models and those of `classic` with timm
from .kernel_head import KernelHead

HEAD_PREFIX = "head."  # of the names of the head's tensors


class Network(nn.Module):
    """A backbone with a head: linear, or with a kernel machine beside it.

    Args:
        backbone: a timm network without a classifier: float (N, 3, S, S) -> (N, D).
        backbone_info: its metadata, including the head's input.
        n_labels: C.
        preprocessing: its mean and standard deviation become buffers of the network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, backbone_info: Backbone, n_labels: int, preprocessing: Preprocessing) -> None:
        super().__init__()
        # Scaled to uint8 pixels, so no division by 255 is needed. Not persistent: the manifest stores them.
        self.register_buffer("mean", 255 * torch.tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)
        self.backbone = backbone
        self._dtype = torch.float32
        self.backbone_info = backbone_info
        self.head: nn.Module = (
            KernelHead(backbone_info.head_width, n_labels, backbone_info.kernel)
            if backbone_info.kernel
            else nn.Linear(backbone_info.head_width, n_labels)
        )

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels uint8 (N, S, S, 3) to logits float (N, C) and vectors float (N, D)."""
        inputs, vectors = self.head_inputs(batch)
        logits: Tensor = self.head(inputs)
        return logits, vectors

    def head_inputs(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs of the head, float (N, head width), and the vectors of pixels uint8 (N, S, S, 3)."""
        if self.backbone_info.head_input == "last":
            vectors = self.vectors(batch)
            return vectors, vectors
        stages, vectors = self.features(batch)
        return torch.cat([stages, vectors], dim=1), vectors

    def vectors(self, batch: Tensor) -> Tensor:
        """The output vectors of the backbone: pixels uint8 (N, S, S, 3) to float (N, D)."""
        vectors: Tensor = self.backbone(self._normalize(batch))
        return vectors.float()

    def features(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled stages, concatenated, float (N, sum of their widths); and the vectors."""
        if not self.backbone_info.stages:
            vectors = self.vectors(batch)
            return vectors[:, :0], vectors
        stages, _, vectors = self.stage_maps(batch)
        return torch.cat([stage.mean(dim=(2, 3)) for stage in stages], dim=1).float(), vectors

    def stage_maps(self, batch: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """The feature maps of the stages; only for a backbone that has stages.

        Returns:
            the stages, each float (N, width, h, w); the last feature map, in the backbone's own layout; the vectors (N, D).
        """
        backbone: Any = self.backbone
        # Let the backbone pool its last map: Swin's is NHWC, and a ViT's contains class and register tokens.
        last, stages = backbone.forward_intermediates(
            self._normalize(batch), indices=list(self.backbone_info.stages), output_fmt="NCHW"
        )
        return stages, last, backbone.forward_head(last).float()

    def last_map_and_logits(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The last feature map, in the backbone's own layout, and the logits (N, C) computed from it.

        For a backbone without stages, such as an MLP, the map is the flattened image.
        """
        if self.backbone_info.stages:
            stages, last, vectors = self.stage_maps(batch)
            pooled = [stage.mean(dim=(2, 3)) for stage in stages] if self.backbone_info.head_input == "all" else []
            return last, self.head(torch.cat([*pooled, vectors], dim=1))
        backbone: Any = self.backbone
        images = self._normalize(batch)
        if hasattr(backbone, "forward_features"):
            last = backbone.forward_features(images)
        else:
            last = backbone.forward_intermediates(images)[0]
        last = last.flatten(1) if last is images else last
        return last, self.head(backbone.forward_head(last).float())

    def to_reduced_precision(self, dtype: torch.dtype) -> "Network":
        """Casts the backbone to 16 bits, except BatchNorm layers. Normalization and head stay in 32 bits."""
        self._dtype = dtype
        for module in self.backbone.modules():
            if not isinstance(module, nn.modules.batchnorm._BatchNorm):
                for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                    tensor.data = tensor.data.to(dtype) if tensor.is_floating_point() else tensor.data
        return self

    def _normalize(self, batch: Tensor) -> Tensor:
        return ((batch.permute(0, 3, 1, 2).float() - self.mean) / self.std).to(self._dtype)


def img_size_kwargs(name: str, crop: int | None) -> dict[str, int]:
    """The `img_size` argument for a timm network with a fixed input size; empty for others, which reject it."""
    return {"img_size": crop} if crop and timm.models.get_pretrained_cfg_value(name, "fixed_input_size") else {}


def build(backbone_info: Backbone, n_labels: int, preprocessing: Preprocessing) -> Network:
    """Builds the network for a backbone record, with random weights."""
    model = timm.create_model(
        backbone_info.name, pretrained=False, num_classes=0, **img_size_kwargs(backbone_info.name, preprocessing.crop)
    )
    return Network(model, backbone_info, n_labels, preprocessing)


def load(artifact: Artifact) -> Network:
    """Loads the network of a package; the weights must match exactly. For an int8 model: the f32 backbone with its head."""
    manifest = artifact.manifest
    network = build(manifest.backbone, len(manifest.labels), manifest.preprocessing)
    weights, own = load_file(artifact.weights), load_file(artifact.head)
    backbone = {name: tensor for name, tensor in weights.items() if not name.startswith(HEAD_PREFIX)}
    head = {name: tensor for name, tensor in own.items() if name.startswith(HEAD_PREFIX)}
    network.load_state_dict(backbone | head, strict=True)
    return network

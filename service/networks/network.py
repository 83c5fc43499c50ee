"""The torch network, the same object in training and on a GPU: pixels, normalisation, backbone, linear head.

Only training and the CUDA engine import this; on a CPU the service needs no torch.
"""

from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..artifact import Artifact, Backbone, Preprocessing
from . import torchvision  # noqa: F401 - their networks become timm's, to be built by name


class Network(nn.Module):
    """A backbone with a linear head grafted on.

    Args:
        body: a timm network without a classifier: float (N, 3, S, S) -> (N, D).
        facts: what is known of it, and what the head sees.
        n_labels: C.
        preprocessing: whose mean and deviation become constants of the network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, facts: Backbone, n_labels: int, preprocessing: Preprocessing) -> None:
        super().__init__()
        # On the scale of the pixels, so that no division by 255 is needed. Not in the weights: the manifest has them.
        self.register_buffer("mean", 255 * torch.tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)
        self.backbone = body
        self._kind = torch.float32
        self.facts = facts
        self.head = nn.Linear(facts.width + (sum(facts.stages.values()) if facts.sees == "all" else 0), n_labels)

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Logits float (N, C) and vectors float (N, D) of uint8 (N, S, S, 3)."""
        if self.facts.sees == "last":
            vectors = self.vectors(batch)
            return self.head(vectors), vectors
        stages, vectors = self.features(batch)
        return self.head(torch.cat([stages, vectors], dim=1)), vectors

    def vectors(self, batch: Tensor) -> Tensor:
        """What the backbone says in the end: float (N, D) of uint8 (N, S, S, 3)."""
        found: Tensor = self.backbone(self._normalised(batch))
        return found.float()

    def features(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The stages' means over their positions, side by side, float (N, sum of their widths); and the vectors."""
        if not self.facts.stages:
            vectors = self.vectors(batch)
            return vectors[:, :0], vectors
        stages, _, vectors = self.maps(batch)
        return torch.cat([stage.mean(dim=(2, 3)) for stage in stages], dim=1).float(), vectors

    def maps(self, batch: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """What is behind the features, of a network that shows its stages.

        Returns:
            each stage float (N, its width, its h, its w); what the body ends with, in its own layout; the vectors (N, D).
        """
        body: Any = self.backbone
        # Never pooled from what the body returns: Swin's is NHWC, and a ViT's has tokens of other kinds.
        last, stages = body.forward_intermediates(self._normalised(batch), indices=list(self.facts.stages), output_fmt="NCHW")
        return stages, last, body.forward_head(last).float()

    def ending(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """What the body ends with, in its own layout, and the logits (N, C) that follow from it.

        Of a body without stages, as a perceptron's is, that is the image itself, flat.
        """
        if self.facts.stages:
            stages, last, vectors = self.maps(batch)
            means = [stage.mean(dim=(2, 3)) for stage in stages] if self.facts.sees == "all" else []
            return last, self.head(torch.cat([*means, vectors], dim=1))
        body: Any = self.backbone
        shown = self._normalised(batch)
        last = body.forward_features(shown) if hasattr(body, "forward_features") else body.forward_intermediates(shown)[0]
        last = last.flatten(1) if last is shown else last
        return last, self.head(body.forward_head(last).float())

    def lower(self, kind: torch.dtype) -> "Network":
        """Lets the backbone compute in 16 bits, but for BatchNorm's statistics; normalisation and head stay in 32."""
        self._kind = kind
        for module in self.backbone.modules():
            if not isinstance(module, nn.modules.batchnorm._BatchNorm):
                for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                    tensor.data = tensor.data.to(kind) if tensor.is_floating_point() else tensor.data
        return self

    def _normalised(self, batch: Tensor) -> Tensor:
        return ((batch.permute(0, 3, 1, 2).float() - self.mean) / self.std).to(self._kind)


def sized(name: str, crop: int | None) -> dict[str, int]:
    """The argument that builds a network with position embeddings for one input size; other networks refuse it."""
    return {"img_size": crop} if crop and timm.models.get_pretrained_cfg_value(name, "fixed_input_size") else {}


def build(backbone: Backbone, n_labels: int, preprocessing: Preprocessing) -> Network:
    """The network that a backbone's facts describe, with random weights."""
    body = timm.create_model(backbone.name, pretrained=False, num_classes=0, **sized(backbone.name, preprocessing.crop))
    return Network(body, backbone, n_labels, preprocessing)


def load(artifact: Artifact) -> Network:
    """The network of a package, every tensor of its weights matched."""
    manifest = artifact.manifest
    network = build(manifest.backbone, len(manifest.labels), manifest.preprocessing)
    network.load_state_dict(load_file(artifact.weights), strict=True)
    return network

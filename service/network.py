"""The torch network, the same object in training and on a GPU: pixels, normalisation, backbone, linear head.

Only training and the CUDA engine import this; on a CPU the service needs no torch.
"""

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from service.artifact import Artifact, Backbone, Preprocessing


class Network(nn.Module):
    """A backbone with a linear head grafted on.

    Args:
        backbone: a timm network without a classifier: float (N, 3, S, S) -> (N, D).
        width: D.
        n_labels: C.
        preprocessing: whose mean and deviation become constants of the network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, width: int, n_labels: int, preprocessing: Preprocessing) -> None:
        super().__init__()
        # On the scale of the pixels, so that no division by 255 is needed. Not in the weights: the manifest has them.
        self.register_buffer("mean", 255 * torch.tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)
        self.backbone = backbone
        self.head = nn.Linear(width, n_labels)

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Logits float (N, C) and vectors float (N, D) of uint8 (N, S, S, 3)."""
        vectors = self.vectors(batch)
        return self.head(vectors), vectors

    def vectors(self, batch: Tensor) -> Tensor:
        """What the head sees: float (N, D) of uint8 (N, S, S, 3)."""
        found: Tensor = self.backbone((batch.permute(0, 3, 1, 2).float() - self.mean) / self.std)
        return found


def sized(name: str, crop: int | None) -> dict[str, int]:
    """The argument that builds a network with position embeddings for one input size; other networks refuse it."""
    return {"img_size": crop} if crop and timm.models.get_pretrained_cfg_value(name, "fixed_input_size") else {}


def build(backbone: Backbone, n_labels: int, preprocessing: Preprocessing) -> Network:
    """The network that a backbone's facts describe, with random weights."""
    body = timm.create_model(backbone.name, pretrained=False, num_classes=0, **sized(backbone.name, preprocessing.crop))
    return Network(body, backbone.width, n_labels, preprocessing)


def load(artifact: Artifact) -> Network:
    """The network of a package, every tensor of its weights matched."""
    manifest = artifact.manifest
    network = build(manifest.backbone, len(manifest.labels), manifest.preprocessing)
    network.load_state_dict(load_file(artifact.weights), strict=True)
    return network

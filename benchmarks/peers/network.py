"""Loads a Graft package into a plain timm network, with preprocessing in Pillow, as any other tool would.

Shared by all peers that serve, so that their predictions agree. Depends only on two files of the package, `manifest.json` and
`weights.safetensors`; must not import Graft. Images are decoded at full size, as Pillow does by default.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor


class Classifier:
    """Classifies images with torch.

    Args:
        package: folder of the package.
        threads: number of torch threads per forward pass.
    """

    def __init__(self, package: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        manifest = json.loads((package / "manifest.json").read_text(encoding="utf-8"))
        self.labels, self.temperature, self._preprocessing = (
            manifest["labels"],
            manifest["temperature"],
            manifest["preprocessing"],
        )
        self._network = load_network(package, manifest["backbone"]["name"], len(self.labels))
        self._mean, self._std = (torch.tensor(self._preprocessing[key]).view(3, 1, 1) for key in ("mean", "std"))

    def preprocess(self, image: Image.Image) -> Tensor:
        """Preprocess an image: normalized float32 (3, S, S)."""
        crop = self._preprocessing["crop"]
        width, height = image.size
        side = min(width, height) * crop / self._preprocessing["resize"]
        box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
        resized = image.convert("RGB").resize(
            (crop, crop), Image.Resampling[self._preprocessing["interpolation"].upper()], box=box
        )
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
        return (pixels - self._mean) / self._std

    @torch.inference_mode()
    def probabilities(self, batch: Tensor) -> Tensor:
        """Class probabilities, float32 (N, C), of N preprocessed images."""
        logits = self._network(batch.contiguous(memory_format=torch.channels_last))
        return torch.softmax(logits / self.temperature, dim=1)

    def to_response(self, row: Tensor) -> dict[str, Any]:
        """Labels and probabilities of one image, most probable first."""
        ranked = sorted(zip(self.labels, row.tolist(), strict=True), key=lambda pair: -pair[1])
        return {"predictions": [{"label": label, "probability": probability} for label, probability in ranked]}


def load_network(package: Path, name: str, n_labels: int) -> torch.nn.Module:
    """A timm network with the weights of the package; every tensor must match."""
    model = timm.create_model(name, num_classes=n_labels)
    classifier = model.pretrained_cfg["classifier"]
    tensors = load_file(package / "weights.safetensors")
    head_names = {"head.weight": f"{classifier}.weight", "head.bias": f"{classifier}.bias"}
    renamed = {head_names.get(key, key.removeprefix("backbone.")): value for key, value in tensors.items()}
    model.load_state_dict(renamed, strict=True)
    return model.eval().to(memory_format=torch.channels_last)


def from_environment() -> Classifier:
    """Create the classifier from PEER_PACKAGE and PEER_THREADS: servers start their workers without arguments."""
    return Classifier(Path(os.environ["PEER_PACKAGE"]), int(os.environ.get("PEER_THREADS", "1")))

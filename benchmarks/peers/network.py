"""A Graft package as any other tool would use it: its weights in a plain timm network, its preprocessing by Pillow.

What the served peers share, so that they can give the same answers. Knows nothing of Graft but two files of the package:
`manifest.json` and `weights.safetensors`. Pictures are decoded whole, which is what Pillow does unless asked otherwise.
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
    """Images in, ranked labels out, in torch.

    Args:
        package: the folder.
        threads: that one forward pass may use.
    """

    def __init__(self, package: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        facts = json.loads((package / "manifest.json").read_text(encoding="utf-8"))
        self.labels, self.temperature, self._how = facts["labels"], facts["temperature"], facts["preprocessing"]
        self._network = network(package, facts["backbone"]["name"], len(self.labels))
        self._mean, self._std = (torch.tensor(self._how[key]).view(3, 1, 1) for key in ("mean", "std"))

    def pixels(self, image: Image.Image) -> Tensor:
        """What the network sees of an image: normalised float32 (3, S, S)."""
        crop = self._how["crop"]
        width, height = image.size
        side = min(width, height) * crop / self._how["resize"]
        box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
        small = image.convert("RGB").resize((crop, crop), Image.Resampling[self._how["interpolation"].upper()], box=box)
        seen = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255
        return (seen - self._mean) / self._std

    @torch.inference_mode()
    def probabilities(self, batch: Tensor) -> Tensor:
        """float32 (N, C) of what `pixels` made of N images."""
        logits = self._network(batch.contiguous(memory_format=torch.channels_last))
        return torch.softmax(logits / self.temperature, dim=1)

    def answer(self, row: Tensor) -> dict[str, Any]:
        """The labels of one image, the most probable first."""
        ranked = sorted(zip(self.labels, row.tolist(), strict=True), key=lambda pair: -pair[1])
        return {"predictions": [{"label": label, "probability": probability} for label, probability in ranked]}


def network(package: Path, name: str, n_labels: int) -> torch.nn.Module:
    """The timm network with the package's weights, every tensor matched."""
    built = timm.create_model(name, num_classes=n_labels)
    classifier = built.pretrained_cfg["classifier"]
    found = load_file(package / "weights.safetensors")
    heads = {"head.weight": f"{classifier}.weight", "head.bias": f"{classifier}.bias"}
    renamed = {heads.get(key, key.removeprefix("backbone.")): value for key, value in found.items()}
    built.load_state_dict(renamed, strict=True)
    return built.eval().to(memory_format=torch.channels_last)


def from_environment() -> Classifier:
    """The classifier that PEER_PACKAGE and PEER_THREADS name: servers start their workers with no other argument."""
    return Classifier(Path(os.environ["PEER_PACKAGE"]), int(os.environ.get("PEER_THREADS", "1")))

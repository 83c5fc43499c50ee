"""Extracts the feature maps of every stage. Needs torch, so only `graft inspect` uses it."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graft.service.explain.gradcam import positions, prefix_tokens, width_of
from graft.service.explain.overlay import coloured
from graft.service.inference.engine import Floats, Pixels
from graft.service.inference.openvino import Graph
from graft.service.networks.network import Network
from graft.training.backbones.onnx_export import to_onnx
from graft.training.visualization import contact_sheet

LAST = "last"  # the stage that is pooled into the feature vector
SHOWN, COLUMNS, SIDE = 12, 4, 44  # per stage: channels, tiles in a row, pixels of a tile

Maps = dict[str, Floats]


class Stages(nn.Module):
    """Returns the feature map (1, D, h, w) of each stage, by name, for an image uint8 (1, S, S, 3).

    The stages are those of `Backbone.stages` and the last one. A stage without spatial positions is left out.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        network, indices = self.network, list(self.network.facts.stages)
        if indices:
            stages, last, _ = network.maps(batch)
        else:
            stages, (last, _) = [], network.ending(batch)
        backbone = network.backbone
        last_map = positions(last, width_of(backbone, last), prefix_tokens(backbone))
        outputs = {f"stage{index + 1}": stage[:1] for index, stage in zip(indices, stages, strict=True)}
        if last_map is not None and not (stages and stages[-1] is last):
            outputs[LAST] = last_map[None]
        return {name: output for name, output in outputs.items() if output.ndim == 4 and output[0, 0].numel() > 1}


def stages(network: Network, crop: int, folder: Path) -> Graph | None:
    """Exports the stages to an OpenVINO model, several times faster than torch on a CPU; None for a network without stages."""
    extractor = Stages(network).eval()
    with torch.inference_mode():
        names = list(extractor(torch.zeros(1, crop, crop, 3, dtype=torch.uint8)))
    if not names:
        return None
    to_onnx(extractor, crop, folder / "stages.onnx", names)
    return Graph(folder / "stages.onnx")


def modules(network: Network) -> dict[str, str]:
    """The module name of each stage except the last, from timm's `feature_info`."""
    feature_info = list(getattr(network.backbone, "feature_info", []))
    indices = [index for index in network.facts.stages if index < len(feature_info)]
    return {f"stage{index + 1}": f"backbone.{feature_info[index]['module']}" for index in indices}


def maps(graph: Graph, pixels: Pixels) -> Maps:
    """The feature maps float32 (D, h, w) of an image uint8 (S, S, 3), by stage, first to last."""
    return {name: output[0] for name, output in graph(pixels[None]).items()}


def tiled(map: Floats) -> bytes:
    """A PNG of the twelve channels with the highest spatial variance of a feature map (D, h, w).

    Each channel is scaled separately, from its minimum (black) to its maximum.
    """
    return contact_sheet.sheet([channel_picture(map[channel]) for channel in liveliest(map, SHOWN)], COLUMNS, SIDE)


def liveliest(map: Floats, most: int) -> NDArray[np.intp]:
    """The channels of a feature map (D, h, w) with the highest spatial variance, in ascending order."""
    deviations = map.std(axis=(1, 2))
    return np.sort(np.argsort(-deviations, kind="stable")[:most])


def channel_picture(channel: Floats) -> Pixels:
    """One channel (h, w) as a color image, uint8 (h, w, 3)."""
    low, high = float(channel.min()), float(channel.max())
    scaled = (channel - low) / (high - low) if high > low else np.zeros_like(channel)
    colors: Pixels = np.round(coloured(scaled)).astype(np.uint8)
    return colors

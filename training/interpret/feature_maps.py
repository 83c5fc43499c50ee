"""What each stage of a network says of an image, map by map. With torch, so only where somebody inspects a package."""

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

LAST = "last"  # the map that the network's vectors come from
SHOWN, COLUMNS, SIDE = 12, 4, 44  # of a stage: channels, tiles in a row, pixels of a tile

Maps = dict[str, Floats]


class Stages(nn.Module):
    """A network that says what its stages do: of uint8 (1, S, S, 3) each map (1, D, h, w), by its stage's name.

    Stages are those that `Backbone.stages` knows, by the names that features have, and the last map; whatever has no
    positions is left out.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        network, numbers = self.network, list(self.network.facts.stages)
        if numbers:
            stages, last, _ = network.maps(batch)
        else:
            stages, (last, _) = [], network.ending(batch)
        body = network.backbone
        ended = positions(last, width_of(body, last), prefix_tokens(body))
        said = {f"stage{number + 1}": stage[:1] for number, stage in zip(numbers, stages, strict=True)}
        if ended is not None and not (stages and stages[-1] is last):
            said[LAST] = ended[None]
        return {name: map for name, map in said.items() if map.ndim == 4 and map[0, 0].numel() > 1}


def stages(network: Network, crop: int, folder: Path) -> Graph | None:
    """The stages as a graph in a folder, several times as fast as torch on a CPU; None of a network without any."""
    shown = Stages(network).eval()
    with torch.inference_mode():
        names = list(shown(torch.zeros(1, crop, crop, 3, dtype=torch.uint8)))
    if not names:
        return None
    to_onnx(shown, crop, folder / "stages.onnx", names)
    return Graph(folder / "stages.onnx")


def modules(network: Network) -> dict[str, str]:
    """Which module of the network says each stage but the last map, as far as timm tells."""
    facts = list(getattr(network.backbone, "feature_info", []))
    numbers = [number for number in network.facts.stages if number < len(facts)]
    return {f"stage{number + 1}": f"backbone.{facts[number]['module']}" for number in numbers}


def maps(graph: Graph, pixels: Pixels) -> Maps:
    """Every stage's map of an image uint8 (S, S, 3), from the first to the last: float32 (D, h, w) by the stage's name."""
    return {name: map[0] for name, map in graph(pixels[None]).items()}


def tiled(map: Floats) -> bytes:
    """The twelve channels of a map (D, h, w) that differ most from place to place, as a PNG of tiles; each on a scale of its
    own, from its lowest value, black, to its highest.
    """
    return contact_sheet.sheet([channel_picture(map[channel]) for channel in liveliest(map, SHOWN)], COLUMNS, SIDE)


def liveliest(map: Floats, most: int) -> NDArray[np.intp]:
    """The channels of a map (D, h, w) whose values differ most from place to place, in their order."""
    spread = map.std(axis=(1, 2))
    return np.sort(np.argsort(-spread, kind="stable")[:most])


def channel_picture(channel: Floats) -> Pixels:
    """One channel (h, w) in colours, uint8 (h, w, 3)."""
    low, high = float(channel.min()), float(channel.max())
    heat = (channel - low) / (high - low) if high > low else np.zeros_like(channel)
    shown: Pixels = np.round(coloured(heat)).astype(np.uint8)
    return shown

"""Extracts the feature maps of every stage. Needs torch, so only `graft inspect` uses it."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graft.service.explain.gradcam import n_channels, n_prefix_tokens, to_spatial
from graft.service.explain.overlay import apply_colormap
from graft.service.inference.engine import Floats, Pixels
from graft.service.inference.openvino import OpenVinoModel
from graft.service.networks.network import Network
from graft.training.backbones.onnx_export import to_onnx
from graft.training.visualization import contact_sheet

LAST_STAGE = "last"  # the stage that is pooled into the feature vector
MAX_CHANNELS, COLUMNS, TILE_SIZE = 12, 4, 44  # per stage: channels, tiles in a row, pixels of a tile

Maps = dict[str, Floats]


class StageExtractor(nn.Module):
    """Returns the feature map (1, D, h, w) of each stage, by name, for an image uint8 (1, S, S, 3).

    The stages are those of `Backbone.stages` and the last one. A stage without spatial positions is left out.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        network, indices = self.network, list(self.network.backbone_info.stages)
        if indices:
            stages, last, _ = network.stage_maps(batch)
        else:
            stages, (last, _) = [], network.last_map_and_logits(batch)
        backbone = network.backbone
        last_map = to_spatial(last, n_channels(backbone, last), n_prefix_tokens(backbone))
        outputs = {f"stage{index + 1}": stage[:1] for index, stage in zip(indices, stages, strict=True)}
        if last_map is not None and not (stages and stages[-1] is last):
            outputs[LAST_STAGE] = last_map[None]
        return {name: output for name, output in outputs.items() if output.ndim == 4 and output[0, 0].numel() > 1}


def export_stages(network: Network, crop: int, folder: Path) -> OpenVinoModel | None:
    """Exports the stages to an OpenVINO model, several times faster than torch on a CPU; None for a network without stages."""
    extractor = StageExtractor(network).eval()
    with torch.inference_mode():
        names = list(extractor(torch.zeros(1, crop, crop, 3, dtype=torch.uint8)))
    if not names:
        return None
    to_onnx(extractor, crop, folder / "stages.onnx", names)
    return OpenVinoModel(folder / "stages.onnx")


def stage_modules(network: Network) -> dict[str, str]:
    """The module name of each stage except the last, from timm's `feature_info`."""
    feature_info = list(getattr(network.backbone, "feature_info", []))
    indices = [index for index in network.backbone_info.stages if index < len(feature_info)]
    return {f"stage{index + 1}": f"backbone.{feature_info[index]['module']}" for index in indices}


def stage_maps(graph: OpenVinoModel, pixels: Pixels) -> Maps:
    """The feature maps float32 (D, h, w) of an image uint8 (S, S, 3), by stage, first to last."""
    return {name: output[0] for name, output in graph(pixels[None]).items()}


def tile_channels(feature_map: Floats) -> bytes:
    """A PNG of the twelve channels with the highest spatial variance of a feature map (D, h, w).

    Each channel is scaled separately, from its minimum (black) to its maximum.
    """
    return contact_sheet.tile_sheet(
        [channel_image(feature_map[channel]) for channel in top_variance_channels(feature_map, MAX_CHANNELS)],
        COLUMNS,
        TILE_SIZE,
    )


def top_variance_channels(feature_map: Floats, max_channels: int) -> NDArray[np.intp]:
    """The channels of a feature map (D, h, w) with the highest spatial variance, in ascending order."""
    deviations = feature_map.std(axis=(1, 2))
    return np.sort(np.argsort(-deviations, kind="stable")[:max_channels])


def channel_image(channel: Floats) -> Pixels:
    """One channel (h, w) as a color image, uint8 (h, w, 3)."""
    low, high = float(channel.min()), float(channel.max())
    scaled = (channel - low) / (high - low) if high > low else np.zeros_like(channel)
    colors: Pixels = np.round(apply_colormap(scaled)).astype(np.uint8)
    return colors

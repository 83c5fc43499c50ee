"""What each stage of a network says of an image, map by map. With torch, so only where somebody inspects a package."""

import numpy as np
import torch
from numpy.typing import NDArray

from service.engine import Floats, Pixels
from service.gradcam import positions, prefix_tokens, width_of
from service.network import Network
from service.overlay import coloured
from training import tiles

LAST = "last"  # the map that the network's vectors come from
SHOWN, COLUMNS, SIDE = 12, 4, 44  # of a stage: channels, tiles in a row, pixels of a tile

Maps = dict[str, Floats]


def maps(network: Network, pixels: Pixels) -> Maps:
    """Every stage's map of an image uint8 (S, S, 3), from the first to the last: float32 (D, h, w) by the stage's name.

    Stages are those that `Backbone.stages` knows, by the names that features have; whatever has no positions is left out.
    """
    batch, numbers = torch.from_numpy(pixels.copy())[None], list(network.facts.stages)
    with torch.inference_mode():
        if numbers:
            stages, last, _ = network.maps(batch)
        else:
            stages, (last, _) = [], network.ending(batch)
    body = network.backbone
    said = [(f"stage{number + 1}", stage[0]) for number, stage in zip(numbers, stages, strict=True)]
    ended = positions(last, width_of(body, last), prefix_tokens(body))
    found = [*said, (LAST, ended)] if ended is not None and not _same(ended, said) else said
    return {name: map.float().numpy() for name, map in found if map.ndim == 3 and map[0].numel() > 1}


def _same(last: torch.Tensor, said: list[tuple[str, torch.Tensor]]) -> bool:
    return bool(said) and said[-1][1].shape == last.shape and bool(torch.equal(said[-1][1], last))


def tiled(map: Floats) -> bytes:
    """The twelve channels of a map (D, h, w) that differ most from place to place, as a PNG of tiles; each on a scale of its
    own, from its lowest value, black, to its highest.
    """
    return tiles.sheet([channel_picture(map[channel]) for channel in liveliest(map, SHOWN)], COLUMNS, SIDE)


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

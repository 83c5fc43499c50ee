"""A window at every place of an image and in several sizes, and what the network says of each. Numpy; no torch.

A network whose vectors are means over a map is passed once a size over the whole image, and the head is applied to the
means over each window of that map: neighbouring windows share nearly all of their computation (Sermanet et al. 2014,
"OverFeat: Integrated Recognition, Localization and Detection using Convolutional Networks"). A window then ends where its
map does; its network has also seen a little of what lies beside it, where one that is cut out sees an edge.

Of any other network, of one whose graph takes no other size than its own, and of one whose map has too few cells (each of
them then sees far more than a window), windows are cut out and asked one by one.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graft.service.imaging.preprocess import FILTERS
from graft.service.inference.devices import cores
from graft.service.inference.model import Model, head_of
from graft.service.inference.openvino import Graph
from graft.training.runtime.thread_map import each

Numbers = NDArray[np.float64]
Cells = NDArray[np.int64]

ZOOMS = tuple(2 ** (third / 3) for third in range(7))  # how many windows fit along the shorter side: 1 to 4
FEWEST_CELLS = 6  # along a map's side; with 4, things on a noisy ground were found in windows that are cut out, and only there
MOST_PIXELS = 2**21  # of one pass: 1448 x 1448, of which a small network's maps take some hundred megabytes
LONG = 1.3  # a long window is so many times as wide and as much less high as a square one, or the other way round
STEPS = 3  # of windows that are cut out, for each of their sides


class Windows(NamedTuple):
    """What the network says of K windows.

    Attributes:
        boxes: (K, 4), left, top, right and bottom, as shares of the image's width and height.
        logits: (K, C), of what is inside.
        around: (K, C), of what lies around; NaN where nothing does.
        vectors: float32 (K, D), of what is inside.
    """

    boxes: Numbers
    logits: Numbers
    around: Numbers
    vectors: NDArray[np.float32]


def windows(model: Model, picture: Image.Image) -> tuple[Windows, bool]:
    """All windows over a picture in RGB, and whether they share one pass a size."""
    n_cells = side_of_map(model)
    shared = passed(model, picture, n_cells) if n_cells >= FEWEST_CELLS else []
    parts = shared or [cut(model, picture, zoom) for zoom in ZOOMS]
    return Windows(*(np.concatenate(found) for found in zip(*parts, strict=True))), bool(shared)


def passed(model: Model, picture: Image.Image, n_cells: int) -> list[Windows]:
    """The windows of each size, by one pass each; none at all if the graph does not bear every size.

    Args:
        n_cells: as `side_of_map` gives it, and not 0.
    """
    crop, names = model.manifest.preprocessing.crop, model.manifest.backbone.maps
    step, head, found = crop // n_cells, head_of(model.artifact), []
    for zoom in ZOOMS:
        height, width = size(picture.width, picture.height, zoom * crop, step)
        if zoom > 1 and height * width > MOST_PIXELS:
            break
        try:
            graph = Graph(model.artifact.graph, lanes=1, wanted=names, size=(height, width))
            said = graph(_scaled(model, picture, width, height)[None])
        except RuntimeError:  # OpenVINO's, for a graph with sizes written into it
            return []
        maps = {name: said[name][0] for name in names}
        down, across = height // step, width // step
        if not all(one.shape[1] % down == 0 and one.shape[2] % across == 0 for one in maps.values()):
            return []
        margin = max(1, round(n_cells / 4))
        found.append(of_maps(maps, head, (down, across), places(down, across, n_cells), margin))
    return found


def side_of_map(model: Model) -> int:
    """How many cells the last map has along each side at the network's own size; 0 if no map divides it evenly."""
    crop, names = model.manifest.preprocessing.crop, list(model.manifest.backbone.maps)
    if not names:
        return 0
    graph = Graph(model.artifact.graph, lanes=1, wanted=names[-1:])
    height, width = graph(np.zeros((1, crop, crop, 3), np.uint8))[names[-1]].shape[2:]
    return int(height) if height == width and crop % height == 0 else 0


def size(width: int, height: int, side: float, step: int) -> tuple[int, int]:
    """Height and width of an image whose shorter side becomes about `side`, in whole steps."""
    scale = side / min(width, height)
    return max(1, round(scale * height / step)) * step, max(1, round(scale * width / step)) * step


def places(down: int, across: int, n_cells: int) -> Cells:
    """Every window on a map of down x across cells: int64 (K, 4), top, left, bottom, right.

    Windows are squares of `n_cells` x `n_cells`, what the network learned on, and as large ones that are wide or high.
    """
    short, long = max(1, round(n_cells / LONG)), round(n_cells * LONG)
    found = [
        (top, left, top + high, left + wide)
        for high, wide in dict.fromkeys(((n_cells, n_cells), (short, long), (long, short)))
        for top in range(down - high + 1)
        for left in range(across - wide + 1)
    ]
    return np.array(found, np.int64).reshape(-1, 4)


def of_maps(
    maps: Mapping[str, NDArray[np.float32]], head: tuple[Numbers, Numbers], cells: tuple[int, int], found: Cells, margin: int
) -> Windows:
    """What a head says of windows over maps.

    Args:
        maps: each (its D, its h, its w), h and w being multiples of `cells`; their means side by side are what the head
            sees, and those of the last one the network's vectors.
        head: weights (C, sum of all D) and bias (C,).
        found: windows as `places` gives them.
        margin: so many cells on each side of a window are what lies around it.
    """
    (down, across), (weight, bias) = cells, head
    outer = np.clip(found + margin * np.array([-1, -1, 1, 1]), 0, [down, across, down, across])
    inside, around = [], []
    for one in maps.values():
        sums = np.pad(one.astype(np.float64).cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
        ratio = np.array([one.shape[1] // down, one.shape[2] // across] * 2)
        (within, n_within), (both, n_both) = _sums(sums, found * ratio), _sums(sums, outer * ratio)
        inside.append(within / n_within)
        with np.errstate(invalid="ignore"):  # 0 / 0 where nothing lies around
            around.append((both - within) / np.where(n_both > n_within, n_both - n_within, np.nan))
    boxes = found[:, [1, 0, 3, 2]] / np.array([across, down, across, down])
    logits, beside = (weight @ np.concatenate(parts) + bias[:, None] for parts in (inside, around))
    return Windows(boxes, logits.T, beside.T, inside[-1].T.astype(np.float32))


def _sums(sums: Numbers, found: Cells) -> tuple[Numbers, Cells]:
    """The sums (D, K) of a map over windows, from its running sums (D, h + 1, w + 1), and over how many cells (K,)."""
    top, left, bottom, right = found.T
    total = sums[:, bottom, right] - sums[:, top, right] - sums[:, bottom, left] + sums[:, top, left]
    return total, (bottom - top) * (right - left)


def cut(model: Model, picture: Image.Image, zoom: float) -> Windows:
    """The square windows of one size, each cut out and asked by itself; around it are those of its size beside it."""
    side, crop = min(picture.size) / zoom, model.manifest.preprocessing.crop
    down, across = (max(1, round((length / side - 1) * STEPS) + 1) for length in (picture.height, picture.width))
    tops, lefts = np.linspace(0, picture.height - side, down), np.linspace(0, picture.width - side, across)
    corners = np.stack(np.meshgrid(tops, lefts, indexing="ij"), axis=-1).reshape(-1, 2)
    how = FILTERS[model.manifest.preprocessing.interpolation]

    def asked(rows: Numbers) -> tuple[Numbers, NDArray[np.float32]]:
        squares = [picture.resize((crop, crop), how, box=(left, top, left + side, top + side)) for top, left in rows]
        said = model.engine(np.stack([np.asarray(square) for square in squares]))
        return said.logits.astype(np.float64), said.vectors

    some = np.array_split(corners, math.ceil(len(corners) / model.engine.max_batch))
    logits, vectors = (np.concatenate(parts) for parts in zip(*each(asked, some, cores()), strict=True))
    ends = np.concatenate([corners[:, ::-1], corners[:, ::-1] + side], axis=1)
    return Windows(ends / np.array(picture.size * 2), logits, beside(corners, side, logits), vectors)


def beside(corners: Numbers, side: float, logits: Numbers) -> Numbers:
    """The mean logits (K, C) of the windows beside each: those that are half a side to one and a half sides away.

    Args:
        corners: (K, 2).
        logits: (K, C); the result is NaN where there is no window beside.
    """
    away = np.abs(corners[:, None] - corners[None]).max(axis=-1) / side
    near = ((away > 0.5) & (away <= 1.5)).astype(np.float64)
    with np.errstate(invalid="ignore"):
        means: Numbers = near @ logits / np.where(near.any(axis=1), near.sum(axis=1), np.nan)[:, None]
    return means


def _scaled(model: Model, picture: Image.Image, width: int, height: int) -> NDArray[np.uint8]:
    return np.asarray(picture.resize((width, height), FILTERS[model.manifest.preprocessing.interpolation]))

"""Scans an image with sliding windows at several scales and returns the network's outputs for each. Numpy; no torch.

Dense evaluation: if a network's feature vector is the mean over a feature map, the whole image runs through it once per
scale, and the head is applied to the mean over each window of the map. Neighboring windows then share nearly all of their
computation (Sermanet et al. 2014, "OverFeat: Integrated Recognition, Localization and Detection using Convolutional
Networks"). The receptive field of such a window extends a little beyond its edge, where a cropped window is padded.

Any other network evaluates cropped windows one by one. So does a network whose graph has a fixed input size, and one whose
feature map has too few cells: the receptive field of each cell is then much larger than a window.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graft.service.imaging.preprocess import RESAMPLING_FILTERS
from graft.service.inference.devices import available_cpus
from graft.service.inference.head import Head, load_head
from graft.service.inference.model import Model
from graft.service.inference.openvino import OpenVinoModel
from graft.service.inference.thread_map import ordered_map

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SCALES = tuple(2 ** (third / 3) for third in range(7))  # windows along the shorter side of the image: 1 to 4
MIN_MAP_SIZE = 6  # along a map's side; with 4, only cropped windows detected objects on a noisy background
MAX_PASS_PIXELS = 2**21  # of one pass: 1448 x 1448; the feature maps of a small network then take some hundred megabytes
ASPECT_STRETCH = 1.3  # a wide window is this factor wider and lower than the square one; a tall window is the reverse
STEPS_PER_WINDOW = 3  # positions of a cropped window per window side


class WindowOutputs(NamedTuple):
    """The network's outputs for K windows.

    Attributes:
        boxes: (K, 4), left, top, right and bottom, as fractions of the image's width and height.
        logits: (K, C), of the window's content.
        context_logits: (K, C), logits of its surroundings; NaN where there are none.
        vectors: float32 (K, D), of the window's content.
    """

    boxes: Floats
    logits: Floats
    context_logits: Floats
    vectors: NDArray[np.float32]


def scan_windows(model: Model, image: Image.Image) -> tuple[WindowOutputs, bool]:
    """Evaluates all windows of an RGB image; also returns whether the evaluation was dense (one pass per scale)."""
    n_cells = feature_map_size(model)
    dense = scan_dense(model, image, n_cells) if n_cells >= MIN_MAP_SIZE else []
    by_scale = dense or [scan_crops(model, image, scale) for scale in SCALES]
    return WindowOutputs(*(np.concatenate(arrays) for arrays in zip(*by_scale, strict=True))), bool(dense)


def scan_dense(model: Model, image: Image.Image, n_cells: int) -> list[WindowOutputs]:
    """Dense evaluation: one pass for each scale. Empty if the graph does not accept every size.

    Args:
        n_cells: the result of `feature_map_size`, not 0.
    """
    crop, names = model.manifest.preprocessing.crop, model.manifest.backbone.map_outputs
    stride, head, by_scale = crop // n_cells, load_head(model.artifact), []
    for scale in SCALES:
        height, width = scaled_size(image.width, image.height, scale * crop, stride)
        if scale > 1 and height * width > MAX_PASS_PIXELS:
            break
        try:
            graph = OpenVinoModel(model.artifact.graph, streams=1, output_names=names, size=(height, width))
            results = graph(_resize(model, image, width, height)[None])
        except RuntimeError:  # from OpenVINO, for a graph with fixed sizes
            return []
        maps = {name: results[name][0] for name in names}
        n_rows, n_columns = height // stride, width // stride
        if not all(
            feature_map.shape[1] % n_rows == 0 and feature_map.shape[2] % n_columns == 0 for feature_map in maps.values()
        ):
            return []
        margin = max(1, round(n_cells / 4))
        by_scale.append(pool_windows(maps, head, (n_rows, n_columns), window_cells(n_rows, n_columns, n_cells), margin))
    return by_scale


def feature_map_size(model: Model) -> int:
    """The side of the last feature map, in cells, at the network's input size; 0 if no map divides that size evenly."""
    crop, names = model.manifest.preprocessing.crop, list(model.manifest.backbone.map_outputs)
    if not names:
        return 0
    graph = OpenVinoModel(model.artifact.graph, streams=1, output_names=names[-1:])
    height, width = graph(np.zeros((1, crop, crop, 3), np.uint8))[names[-1]].shape[2:]
    return int(height) if height == width and crop % height == 0 else 0


def scaled_size(width: int, height: int, shorter_side: float, stride: int) -> tuple[int, int]:
    """The height and width of an image resized so that its shorter side is about `shorter_side`, in multiples of a stride."""
    scale = shorter_side / min(width, height)
    return max(1, round(scale * height / stride)) * stride, max(1, round(scale * width / stride)) * stride


def window_cells(n_rows: int, n_columns: int, n_cells: int) -> Ints:
    """Every window on a feature map of n_rows x n_columns cells: int64 (K, 4), top, left, bottom, right.

    Windows are squares of `n_cells` x `n_cells`, the size of a training image, and wide and tall ones of the same area.
    """
    short, long = max(1, round(n_cells / ASPECT_STRETCH)), round(n_cells * ASPECT_STRETCH)
    boxes = [
        (top, left, top + height, left + width)
        for height, width in dict.fromkeys(((n_cells, n_cells), (short, long), (long, short)))
        for top in range(n_rows - height + 1)
        for left in range(n_columns - width + 1)
    ]
    return np.array(boxes, np.int64).reshape(-1, 4)


def pool_windows(
    maps: Mapping[str, NDArray[np.float32]],
    head: Head,
    map_shape: tuple[int, int],
    cell_boxes: Ints,
    margin: int,
) -> WindowOutputs:
    """Applies the head to the mean over each window of the feature maps.

    Args:
        maps: each (its D, its h, its w); h and w are multiples of `map_shape`. The head's input is the concatenation of
            their means; the feature vector is the mean of the last map.
        head: its inputs are as wide as all D together.
        map_shape: rows and columns of the coarsest map.
        cell_boxes: windows, the result of `window_cells`.
        margin: width, in cells, of the surroundings on each side of a window.
    """
    n_rows, n_columns = map_shape
    outer_boxes = np.clip(cell_boxes + margin * np.array([-1, -1, 1, 1]), 0, [n_rows, n_columns, n_rows, n_columns])
    inside, around = [], []
    for feature_map in maps.values():
        integral = np.pad(feature_map.astype(np.float64).cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
        ratio = np.array([feature_map.shape[1] // n_rows, feature_map.shape[2] // n_columns] * 2)
        (inner, n_inner), (outer, n_outer) = (
            _window_sums(integral, cell_boxes * ratio),
            _window_sums(integral, outer_boxes * ratio),
        )
        inside.append(inner / n_inner)
        with np.errstate(invalid="ignore"):  # 0 / 0 where a window has no surroundings
            around.append((outer - inner) / np.where(n_outer > n_inner, n_outer - n_inner, np.nan))
    boxes = cell_boxes[:, [1, 0, 3, 2]] / np.array([n_columns, n_rows, n_columns, n_rows])
    logits, context_logits = (head(np.concatenate(means).T) for means in (inside, around))
    return WindowOutputs(boxes, logits, context_logits, inside[-1].T.astype(np.float32))


def _window_sums(integral: Floats, cell_boxes: Ints) -> tuple[Floats, Ints]:
    """The sum over each window of a feature map (D, K), from its integral image (D, h + 1, w + 1), and the cell counts (K,)."""
    top, left, bottom, right = cell_boxes.T
    total = integral[:, bottom, right] - integral[:, top, right] - integral[:, bottom, left] + integral[:, top, left]
    return total, (bottom - top) * (right - left)


def scan_crops(model: Model, image: Image.Image, scale: float) -> WindowOutputs:
    """Crops the square windows of one scale and evaluates each; its surroundings are the adjacent windows of that scale."""
    side, crop = min(image.size) / scale, model.manifest.preprocessing.crop
    n_rows, n_columns = (max(1, round((length / side - 1) * STEPS_PER_WINDOW) + 1) for length in (image.height, image.width))
    tops, lefts = np.linspace(0, image.height - side, n_rows), np.linspace(0, image.width - side, n_columns)
    corners = np.stack(np.meshgrid(tops, lefts, indexing="ij"), axis=-1).reshape(-1, 2)
    resample = RESAMPLING_FILTERS[model.manifest.preprocessing.interpolation]

    def infer(corner_batch: Floats) -> tuple[Floats, NDArray[np.float32]]:
        crops = [image.resize((crop, crop), resample, box=(left, top, left + side, top + side)) for top, left in corner_batch]
        results = model.engine(np.stack([np.asarray(pixels) for pixels in crops]))
        return results.logits.astype(np.float64), results.vectors

    batches = np.array_split(corners, math.ceil(len(corners) / model.engine.max_batch))
    logits, vectors = (np.concatenate(arrays) for arrays in zip(*ordered_map(infer, batches, available_cpus()), strict=True))
    boxes = np.concatenate([corners[:, ::-1], corners[:, ::-1] + side], axis=1)
    return WindowOutputs(boxes / np.array(image.size * 2), logits, neighbor_means(corners, side, logits), vectors)


def neighbor_means(corners: Floats, side: float, logits: Floats) -> Floats:
    """The mean logits (K, C) of each window's neighbors: the windows between half a side and one and a half sides away.

    Args:
        corners: (K, 2).
        logits: (K, C); the result is NaN for a window without neighbors.
    """
    distances = np.abs(corners[:, None] - corners[None]).max(axis=-1) / side
    neighbors = ((distances > 0.5) & (distances <= 1.5)).astype(np.float64)
    with np.errstate(invalid="ignore"):
        means: Floats = neighbors @ logits / np.where(neighbors.any(axis=1), neighbors.sum(axis=1), np.nan)[:, None]
    return means


def _resize(model: Model, image: Image.Image, width: int, height: int) -> NDArray[np.uint8]:
    return np.asarray(image.resize((width, height), RESAMPLING_FILTERS[model.manifest.preprocessing.interpolation]))

"""Finds the image patches with the highest activation of single channels.

Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks", figure 2. Numpy only: feature maps are the input.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.service.inference.engine import Floats, Pixels
from graft.training.architecture.receptive_field import Box, ReceptiveField

Integers = NDArray[np.intp]

PADDING_VALUE = 128  # gray level outside the image


@dataclass(frozen=True)
class ChannelMaxima:
    """Maximum activation of each channel of one stage, and its position, for N images.

    Attributes:
        values: float32 (N, D), the spatial maximum.
        means: float32 (N, D), the spatial mean.
        rows, columns: int (N, D), position of the maximum on the feature map.
    """

    values: Floats
    means: Floats
    rows: Integers
    columns: Integers


def channel_maxima(maps: Iterable[Floats]) -> ChannelMaxima:
    """The channel maxima of the feature maps (D, h, w) of several images."""
    maxima = []
    for feature_map in maps:
        flat = feature_map.reshape(len(feature_map), -1)
        position = flat.argmax(axis=1)
        row, column = np.divmod(position, feature_map.shape[2])
        maxima.append((flat[np.arange(len(flat)), position], flat.mean(axis=1), row, column))
    values, means, rows, columns = (np.stack(arrays) for arrays in zip(*maxima, strict=True))
    return ChannelMaxima(values.astype(np.float32), means.astype(np.float32), rows, columns)


def concatenate(maxima: Sequence[ChannelMaxima]) -> ChannelMaxima:
    """Concatenates the maxima of several sets of images."""

    def stack(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(one, name) for one in maxima])

    return ChannelMaxima(stack("values"), stack("means"), stack("rows"), stack("columns"))


def top_images(maxima: ChannelMaxima, channel: int, max_images: int) -> list[int]:
    """The images with the highest activation of a channel, in descending order; images without activation are left out.

    ReLU6 saturates at 6, so the spatial mean breaks ties.
    """
    values, means = maxima.values[:, channel], maxima.means[:, channel]
    order = np.lexsort((-means, -values))[:max_images].tolist()
    return [image for image in order if values[image] > values.min() or means[image] > means.min()]


def crop(pixels: Pixels, box: Box) -> Pixels:
    """The part of an image (S, S, 3) inside a box, clipped to the image."""
    left, top, right, bottom = box
    return pixels[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]


def activating_patch(pixels: Pixels, maxima: ChannelMaxima, image: int, channel: int, field: ReceptiveField) -> Pixels:
    """The receptive field of a channel's maximum in an image; gray outside the image."""
    box = field.box(int(maxima.rows[image, channel]), int(maxima.columns[image, channel]))
    padded, inside = np.full((*field.size, 3), PADDING_VALUE, np.uint8), crop(pixels, box)
    top, left = max(0, -box[1]), max(0, -box[0])
    padded[top : top + len(inside), left : left + len(inside[0])] = inside
    return padded


def covers_image(field: ReceptiveField, side: int) -> bool:
    """Whether the receptive field covers an image of `side` pixels, so that patches carry no information."""
    return min(field.size) >= side


def label_channels(
    weights: NDArray[np.floating], vectors: NDArray[np.floating], labels: Sequence[int], n_each: int
) -> list[tuple[int, int]]:
    """The channels that contribute most to each label's logit in its images: (label, channel), without repeated channels.

    The weight alone is not enough: a constant channel adds only a constant to the logit, whatever its weight.

    Args:
        weights: of the head, (C, D).
        vectors: features of some images, (N, D).
        labels: of these images, each in [0, C); -1 for none.
    """
    targets, mean = np.array(labels), vectors.mean(axis=0)
    label_of: dict[int, int] = {}
    for label, row in enumerate(weights):
        if not (targets == label).any():
            continue
        contribution = row * (vectors[targets == label].mean(axis=0) - mean)
        order = [channel for channel in np.argsort(-contribution, kind="stable").tolist() if channel not in label_of]
        # A negative weight means low activation in the label's images, which a patch cannot show.
        selected = [channel for channel in order if contribution[channel] > 0 and row[channel] > 0][:n_each]
        label_of |= dict.fromkeys(selected, label)
    return [(label, channel) for channel, label in label_of.items()]


def discriminative_channels(values: Floats, labels: Sequence[int], max_channels: int) -> list[int]:
    """The channels with the highest ANOVA F value: the ratio of between-label to within-label variance of values (N, D)."""
    targets = np.array(labels)
    groups = [values[targets == label].astype(np.float64) for label in np.unique(targets)]
    mean = values.mean(axis=0)
    between = sum(len(group) * (group.mean(axis=0) - mean) ** 2 for group in groups)
    within = sum(((group - group.mean(axis=0)) ** 2).sum(axis=0) for group in groups)
    ratio = np.asarray(between) / (np.asarray(within) + 1e-12 * (1 + np.abs(mean)))
    best: list[int] = np.argsort(-ratio, kind="stable")[:max_channels].tolist()
    return best

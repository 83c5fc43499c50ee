"""What excites single channels of a network: the patches of a person's own images to which they answer most.

Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks", figure 2. Numpy only: the maps come in.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.service.inference.engine import Floats, Pixels
from graft.training.architecture.receptive_field import Box, ReceptiveField

Integers = NDArray[np.intp]

BESIDE = 128  # of 255, in each colour: what is shown of an image beyond its edge


@dataclass(frozen=True)
class Peaks:
    """Where and how strongly each channel of one map answers to each image.

    Attributes:
        values: float32 (N, D), the highest value anywhere in the image.
        means: float32 (N, D), over the whole image.
        rows, columns: int (N, D), where on the map that is.
    """

    values: Floats
    means: Floats
    rows: Integers
    columns: Integers


def peaks(maps: Iterable[Floats]) -> Peaks:
    """The peaks of the maps (D, h, w) of several images."""
    found = []
    for map in maps:
        flat = map.reshape(len(map), -1)
        at = flat.argmax(axis=1)
        found.append((flat[np.arange(len(map)), at], flat.mean(axis=1), *np.divmod(at, map.shape[2])))
    values, means, rows, columns = (np.stack(parts) for parts in zip(*found, strict=True))
    return Peaks(values.astype(np.float32), means.astype(np.float32), rows, columns)


def joined(found: Sequence[Peaks]) -> Peaks:
    """The peaks of several sets of images, as if they were one."""

    def together(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(one, name) for one in found])

    return Peaks(together("values"), together("means"), together("rows"), together("columns"))


def strongest(found: Peaks, channel: int, most: int) -> list[int]:
    """The images to which a channel answers most, the strongest first; those to which it does not answer are left out.

    A channel behind a ReLU6 says 6 at most, so of equal answers that over more of the image comes first.
    """
    values, means = found.values[:, channel], found.means[:, channel]
    order = np.lexsort((-means, -values))[:most].tolist()
    return [image for image in order if values[image] > values.min() or means[image] > means.min()]


def cut(pixels: Pixels, box: Box) -> Pixels:
    """What lies in a box of pixels (S, S, 3), as far as it is inside."""
    left, top, right, bottom = box
    return pixels[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]


def patch(pixels: Pixels, found: Peaks, image: int, channel: int, field: ReceptiveField) -> Pixels:
    """The part of an image's pixels that a channel's strongest answer to it depends on, grey where that is beside the image."""
    box = field.box(int(found.rows[image, channel]), int(found.columns[image, channel]))
    framed, inside = np.full((*field.size, 3), BESIDE, np.uint8), cut(pixels, box)
    top, left = max(0, -box[1]), max(0, -box[0])
    framed[top : top + len(inside), left : left + len(inside[0])] = inside
    return framed


def sees_all(field: ReceptiveField, side: int) -> bool:
    """Whether most positions of a map see most of an image of `side` pixels, so that patches of it say little."""
    return min(field.size) >= side


def speaking(
    weights: NDArray[np.floating], vectors: NDArray[np.floating], labels: Sequence[int], n_each: int
) -> list[tuple[int, int]]:
    """The channels that raise each label most in its own images: (label, channel), label by label, no channel twice.

    A weight alone does not tell: a channel that is the same in every image adds a constant, whatever its weight.

    Args:
        weights: of the head, (C, D).
        vectors: what it saw of some images, (N, D).
        labels: of these, each in [0, C); -1 for none.
    """
    own, middle = np.array(labels), vectors.mean(axis=0)
    taken: dict[int, int] = {}
    for label, row in enumerate(weights):
        if not (own == label).any():
            continue
        raised = row * (vectors[own == label].mean(axis=0) - middle)
        order = [channel for channel in np.argsort(-raised, kind="stable").tolist() if channel not in taken]
        # Of a channel that is low in the label's images, no patch shows what speaks for it.
        kept = [channel for channel in order if raised[channel] > 0 and row[channel] > 0][:n_each]
        taken |= dict.fromkeys(kept, label)
    return [(label, channel) for channel, label in taken.items()]


def telling(values: Floats, labels: Sequence[int], most: int) -> list[int]:
    """The channels whose answers (N, D) tell labels apart best, by the ratio of the variance between labels to that within
    (Fisher's F), the best first.
    """
    own = np.array(labels)
    groups = [values[own == label].astype(np.float64) for label in np.unique(own)]
    middle = values.mean(axis=0)
    between = sum(len(group) * (group.mean(axis=0) - middle) ** 2 for group in groups)
    within = sum(((group - group.mean(axis=0)) ** 2).sum(axis=0) for group in groups)
    ratio = np.asarray(between) / (np.asarray(within) + 1e-12 * (1 + np.abs(middle)))
    best: list[int] = np.argsort(-ratio, kind="stable")[:most].tolist()
    return best

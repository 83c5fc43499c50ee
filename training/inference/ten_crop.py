"""Ten looks at an image instead of one: four corners and the centre, each in the mirror too, and the mean of the answers.

Krizhevsky, Sutskever & Hinton 2012 (AlexNet). It costs ten times as much, so it is a choice at evaluation, never a default.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from graft.service.artifact import Preprocessing
from graft.service.imaging.preprocess import decode, shrink
from graft.service.inference.batcher import Batcher
from graft.service.inference.devices import cores
from graft.service.inference.engine import Engine, Pixels
from graft.service.inference.postprocess import probabilities
from graft.training.inference.bulk import FOREVER_S
from graft.training.runtime.progress import Progress
from graft.training.runtime.thread_map import each


def looks(encoded: bytes, preprocessing: Preprocessing) -> Pixels:
    """What the network sees of one file: uint8 (10, S, S, 3); (2, S, S, 3) where the whole image is made square.

    Raises:
        ImageError: if the file is no image that can be used.
    """
    if preprocessing.fit != "crop":  # a square of everything has no corners to look at
        squares = decode(encoded, preprocessing).pixels[None]
    else:
        image, side = shrink(encoded, preprocessing), preprocessing.crop
        down, right = image.shape[0] - side, image.shape[1] - side
        corners = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]
        squares = np.stack([image[top : top + side, left : left + side] for top, left in corners])
    return np.concatenate([squares, squares[:, :, ::-1]])


def ten_crop(
    engine: Engine,
    preprocessing: Preprocessing,
    readers: Sequence[Callable[[], bytes]],
    temperature: float,
    multilabel: bool,
    what: str = "ten crops",
) -> NDArray[np.float32]:
    """The logits (N, C) of the mean of each image's ten calibrated probabilities, at temperature 1.

    Args:
        readers: give each image's encoded bytes.
        temperature: what a single look's logits are divided by.
        multilabel: whether an image may have several labels.
        what: is being done, for a person.

    Raises:
        ImageError: if a file is no image that can be used.
    """
    rows = []
    for outputs in _looked_at(engine, preprocessing, readers, what):
        mean = probabilities(outputs, temperature, multilabel).mean(axis=0).clip(1e-12, 1 - 1e-12)
        rows.append(np.log(mean) - (np.log1p(-mean) if multilabel else 0))
    return np.array(rows, np.float32)


def _looked_at(
    engine: Engine, preprocessing: Preprocessing, readers: Sequence[Callable[[], bytes]], what: str
) -> Iterator[NDArray[np.float32]]:
    """Each image's logits by look, (10, C), in order."""
    workers = cores() + engine.lanes
    batcher = Batcher(engine, 10 * workers + engine.lanes * engine.max_batch, FOREVER_S)

    def one(read: Callable[[], bytes]) -> NDArray[np.float32]:
        waiting = [batcher.submit(look) for look in looks(read(), preprocessing)]
        return np.concatenate([answer.result().logits for answer in waiting])

    try:
        with Progress(what, len(readers), "images") as progress:
            yield from progress.each(each(one, readers, workers))
    finally:
        batcher.close()

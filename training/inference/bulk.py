"""Many images through a model, on all cores, in order: the same decoder, engine and classifier that serve HTTP."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from graft.service.artifact import Preprocessing
from graft.service.errors import ImageError
from graft.service.imaging.preprocess import decode
from graft.service.inference.batcher import Batcher
from graft.service.inference.devices import cores
from graft.service.inference.engine import Engine, Outputs, Pixels
from graft.training.data.dataset import Dataset, Sample
from graft.training.evaluation.predictions import Answered
from graft.training.runtime.progress import Progress
from graft.training.runtime.thread_map import each

T = TypeVar("T")
FOREVER_S = 1e9  # nobody is waiting at the other end of a bulk job


def outputs(
    engine: Engine, preprocessing: Preprocessing, items: Sequence[T], read: Callable[[T], bytes], what: str
) -> Iterator[Outputs | ImageError]:
    """Each item's outputs, (1, C) and (1, D), or why it has none; in order, and only a few are ever ahead of who asks.

    Args:
        read: gives an item's encoded bytes.
        what: is being done, for a person.
    """
    return through(engine, items, lambda item: decode(read(item), preprocessing).pixels, what)


def through(engine: Engine, items: Sequence[T], look: Callable[[T], Pixels], what: str) -> Iterator[Outputs | ImageError]:
    """The same for items that become pixels in any way; `look` is called in several threads, and may raise ImageError."""
    workers = cores() + engine.lanes * engine.max_batch  # enough at once to fill every batch
    batcher = Batcher(engine, workers, FOREVER_S)

    def one(item: T) -> Outputs | ImageError:
        try:
            pixels = look(item)
        except ImageError as error:
            return error
        return batcher.submit(pixels).result()

    try:
        with Progress(what, len(items), "images") as progress:
            yield from progress.each(each(one, items, workers))
    finally:
        batcher.close()


def answered(engine: Engine, preprocessing: Preprocessing, dataset: Dataset, samples: Sequence[Sample], what: str) -> Answered:
    """What a network says of samples that are known to be readable, and what is true of them.

    Raises:
        ImageError: if one is no image any more.
    """
    rows = []
    for row in outputs(engine, preprocessing, samples, dataset.read, what):
        if isinstance(row, ImageError):
            raise row
        rows.append(row)
    logits, vectors = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    return Answered(logits, vectors, dataset.targets(samples))

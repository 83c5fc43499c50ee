"""Bulk inference: many images through one model, on all cores, results in input order.

It uses the decoder, the engine and the batcher of the HTTP service, so that bulk and HTTP predictions are the same.
"""

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
FOREVER_S = 1e9  # a bulk job has no client that could time out


def outputs(
    engine: Engine, preprocessing: Preprocessing, items: Sequence[T], read: Callable[[T], bytes], what: str
) -> Iterator[Outputs | ImageError]:
    """Decodes encoded images and yields each one's outputs, (1, C) and (1, D), or its error, in input order.

    Only a few items are processed ahead of the consumer.

    Args:
        read: returns an item's encoded bytes.
        description: label of the progress bar.
    """
    return through(engine, items, lambda item: decode(read(item), preprocessing).pixels, what)


def through(engine: Engine, items: Sequence[T], look: Callable[[T], Pixels], what: str) -> Iterator[Outputs | ImageError]:
    """Yields the outputs of items that a function turns into pixels, in input order.

    Args:
        load_pixels: returns an item's pixels. It is called in several threads and may raise ImageError, which is yielded.
        description: label of the progress bar.
    """
    workers = cores() + engine.lanes * engine.max_batch  # enough concurrent items to fill every batch
    batcher = Batcher(engine, workers, FOREVER_S)

    def infer_one(item: T) -> Outputs | ImageError:
        try:
            pixels = look(item)
        except ImageError as error:
            return error
        return batcher.submit(pixels).result()

    try:
        with Progress(what, len(items), "images") as progress:
            yield from progress.each(each(infer_one, items, workers))
    finally:
        batcher.close()


def answered(engine: Engine, preprocessing: Preprocessing, dataset: Dataset, samples: Sequence[Sample], what: str) -> Answered:
    """Predicts samples that were readable before, and pairs the predictions with the targets.

    Args:
        description: label of the progress bar.

    Raises:
        ImageError: if a sample can no longer be read.
    """
    results = []
    for result in outputs(engine, preprocessing, samples, dataset.read, what):
        if isinstance(result, ImageError):
            raise result
        results.append(result)
    logits, vectors = (np.concatenate(arrays) for arrays in zip(*results, strict=True))
    return Answered(logits, vectors, dataset.targets(samples))

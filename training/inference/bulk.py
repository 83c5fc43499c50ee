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
from graft.service.inference.devices import available_cpus
from graft.service.inference.engine import Engine, Outputs, Pixels
from graft.training.data.dataset import Dataset, Sample
from graft.training.evaluation.predictions import Predictions
from graft.training.runtime.progress import Progress
from graft.training.runtime.thread_map import ordered_map

T = TypeVar("T")
NO_TIMEOUT_S = 1e9  # a bulk job has no client that could time out


def infer_encoded(
    engine: Engine, preprocessing: Preprocessing, items: Sequence[T], read: Callable[[T], bytes], description: str
) -> Iterator[Outputs | ImageError]:
    """Decodes encoded images and yields each one's outputs, (1, C) and (1, D), or its error, in input order.

    Only a few items are processed ahead of the consumer.

    Args:
        read: returns an item's encoded bytes.
        description: label of the progress bar.
    """
    return infer(engine, items, lambda item: decode(read(item), preprocessing).pixels, description)


def infer(
    engine: Engine, items: Sequence[T], load_pixels: Callable[[T], Pixels], description: str
) -> Iterator[Outputs | ImageError]:
    """Yields the outputs of items that a function turns into pixels, in input order.

    Args:
        load_pixels: returns an item's pixels. It is called in several threads and may raise ImageError, which is yielded.
        description: label of the progress bar.
    """
    workers = available_cpus() + engine.streams * engine.max_batch  # enough concurrent items to fill every batch
    batcher = Batcher(engine, workers, NO_TIMEOUT_S)

    def infer_one(item: T) -> Outputs | ImageError:
        try:
            pixels = load_pixels(item)
        except ImageError as error:
            return error
        return batcher.submit(pixels).result()

    try:
        with Progress(description, len(items), "images") as progress:
            yield from progress.track(ordered_map(infer_one, items, workers))
    finally:
        batcher.close()


def predict_dataset(
    engine: Engine, preprocessing: Preprocessing, dataset: Dataset, samples: Sequence[Sample], description: str
) -> Predictions:
    """Predicts samples that were readable before, and pairs the predictions with the targets.

    Args:
        description: label of the progress bar.

    Raises:
        ImageError: if a sample can no longer be read.
    """
    results = []
    for result in infer_encoded(engine, preprocessing, samples, dataset.read, description):
        if isinstance(result, ImageError):
            raise result
        results.append(result)
    logits, vectors = (np.concatenate(arrays) for arrays in zip(*results, strict=True))
    return Predictions(logits, vectors, dataset.targets(samples))

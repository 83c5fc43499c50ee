"""Bulk inference: many images through one model, on all cores, results in input order.

It adds progress to the service's own bulk inference, so that bulk and HTTP predictions are the same.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from graft.service.errors import ImageError
from graft.service.imaging.preprocess import DecodedImage, decode
from graft.service.inference import bulk
from graft.service.inference.engine import Engine, Outputs, Pixels
from graft.service.manifest import Preprocessing
from graft.training.data.dataset import Dataset, Sample
from graft.training.evaluation.predictions import Predictions
from graft.training.runtime.progress import Progress

T = TypeVar("T")


def infer_encoded(
    engine: Engine, preprocessing: Preprocessing, items: Sequence[T], read: Callable[[T], bytes], description: str
) -> Iterator[Outputs | ImageError]:
    """Decodes encoded images and yields each one's outputs, (1, C) and (1, D), or its error, in input order.

    Only a few items are processed ahead of the consumer.

    Args:
        read: returns an item's encoded bytes.
        description: label of the progress bar.
    """
    return _infer(engine, items, lambda item: decode(read(item), preprocessing), description)


def infer(
    engine: Engine, items: Sequence[T], load_pixels: Callable[[T], Pixels], description: str
) -> Iterator[Outputs | ImageError]:
    """Yields the outputs of items that a function turns into pixels, in input order.

    Args:
        load_pixels: returns an item's pixels. It is called in several threads and may raise ImageError, which is yielded.
        description: label of the progress bar.
    """

    def load(item: T) -> DecodedImage:
        pixels = load_pixels(item)
        return DecodedImage(pixels, width=pixels.shape[1], height=pixels.shape[0], format="pixels", notes=())

    return _infer(engine, items, load, description)


def _infer(
    engine: Engine, items: Sequence[T], load: Callable[[T], DecodedImage], description: str
) -> Iterator[Outputs | ImageError]:
    with Progress(description, len(items), "images") as progress:
        for result in progress.track(bulk.infer(engine, items, load)):
            yield result if isinstance(result, ImageError) else result.outputs


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
    return Predictions.of(logits, vectors, dataset, samples)

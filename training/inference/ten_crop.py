"""Ten-crop evaluation: averages the probabilities of the four corner crops, the center crop and their horizontal flips.

From Krizhevsky, Sutskever & Hinton 2012 (AlexNet). It costs ten times as much as one crop, so it is an option of the
evaluation and never the default.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from graft.service.imaging.preprocess import decode, decode_resized
from graft.service.inference.batcher import Batcher
from graft.service.inference.bulk import NO_TIMEOUT_S
from graft.service.inference.devices import available_cpus
from graft.service.inference.engine import Engine, Pixels
from graft.service.inference.postprocess import to_probabilities
from graft.service.inference.thread_map import ordered_map
from graft.service.manifest import Preprocessing
from graft.training.runtime.progress import Progress


def ten_crops(encoded: bytes, preprocessing: Preprocessing) -> Pixels:
    """The crops of one image file: uint8 (10, S, S, 3), or (2, S, S, 3) if the whole image is resized to a square.

    Raises:
        ImageError: if the file is not a usable image.
    """
    if preprocessing.fit != "crop":  # the whole image is the only crop
        crops = decode(encoded, preprocessing).pixels[None]
    else:
        image, side = decode_resized(encoded, preprocessing), preprocessing.crop
        max_top, max_left = image.shape[0] - side, image.shape[1] - side
        corners = [(0, 0), (0, max_left), (max_top, 0), (max_top, max_left), (max_top // 2, max_left // 2)]
        crops = np.stack([image[top : top + side, left : left + side] for top, left in corners])
    return np.concatenate([crops, crops[:, :, ::-1]])


def ten_crop(
    engine: Engine,
    preprocessing: Preprocessing,
    readers: Sequence[Callable[[], bytes]],
    temperature: float,
    multilabel: bool,
    description: str = "ten crops",
) -> NDArray[np.float32]:
    """Logits (N, C), at temperature 1, of the mean of each image's ten calibrated probabilities.

    Args:
        readers: functions that return each image's encoded bytes.
        temperature: divides the logits of each crop.
        multilabel: whether an image may have several labels.
        description: label of the progress bar.

    Raises:
        ImageError: if a file is not a usable image.
    """
    rows = []
    for crop_logits in _infer_crops(engine, preprocessing, readers, description):
        mean = to_probabilities(crop_logits, temperature, multilabel).mean(axis=0).clip(1e-12, 1 - 1e-12)
        rows.append(np.log(mean) - (np.log1p(-mean) if multilabel else 0))
    return np.array(rows, np.float32)


def _infer_crops(
    engine: Engine, preprocessing: Preprocessing, readers: Sequence[Callable[[], bytes]], description: str
) -> Iterator[NDArray[np.float32]]:
    """Yields each image's logits by crop, (10, C), in input order."""
    workers = available_cpus() + engine.streams
    batcher = Batcher(engine, 10 * workers + engine.streams * engine.max_batch, NO_TIMEOUT_S)

    def infer_one(read: Callable[[], bytes]) -> NDArray[np.float32]:
        futures = [batcher.submit(crop) for crop in ten_crops(read(), preprocessing)]
        return np.concatenate([future.result().logits for future in futures])

    try:
        with Progress(description, len(readers), "images") as progress:
            yield from progress.track(ordered_map(infer_one, readers, workers))
    finally:
        batcher.close()

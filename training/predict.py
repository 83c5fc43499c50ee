"""Many images through a model, on all cores, in order: the same decoder, engine and classifier that serve HTTP."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from service.artifact import Preprocessing
from service.batcher import Batcher
from service.classifier import Ranked
from service.engine import Engine, Outputs, cores
from service.model import Model
from service.preprocess import ImageError, decode
from training.dataset import DatasetError, Source
from training.progress import Progress

FOREVER_S = 1e9  # nobody is waiting at the other end of a bulk job


def outputs(
    engine: Engine, preprocessing: Preprocessing, readers: Sequence[Callable[[], bytes]], what: str
) -> Iterator[Outputs | ImageError]:
    """Each file's outputs, (1, C) and (1, D), or why it has none; in the order of the readers."""
    workers = cores() + engine.lanes * engine.max_batch  # enough at once to fill every batch
    batcher = Batcher(engine, workers, FOREVER_S)

    def one(read: Callable[[], bytes]) -> Outputs | ImageError:
        try:
            pixels = decode(read(), preprocessing).pixels
        except ImageError as error:
            return error
        return batcher.submit(pixels).result()

    try:
        with ThreadPoolExecutor(workers) as pool, Progress(what, len(readers), "images") as progress:
            yield from progress.each(pool.map(one, readers))
    finally:
        batcher.close()


def predict(model: Model, paths: Sequence[Path], top_k: int) -> Iterator[tuple[Path, tuple[Ranked, ...] | ImageError]]:
    """Each image's ranked answer, or why it has none; folders are searched for images."""
    files = [file for path in paths for file in _files(path)]
    answers = outputs(model.engine, model.manifest.preprocessing, [file.read_bytes for file in files], "predicting")
    for file, found in zip(files, answers, strict=True):
        yield file, found if isinstance(found, ImageError) else model.answer(found, top_k)


def _files(path: Path) -> list[Path]:
    """The file itself, or the images below a folder. Raises DatasetError if there are none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DatasetError(f"{path} does not exist.")
    source = Source(path)
    images = [path / name for name, _ in source.names() if source.holds_image(name)]
    if not images:
        raise DatasetError(f"{path} holds no images.")
    return images

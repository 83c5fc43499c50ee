"""Many images through a model, on all cores, in order: the same decoder, engine and classifier that serve HTTP."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from service.artifact import Preprocessing
from service.batcher import Batcher
from service.engine import Engine, Outputs, cores
from service.model import Answer, Model
from service.preprocess import ImageError, decode
from training import durable
from training.calibrate import Answered
from training.dataset import Dataset, DatasetError, Sample, Source
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


def answered(engine: Engine, preprocessing: Preprocessing, dataset: Dataset, samples: Sequence[Sample], what: str) -> Answered:
    """What a network says of samples that are known to be readable, and what is true of them.

    Raises:
        ImageError: if one is no image any more.
    """
    readers = [lambda sample=sample: dataset.read(sample) for sample in samples]
    rows = []
    for row in outputs(engine, preprocessing, readers, what):
        if isinstance(row, ImageError):
            raise row
        rows.append(row)
    logits, vectors = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    return Answered(logits, vectors, dataset.targets(samples))


def predict(model: Model, paths: Sequence[Path], top_k: int) -> Iterator[tuple[Path, Answer | ImageError]]:
    """Each image's answer, or why it has none; folders are searched for images."""
    files = [file for path in paths for file in _files(path)]
    answers = outputs(model.engine, model.manifest.preprocessing, [file.read_bytes for file in files], "predicting")
    for file, found in zip(files, answers, strict=True):
        yield file, found if isinstance(found, ImageError) else model.answer(found, top_k)


def line(answer: Answer) -> str:
    """An answer for a person: the ranked labels, and why not to rely on them if there is a reason."""
    doubt = [f"({answer.doubt})"] if answer.doubt else []
    return "\t".join([f"{label} {probability:.1%}" for label, probability in answer.ranked] + doubt)


def facts(answer: Answer | ImageError) -> dict[str, object]:
    """An answer for `--json`, in the names of the HTTP contract."""
    if isinstance(answer, ImageError):
        return {"error": {"code": answer.code, "detail": str(answer)}}
    return {
        "predictions": [{"label": label, "probability": probability} for label, probability in answer.ranked],
        "prediction_set": list(answer.prediction_set),
        "outlier_score": answer.outlier_score,
        "abstain": answer.doubt is not None,
        "abstain_reason": answer.doubt,
    }


COLUMNS = ("path", "label", "probability", "prediction_set", "outlier_score", "abstain", "abstain_reason", "error")


def saved(answers: Iterable[tuple[Path, Answer | ImageError]], table: Path) -> Iterator[tuple[Path, Answer | ImageError]]:
    """The same answers; each becomes a row of a CSV file as it passes, and the file appears when the last one has.

    Labels of a set are separated by `|`, as in the data that Graft reads.
    """
    with durable.whole(table) as file:
        # A file's name may be no text at all; its bytes are then written as they are.
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        for path, answer in answers:
            writer.writerow([path, *_cells(answer)])
            yield path, answer
        text.detach()  # flushed, and left open for whoever opened it


def _cells(answer: Answer | ImageError) -> list[object]:
    if isinstance(answer, ImageError):
        return ["", "", "", "", "", "", answer.code]
    best = answer.ranked[0]
    members = "|".join(answer.prediction_set)
    doubted = "true" if answer.doubt else "false"
    return [best.label, best.probability, members, answer.outlier_score, doubted, answer.doubt or "", ""]


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

"""Many images through a model, on all cores, in order: the same decoder, engine and classifier that serve HTTP."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from service.artifact import Preprocessing
from service.batcher import Batcher
from service.engine import Engine, Outputs, Pixels, cores
from service.model import Answer, Model
from service.preprocess import ImageError, decode
from training import durable
from training.calibrate import Answered
from training.dataset import Dataset, DatasetError, Sample, Source
from training.parallel import each
from training.progress import Progress

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


def predict(model: Model, paths: Sequence[Path], top_k: int) -> Iterator[tuple[Path, Answer | ImageError]]:
    """Each image's answer, or why it has none; folders are searched for images."""
    files = [file for path in paths for file in _files(path)]
    answers = outputs(model.engine, model.manifest.preprocessing, files, _read, "predicting")
    for file, found in zip(files, answers, strict=True):
        yield Path(file), found if isinstance(found, ImageError) else model.answer(found, top_k)


def _read(file: str) -> bytes:
    return Path(file).read_bytes()


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


def as_json(model: Model, answers: Iterable[tuple[Path, Answer | ImageError]]) -> Iterator[str]:
    """One JSON object, piece by piece as the answers come: all of them in memory would be kilobytes an image."""
    before = f'{{"model": {json.dumps(model.manifest.sha256)}, "images": ['
    for path, answer in answers:  # what cannot be asked at all is refused here, before anything is written
        yield before + json.dumps({"path": str(path)} | facts(answer), ensure_ascii=False)
        before = ", "
    yield "]}\n"


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


def _files(path: Path) -> list[str]:
    """The file itself, or the images below a folder. Raises DatasetError if there are none.

    As text: a `Path` takes four times the memory, and of these there may be a million.
    """
    if path.is_file():
        return [str(path)]
    if not path.is_dir():
        raise DatasetError(f"{path} does not exist.")
    source = Source(path)
    images = [os.path.join(path, name) for name, _ in source.names() if source.holds_image(name)]
    if not images:
        raise DatasetError(f"{path} holds no images.")
    return images

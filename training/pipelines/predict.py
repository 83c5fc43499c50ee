"""`graft predict`: predictions for many images as text, JSON or CSV."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from graft.service.errors import ImageError
from graft.service.inference.model import Answer, Model
from graft.training.data.dataset import DatasetError, Source
from graft.training.inference.bulk import outputs
from graft.training.runtime import atomic_files


def predict(model: Model, paths: Sequence[Path], top_k: int) -> Iterator[tuple[Path, Answer | ImageError]]:
    """Yields the prediction or the error for each image; folders are searched recursively."""
    files = [file for path in paths for file in _files(path)]
    results = outputs(model.engine, model.manifest.preprocessing, files, _read, "predicting")
    for file, result in zip(files, results, strict=True):
        yield Path(file), result if isinstance(result, ImageError) else model.answer(result, top_k)


def _read(file: str) -> bytes:
    return Path(file).read_bytes()


def line(answer: Answer) -> str:
    """A prediction as text: the ranked labels, and the reason to abstain if there is one."""
    reason = [f"({answer.doubt})"] if answer.doubt else []
    return "\t".join([f"{label} {probability:.1%}" for label, probability in answer.ranked] + reason)


def facts(answer: Answer | ImageError) -> dict[str, object]:
    """A prediction for `--json`, with the field names of the HTTP API."""
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
    """Yields one JSON object in chunks, because holding all predictions would take kilobytes per image."""
    prefix = f'{{"model": {json.dumps(model.manifest.sha256)}, "images": ['
    for path, result in answers:  # an invalid path raises here, before anything is written
        yield prefix + json.dumps({"path": str(path)} | facts(result), ensure_ascii=False)
        prefix = ", "
    yield "]}\n"


COLUMNS = ("path", "label", "probability", "prediction_set", "outlier_score", "abstain", "abstain_reason", "error")


def saved(answers: Iterable[tuple[Path, Answer | ImageError]], table: Path) -> Iterator[tuple[Path, Answer | ImageError]]:
    """Passes predictions through and writes each as a row of a CSV file. The file appears after the last row.

    The labels of a set are separated by `|`, as in CSV input.
    """
    with atomic_files.whole(table) as file:
        # A file name may not be valid UTF-8; surrogateescape writes its bytes unchanged.
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        for path, result in answers:
            writer.writerow([path, *_cells(result)])
            yield path, result
        text.detach()  # flush, but leave the file open for `atomic_files`


def _cells(answer: Answer | ImageError) -> list[object]:
    if isinstance(answer, ImageError):
        return ["", "", "", "", "", "", answer.code]
    best = answer.ranked[0]
    prediction_set = "|".join(answer.prediction_set)
    abstain = "true" if answer.doubt else "false"
    return [best.label, best.probability, prediction_set, answer.outlier_score, abstain, answer.doubt or "", ""]


def _files(path: Path) -> list[str]:
    """A file, or all images in a folder. Raises DatasetError if there are none.

    As strings, because a `Path` takes four times the memory and there may be a million.
    """
    if path.is_file():
        return [str(path)]
    if not path.is_dir():
        raise DatasetError(f"{path} does not exist.")
    source = Source(path)
    images = [os.path.join(path, name) for name, _ in source.names() if source.holds_image(name)]
    if not images:
        raise DatasetError(f"{path} contains no images.")
    return images

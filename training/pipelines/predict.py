"""`graft predict`: answers to many images as lines, JSON or CSV."""

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
    with atomic_files.whole(table) as file:
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

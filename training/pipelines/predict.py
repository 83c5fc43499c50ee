"""`graft predict`: predictions for many images as text, JSON or CSV."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from graft.service.errors import ImageError
from graft.service.inference.model import ClassificationResult, Model
from graft.training.data.dataset import DatasetError, Source
from graft.training.inference.bulk import infer_encoded
from graft.training.runtime import atomic_files


def predict(model: Model, paths: Sequence[Path], top_k: int) -> Iterator[tuple[Path, ClassificationResult | ImageError]]:
    """Yields the prediction or the error for each image; folders are searched recursively."""
    files = [file for path in paths for file in _list_images(path)]
    results = infer_encoded(model.engine, model.manifest.preprocessing, files, _read_bytes, "predicting")
    for file, result in zip(files, results, strict=True):
        yield Path(file), result if isinstance(result, ImageError) else model.postprocess(result, top_k)


def _read_bytes(file: str) -> bytes:
    return Path(file).read_bytes()


def to_text(result: ClassificationResult) -> str:
    """A prediction as text: the ranked labels, and the reason to abstain if there is one."""
    reason = [f"({result.abstain_reason})"] if result.abstain_reason else []
    return "\t".join([f"{label} {probability:.1%}" for label, probability in result.ranked] + reason)


def to_dict(result: ClassificationResult | ImageError) -> dict[str, object]:
    """A prediction for `--json`, with the field names of the HTTP API."""
    if isinstance(result, ImageError):
        return {"error": {"code": result.code, "detail": str(result)}}
    return {
        "predictions": [{"label": label, "probability": probability} for label, probability in result.ranked],
        "prediction_set": list(result.prediction_set),
        "outlier_score": result.outlier_score,
        "abstain": result.abstain_reason is not None,
        "abstain_reason": result.abstain_reason,
    }


def to_json(model: Model, results: Iterable[tuple[Path, ClassificationResult | ImageError]]) -> Iterator[str]:
    """Yields one JSON object in chunks, because holding all predictions would take kilobytes per image."""
    prefix = f'{{"model": {json.dumps(model.manifest.sha256)}, "images": ['
    for path, result in results:  # an invalid path raises here, before anything is written
        yield prefix + json.dumps({"path": str(path)} | to_dict(result), ensure_ascii=False)
        prefix = ", "
    yield "]}\n"


COLUMNS = ("path", "label", "probability", "prediction_set", "outlier_score", "abstain", "abstain_reason", "error")


def write_csv(
    results: Iterable[tuple[Path, ClassificationResult | ImageError]], table: Path
) -> Iterator[tuple[Path, ClassificationResult | ImageError]]:
    """Passes predictions through and writes each as a row of a CSV file. The file appears after the last row.

    The labels of a set are separated by `|`, as in CSV input.
    """
    with atomic_files.atomic_write(table) as file:
        # A file name may not be valid UTF-8; surrogateescape writes its bytes unchanged.
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        for path, result in results:
            writer.writerow([path, *_csv_row(result)])
            yield path, result
        text.detach()  # flush, but leave the file open for `atomic_files`


def _csv_row(result: ClassificationResult | ImageError) -> list[object]:
    if isinstance(result, ImageError):
        return ["", "", "", "", "", "", result.code]
    best = result.ranked[0]
    prediction_set = "|".join(result.prediction_set)
    abstain = "true" if result.abstain_reason else "false"
    return [best.label, best.probability, prediction_set, result.outlier_score, abstain, result.abstain_reason or "", ""]


def _list_images(path: Path) -> list[str]:
    """A file, or all images in a folder. Raises DatasetError if there are none.

    As strings, because a `Path` takes four times the memory and there may be a million.
    """
    if path.is_file():
        return [str(path)]
    if not path.is_dir():
        raise DatasetError(f"{path} does not exist.")
    source = Source(path)
    images = [os.path.join(path, name) for name, _ in source.list_files() if source.is_image(name)]
    if not images:
        raise DatasetError(f"{path} contains no images.")
    return images

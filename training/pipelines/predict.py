"""`graft predict`: predictions for many images as text, JSON, CSV, or Parquet files."""

import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from graft.service.api.schemas import Classification
from graft.service.classifier import Classifier
from graft.service.errors import ImageError
from graft.service.fidelity import Precision
from graft.service.inference.model import load as load_model
from graft.service.remote_paths import rejection
from graft.service.settings import DeviceSetting
from graft.training.data import wrong_paths
from graft.training.data.dataset import DatasetError, Source
from graft.training.inference import scoring
from graft.training.inference.scoring import PredictResult, Scoring
from graft.training.pipelines.arguments import check_order
from graft.training.runtime import atomic_files
from graft.training.runtime.device import select_device
from graft.training.runtime.progress import Progress, step
from graft.training.runtime.spreadsheet import SpreadsheetWriter

FIELDS = {"predictions", "prediction_set", "outlier_score", "abstain", "abstain_reason"}  # of an answer, for `--json`


def predict(
    classifier: Classifier, paths: Sequence[Path], top_k: int, max_error: float | None = None
) -> Iterator[tuple[Path, Classification | ImageError]]:
    """Yields the prediction or the error for each image; folders are searched recursively.

    Args:
        max_error: abstain unless predictions this sure are wrong at most this often, in [0, 1]; None for the model's own.
    """
    files = [file for path in paths for file in _list_images(path)]
    with Progress("predicting", len(files), "images") as progress:
        answers = progress.track(classifier.stream(files, top_k=top_k, max_error=max_error))
        yield from zip(map(Path, files), answers, strict=True)


def predict_to_parts(
    package: Path,
    data: Path,
    out: Path,
    top_k: int,
    max_error: float | None = None,
    device: DeviceSetting = "auto",
    precision: Precision | Literal["auto"] = "auto",
) -> PredictResult:
    """Predicts every image below `data`; goes on where an earlier run into the same folder stopped.

    Args:
        data: a folder or an archive.
        out: the folder of the Parquet files.
        precision: "auto" is that of the earlier run; of a first run, the fastest that is as good as f32.

    Raises:
        ArtifactError: if the package is damaged, or this machine lacks the precision of the earlier run.
        DatasetError: if there are no images.
        DeviceError: if the device cannot be used.
        FolderInUse: if another process writes to the folder.
        ValueError: if pyarrow is not installed, or the folder has other files or rows of another run.
    """
    if find_spec("pyarrow") is None:
        raise ValueError("--out: pyarrow is not installed. Try: pip install 'graft-vision[parquet]'")
    select_device(device)
    check_order(package, [data])
    wrong_paths.check(data)
    earlier = Scoring.load(out)
    wanted = earlier.precision if earlier and precision == "auto" else precision
    with step(f"loading {package}"):
        model = load_model(package, device, precision=wanted)
    return scoring.score(model, data, out, Scoring(model.manifest.sha256, model.engine.precision, top_k, max_error))


def to_text(answer: Classification) -> str:
    """A prediction as text: the ranked labels, and the reason to abstain if there is one."""
    reason = [f"({answer.abstain_reason})"] if answer.abstain_reason else []
    return "\t".join([f"{prediction.label} {prediction.probability:.1%}" for prediction in answer.predictions] + reason)


def to_dict(answer: Classification | ImageError) -> dict[str, object]:
    """A prediction for `--json`, with the field names of the HTTP API."""
    if isinstance(answer, ImageError):
        return {"error": {"code": answer.code, "detail": str(answer)}}
    return answer.model_dump(mode="json", include=FIELDS)


def to_json(classifier: Classifier, results: Iterable[tuple[Path, Classification | ImageError]]) -> Iterator[str]:
    """Yields one JSON object in chunks, because holding all predictions would take kilobytes per image."""
    prefix = f'{{"model": {json.dumps(classifier.description.sha256)}, "images": ['
    for path, result in results:  # an invalid path raises here, before anything is written
        yield prefix + json.dumps({"path": str(path)} | to_dict(result), ensure_ascii=False)
        prefix = ", "
    yield "]}\n"


COLUMNS = ("path", "label", "probability", "prediction_set", "outlier_score", "abstain", "abstain_reason", "error")


def write_csv(
    results: Iterable[tuple[Path, Classification | ImageError]], table: Path
) -> Iterator[tuple[Path, Classification | ImageError]]:
    """Passes predictions through and writes each as a row of a CSV file. The file appears after the last row.

    The labels of a set are separated by `|`, as in CSV input. No text can run as a formula in a spreadsheet.
    """
    with atomic_files.atomic_write(table) as file:
        # A file name may not be valid UTF-8; surrogateescape writes its bytes unchanged.
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
        writer = SpreadsheetWriter(text)
        writer.write(*COLUMNS)
        for path, result in results:
            writer.write(str(path), *_csv_row(result))
            yield path, result
        text.detach()  # flush, but leave the file open for `atomic_files`


def _csv_row(answer: Classification | ImageError) -> tuple[str | float, ...]:
    if isinstance(answer, ImageError):
        return "", "", "", "", "", "", answer.code
    best, prediction_set = answer.predictions[0], "|".join(answer.prediction_set)
    abstain = "true" if answer.abstain else "false"
    return best.label, best.probability, prediction_set, answer.outlier_score, abstain, answer.abstain_reason or "", ""


def _list_images(path: Path) -> list[str]:
    """A file, or all images in a folder. Raises DatasetError if there are none.

    As strings, because a `Path` takes four times the memory and there may be a million.
    """
    if reason := rejection(path):
        raise DatasetError(reason)
    if path.is_file():
        return [str(path)]
    if not path.is_dir():
        raise DatasetError(f"{path} does not exist.")
    source = Source(path)
    images = [os.path.join(path, name) for name, _ in source.list_files() if source.is_image(name)]
    if not images:
        raise DatasetError(f"{path} contains no images.")
    return images

"""Scores any number of images into a folder of Parquet files. A run that was interrupted goes on where it stopped.

The images are listed one chunk at a time, and each chunk becomes one file, a part, whose name is a digest of the paths in it.
So what is in memory does not depend on the number of images, and the parts that are there need not be computed again.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graft.service.errors import ImageError
from graft.service.fidelity import Precision
from graft.service.imaging.preprocess import DecodedImage
from graft.service.inference import bulk
from graft.service.inference.model import Model
from graft.training.data.dataset import DatasetError
from graft.training.data.readers.source import Source
from graft.training.runtime import atomic_files
from graft.training.runtime.folder_lock import locked
from graft.training.runtime.progress import Progress, log, step

if TYPE_CHECKING:
    import pyarrow

CHUNK_SIZE = 10_000  # images in a part: the most that an interruption loses, one to two minutes of one core
RECORD = "scoring.json"
PART, PARTS = "part-{number:06}-{digest}.parquet", "part-*.parquet"
UNREADABLE = "unreadable_file"  # the error of a file that has vanished or cannot be read

Row = dict[str, object]


@dataclass(frozen=True)
class Scoring:
    """What the rows of a folder depend on, apart from the images; the same for all its parts.

    Attributes:
        model: the digest of the package's manifest.
        precision: in which the model computes; that of int8 has other answers.
        top_k: number of labels of each image.
        max_error: as in `Model.postprocess`.
        chunk_size: images of a part.
    """

    model: str
    precision: Precision
    top_k: int
    max_error: float | None = None
    chunk_size: int = CHUNK_SIZE

    @classmethod
    def load(cls, folder: Path) -> "Scoring | None":
        """That of a folder; None if it is empty or does not exist.

        Raises:
            ValueError: if the folder has other files, or the record is damaged.
        """
        if not folder.is_dir() or not any(name for name in folder.iterdir() if not name.name.startswith(".")):
            return None
        try:
            return cls(**json.loads((folder / RECORD).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise ValueError(f"{folder} is not empty, and has no {RECORD}. Choose another folder for --out.") from None
        except (ValueError, TypeError):
            raise ValueError(f"{folder / RECORD} is damaged. Choose another folder for --out.") from None

    def check(self, folder: Path, earlier: "Scoring") -> None:
        """Checks that this run may add to the parts of an earlier one. Raises ValueError with what differs."""
        changes = [
            f"{name} was {getattr(earlier, name)}, and is {value}"
            for name, value in asdict(self).items()
            if value != getattr(earlier, name)
        ]
        if changes:
            raise ValueError(f"{folder} has rows of another run: {'; '.join(changes)}. Choose another folder for --out.")


@dataclass(frozen=True)
class PredictResult:
    """What is in the folder after a run.

    Attributes:
        n_images: rows of all parts.
        n_failed: of these, images that could not be used.
        n_parts: files.
        n_computed: of these, files that this run computed.
    """

    folder: Path
    n_images: int
    n_failed: int
    n_parts: int
    n_computed: int

    def to_dict(self) -> dict[str, object]:
        """For `--json`."""
        return asdict(self) | {"folder": str(self.folder)}


def score(model: Model, data: Path, folder: Path, scoring: Scoring) -> PredictResult:
    """Writes a row for every image below `data`, in the order of their paths; parts that are there are kept.

    A part whose images are no longer the same is removed, once all others are written. The content of the images is not
    looked at: delete a part to have its images scored again.

    Raises:
        DatasetError: if there are no images.
        KeyboardInterrupt: the parts that are complete stay.
        OSError: if a part cannot be written.
        ValueError: if the folder has other files, or rows of another run.
    """
    if earlier := Scoring.load(folder):
        scoring.check(folder, earlier)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        for path in folder.glob(atomic_files.TEMP_PATTERN):  # of a killed run
            path.unlink()
        atomic_files.write_text(folder / RECORD, json.dumps(asdict(scoring), indent=2) + "\n")
        try:
            return _score(model, Source(data), folder, scoring)
        except (KeyboardInterrupt, SystemExit):
            log(f"parts written: {sum(1 for _ in folder.glob(PARTS))}. The same command goes on from there")
            raise


def _score(model: Model, source: Source, folder: Path, scoring: Scoring) -> PredictResult:
    with step(f"listing {source.root}"):
        n_images = sum(1 for _ in list_images(source))
    if not n_images:
        raise DatasetError(f"{source.root} contains no images.")
    names, n_computed, n_failed = set(), 0, 0
    with Progress("scoring", n_images, "images") as progress:
        for number, paths in enumerate(chunks(list_images(source), scoring.chunk_size)):
            name = part_name(number, paths)
            names.add(name)
            if (failed := count_failed(folder / name)) is None:
                rows = list(progress.track(score_images(model, source, paths, scoring)))
                write_part(folder / name, rows, scoring)
                failed, n_computed = sum(row["error"] is not None for row in rows), n_computed + 1
            else:
                progress.advance(len(paths))
            n_failed += failed
    if stale := [path for path in folder.glob(PARTS) if path.name not in names]:
        log(f"{len(stale)} parts are removed: their images are no longer the same")
        for path in stale:
            path.unlink()
    return PredictResult(folder, n_images, n_failed, len(names), n_computed)


def list_images(source: Source) -> Iterator[str]:
    """The paths of the images, relative to the root, in an order that depends on nothing but them."""
    return (path for path, _ in source.list_files() if source.is_image(path))


def chunks(paths: Iterable[str], size: int) -> Iterator[list[str]]:
    """The paths, `size` at a time."""
    remaining = iter(paths)
    while chunk := list(islice(remaining, size)):
        yield chunk


def part_name(number: int, paths: Sequence[str]) -> str:
    """The name of the file for a chunk of paths."""
    content = "\0".join(paths).encode("utf-8", "surrogateescape")
    return PART.format(number=number, digest=hashlib.sha256(content).hexdigest()[:16])


def count_failed(part: Path) -> int | None:
    """The number of images in a part that could not be used, from its footer; None if there is no part, or a damaged one."""
    import pyarrow
    from pyarrow import parquet

    try:
        metadata = parquet.read_metadata(part)
    except (OSError, pyarrow.ArrowException):
        return None
    index = [metadata.schema.column(index).path for index in range(metadata.num_columns)].index("error")
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    return sum(int(group.num_rows) - int(group.column(index).statistics.null_count) for group in groups)


def score_images(model: Model, source: Source, paths: Sequence[str], scoring: Scoring) -> Iterator[Row]:
    """A row for each image, in order; an image that cannot be used has only `path`, `error` and `error_detail`."""

    def load(path: str) -> DecodedImage:
        try:
            return model.decode(source.read(path))
        except DatasetError as error:
            raise ImageError(UNREADABLE, str(error)) from None

    for path, result in zip(paths, bulk.infer(model.engine, paths, load), strict=True):
        row: Row = {"path": path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")}
        if isinstance(result, ImageError):
            yield row | {"error": result.code, "error_detail": str(result)}
            continue
        if not np.isfinite(result.outputs.logits).all():
            yield row | {"error": "not_finite", "error_detail": "The network's outputs are not finite."}
            continue
        found = model.postprocess(result.outputs, scoring.top_k, scoring.max_error)
        yield row | {
            "label": found.ranked[0].label,
            "probability": found.ranked[0].probability,
            "top_labels": [one.label for one in found.ranked],
            "top_probabilities": [one.probability for one in found.ranked],
            "prediction_set": list(found.prediction_set),
            "outlier_score": found.outlier_score,
            "abstain_reason": found.abstain_reason,
            "error": None,
        }


def schema() -> "pyarrow.Schema":
    """The columns of a part."""
    import pyarrow

    text, number = pyarrow.string(), pyarrow.float64()
    types = {
        "path": text,
        "label": text,
        "probability": number,
        "top_labels": pyarrow.list_(text),
        "top_probabilities": pyarrow.list_(number),
        "prediction_set": pyarrow.list_(text),
        "outlier_score": number,
        "abstain_reason": text,
        "error": text,
        "error_detail": text,
    }
    return pyarrow.schema(list(types.items()))


def write_part(path: Path, rows: Sequence[Row], scoring: Scoring) -> None:
    """Writes a part beside its place and renames it. Raises OSError."""
    import pyarrow
    from pyarrow import parquet

    columns = schema().with_metadata({"graft": json.dumps(asdict(scoring))})
    table = pyarrow.Table.from_pylist(list(rows), schema=columns)
    with atomic_files.atomic_write(path) as file:
        parquet.write_table(table, file)

"""The model package format, and its reader: one directory that holds only data, with every file's SHA-256 in the manifest.

The reader defines the format, because it must still work in two years; `graft.training.packaging.writer` imports it.
Import only pydantic and the standard library here, so that a damaged package is rejected within milliseconds.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from .held_files import HeldFiles, NotRegularFile
from .remote_paths import rejection
from .validation_errors import reason as reason_of

FORMAT_VERSION: Literal[5] = 5
MANIFEST = "manifest.json"
GRAPH = "model.onnx"
WEIGHTS = "weights.safetensors"
GOLDEN = "golden.npz"
NEIGHBORS = "neighbors.npz"
THUMBNAILS = "thumbnails.npz"
MODEL_CARD = "README.md"
PACKAGE = "package"  # folder of the package in a run folder
FILES = frozenset({GRAPH, WEIGHTS, GOLDEN, NEIGHBORS, THUMBNAILS, MODEL_CARD})
INT8_GRAPH, INT8_WEIGHTS = "model.int8.xml", "model.int8.bin"  # OpenVINO IR; optional
INT8_FILES = frozenset({INT8_GRAPH, INT8_WEIGHTS})
MAPS_OUTPUT = "maps"  # graph output: the feature maps that are averaged into the vectors; stage outputs have this suffix

Precision = Literal["f32", "bf16", "f16", "int8"]  # the numeric type of inference
MAX_PROBABILITY_SHIFT = 0.01  # a smaller change of a probability is not visible to users


class ArtifactError(Exception):
    """The package is invalid. The message names the file, the actual and the expected value, and the remedy."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Preprocessing(_Record):
    """How an encoded image is converted to the network's input. Implemented only in `graft.service.imaging.preprocess`.

    The same for every package: EXIF orientation is applied, transparent pixels are composited on white, color profiles are
    ignored, and only the first frame of an animation and the first page of a TIFF are used.
    """

    resize: int = Field(gt=0, description="length of the shorter side before cropping, in pixels")
    crop: int = Field(gt=0, description="side of the network's square input, in pixels")
    fit: Literal["crop", "squash", "letterbox"] = "crop"
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"
    mean: tuple[float, float, float] = Field(description="per RGB channel, for values in [0, 1]; subtracted inside the network")
    std: tuple[float, float, float] = Field(description="per RGB channel, for values in [0, 1]; the divisor inside the network")
    sample_bits: Literal[8, 10, 12, 14, 16] | None = Field(
        None,
        description="bits in use in images with more than 8 bits per channel: those of the training images; null if there were"
        " no such images: then each image's own",
    )


class Backbone(_Record):
    """The pretrained network without its classifier."""

    name: str
    weights: str = Field(description="human-readable source of the weights")
    license: str
    sha256: str = Field(description="digest of the pretrained tensors as loaded")
    width: int = Field(gt=0, description="dimension of the output vector")
    stages: dict[NonNegativeInt, PositiveInt] = Field({}, description="channels of each stage used, by timm stage index")
    head_input: Literal["last", "all"] = Field(
        "last", description="the head's input: last: the output vector; all: the pooled stages and the output vector"
    )
    pooled: bool = Field(False, description="whether the output vector is a global average pool, as verified in torch")

    @property
    def map_outputs(self) -> dict[str, int]:
        """The feature map outputs of the graph, float32 (N, width, h, w), with their widths. Pooled, they are the head's input.

        Empty if the output vector is not a global average pool: then a logit is not a sum over positions.
        """
        stages = (
            {f"stage{index + 1}_{MAPS_OUTPUT}": width for index, width in self.stages.items()}
            if self.head_input == "all"
            else {}
        )
        return stages | {MAPS_OUTPUT: self.width} if self.pooled else {}


class Score(_Record):
    """Accuracy with its 95% Wilson interval."""

    accuracy: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    n: int = Field(ge=0)


class Fidelity(_Record):
    """How much the predictions change at a precision other than f32."""

    max_probability_shift: float = Field(
        ge=0, le=1, description="largest shift of a probability near 0.5, on validation images"
    )
    n_changed: int = Field(ge=0, description="number of validation images with a different prediction")
    score: Score = Field(description="accuracy on the test images")

    @property
    def is_faithful(self) -> bool:
        """Whether `precision=auto` may select it."""
        return self.n_changed == 0 and self.max_probability_shift <= MAX_PROBABILITY_SHIFT


class Calibration(_Record):
    """Decision thresholds, fitted on the validation split; the test split only evaluates them.

    Attributes:
        thresholds: one per label, in label order. Multiclass: the lowest probability that reaches `target_precision`, or None.
            Multilabel: the lowest probability at which the label is predicted.
        coverage: target probability that the prediction set contains the true label; None for multilabel.
        set_threshold: the lowest probability at which a label is in the prediction set. 0 if validation has too few images to
            guarantee the coverage: then the set contains every label.
        outlier_k: the outlier score is the cosine distance to the k-th nearest neighbor in the package.
        outlier_threshold: an image with a higher score is an outlier.
    """

    target_precision: float = Field(gt=0, lt=1)
    thresholds: tuple[float | None, ...]
    coverage: float | None = Field(gt=0, lt=1)
    set_threshold: float | None = Field(ge=0, le=1)
    outlier_k: int = Field(gt=0)
    outlier_threshold: float = Field(ge=0, le=2)


class FileRecord(_Record):
    sha256: str
    bytes: int = Field(ge=0)


class Manifest(_Record):
    """The metadata of a model: everything except its weights."""

    format: Literal[5] = FORMAT_VERSION
    sha256: str = Field(default="", description="digest of this file with this field empty; identifies the model")
    name: str
    version: str
    created: str = Field(description="ISO 8601, UTC")
    labels: tuple[str, ...] = Field(min_length=2)
    strategy: str
    backbone: Backbone
    preprocessing: Preprocessing
    formats: tuple[str, ...] = Field((), description="file formats of the training images; a service accepts them")
    multilabel: bool = Field(description="whether an image may have several labels or none")
    temperature: float = Field(gt=0, description="divisor of the logits before the softmax or sigmoid")
    calibration: Calibration
    scores: dict[str, Score] = Field(description="accuracy by split; `test` was not used for any selection")
    tolerance: float = Field(gt=0, description="largest allowed difference from a golden probability")
    fidelity: dict[Precision, Fidelity] = Field(description="by precision, for those that the packaging machine supports")
    libraries: dict[str, str]
    files: dict[str, FileRecord]

    @model_validator(mode="after")
    def _check_thresholds(self) -> "Manifest":
        thresholds = self.calibration.thresholds
        if len(thresholds) != len(self.labels):
            raise ValueError(f"{len(self.labels)} labels, but {len(thresholds)} thresholds")
        if self.multilabel and None in thresholds:
            raise ValueError("every label of a multilabel model needs a threshold")
        if not self.multilabel and self.calibration.set_threshold is None:
            raise ValueError("a multiclass model needs a set_threshold")
        return self

    def to_bytes(self) -> bytes:
        """The manifest file's bytes, in the canonical form that `read` requires."""
        return (json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n").encode()

    def with_digest(self) -> "Manifest":
        """A copy of this manifest with its own digest set."""
        without_digest = self.model_copy(update={"sha256": ""})
        return without_digest.model_copy(update={"sha256": hashlib.sha256(without_digest.to_bytes()).hexdigest()})


@dataclass(frozen=True)
class Artifact:
    """A verified package. Its files are held open: replacing, moving or deleting the folder does not change it.

    The paths of its files are valid in this process, as long as this object lives. They raise ArtifactError if the file was
    overwritten after it was verified.
    """

    path: Path
    manifest: Manifest
    files: HeldFiles

    @property
    def graph(self) -> Path:
        return self._verified(GRAPH)

    @property
    def int8_graph(self) -> Path:
        return self._verified(INT8_GRAPH)

    @property
    def int8_weights(self) -> Path:
        return self._verified(INT8_WEIGHTS)

    @property
    def weights(self) -> Path:
        return self._verified(WEIGHTS)

    @property
    def golden(self) -> Path:
        return self._verified(GOLDEN)

    @property
    def neighbors(self) -> Path:
        return self._verified(NEIGHBORS)

    @property
    def thumbnails(self) -> Path:
        return self._verified(THUMBNAILS)

    def _verified(self, name: str) -> Path:
        _check_file(self.path / name, self.files, self.manifest.files[name])
        return self.files.path(name)


def file_record(path: Path) -> FileRecord:
    """The digest and size of one file, read in chunks."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return FileRecord(sha256=digest.hexdigest(), bytes=file.tell())


def package_folder(path: Path) -> Path:
    """The package that a path stands for: the path itself, or the `package` folder of a run."""
    is_run = not (path / MANIFEST).exists() and (path / PACKAGE / MANIFEST).exists()
    return path / PACKAGE if is_run else path


def read(path: Path) -> Artifact:
    """Opens a package directory and verifies every byte.

    Args:
        path: a package, or the folder of a finished run.

    Raises:
        ArtifactError: if a file is missing, extra or altered, or the format version differs; the message names the file.
    """
    if reason := rejection(path):
        raise ArtifactError(reason)
    path = package_folder(path)
    if not path.is_dir():
        found = "it is a file, and a package is a folder" if path.exists() else "no such directory"
        raise ArtifactError(f"{path} is not a package: {found}. Make one with: graft fit DIR")
    folder = Path(os.path.realpath(path))  # once: a link such as runs/latest may move while the files are opened
    manifest = _parse_manifest(path / MANIFEST, _read_manifest(folder, path / MANIFEST))
    _check_names(path, {entry.name for entry in folder.iterdir()}, manifest)
    return _verify(path, manifest, _hold(folder, path, [MANIFEST, *manifest.files]))


def adopt(path: Path, files: HeldFiles) -> Artifact:
    """Verifies every byte of a package that another process has opened. Raises ArtifactError if it was overwritten since.

    Args:
        path: the directory that the files were opened in, for messages.
    """
    manifest = _parse_manifest(path / MANIFEST, files.path(MANIFEST).read_bytes())
    return _verify(path, manifest, files)


def _verify(path: Path, manifest: Manifest, files: HeldFiles) -> Artifact:
    for name, expected in manifest.files.items():
        _check_file(path / name, files, expected)
    return Artifact(path, manifest, files)


def _hold(folder: Path, path: Path, names: list[str]) -> HeldFiles:
    try:
        return HeldFiles.open(folder, names)
    except NotRegularFile as error:
        raise ArtifactError(
            f"{path / error.filename} is not a regular file. A package may not contain links; copy the target file."
        ) from None
    except OSError as error:
        raise ArtifactError(f"{path / error.filename} cannot be read: {error.strerror}.") from None


def _read_manifest(folder: Path, path: Path) -> bytes:
    if path.is_symlink():
        raise ArtifactError(f"{path} is a link. A package may not contain links; copy the target file.")
    try:
        return (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        if not any((folder / name).exists() for name in FILES - {MODEL_CARD}):
            raise ArtifactError(f"{path.parent} is not a package, and not a run with one: it has no {MANIFEST}.") from None
        raise ArtifactError(f"{path} is missing, so {path.parent} is not a complete package. Create it again.") from None
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from None


def _parse_manifest(path: Path, content: bytes) -> Manifest:
    try:
        fields = json.loads(content)
        version = fields["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ArtifactError(f"{path} is not a Graft manifest. Copy the package again from the original.") from None
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format {version!r}; this Graft reads format {FORMAT_VERSION}. Install a matching Graft version."
        )
    try:
        manifest = Manifest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        location = ".".join(map(str, first["loc"]))
        reason = f"{location + ': ' if location else ''}{reason_of(first)}"
        raise ArtifactError(f"{path}: {reason}. Copy the package again.") from None
    if manifest.with_digest().to_bytes() != content:
        raise ArtifactError(f"{path} was altered after it was written: its sha256 does not match. Copy it again.")
    return manifest


def _check_names(path: Path, actual: set[str], manifest: Manifest) -> None:
    listed, actual = set(manifest.files), actual - {MANIFEST}
    # Only fixed names are allowed, so a manifest cannot point outside its directory.
    expected = FILES | INT8_FILES if "int8" in manifest.fidelity else FILES
    if wrong := listed ^ expected:
        raise ArtifactError(f"{path / MANIFEST} lists the wrong files ({', '.join(sorted(wrong))}). Copy it again.")
    if missing := listed - actual:
        raise ArtifactError(f"{path / min(missing)} is missing. Copy the package again from the original.")
    if extra := actual - listed:
        raise ArtifactError(f"{path / min(extra)} is not in the manifest. Remove it: a package may not contain other files.")


def _check_file(path: Path, files: HeldFiles, expected: FileRecord) -> None:
    try:
        sha256, n_bytes = files.digest(path.name)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from None
    if n_bytes != expected.bytes:
        raise ArtifactError(f"{path} has {n_bytes:,} bytes; the manifest lists {expected.bytes:,}. Copy it again.")
    if sha256 != expected.sha256:
        raise ArtifactError(
            f"{path} has sha256 {sha256[:12]}…, but the manifest lists {expected.sha256[:12]}…."
            " The file was altered; copy it again from the original package."
        )

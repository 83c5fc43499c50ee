"""The contract between training and serving: one directory, data only, every byte of it promised by its manifest.

The reader owns the format, because it must still run in two years; the writer (`graft.training.packaging.writer`) imports it from here.
Only pydantic and the standard library may be imported, so that a damaged package is refused within milliseconds.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

FORMAT: Literal[4] = 4
MANIFEST = "manifest.json"
GRAPH = "model.onnx"
WEIGHTS = "weights.safetensors"
GOLDEN = "golden.npz"
NEIGHBOURS = "neighbours.npz"
THUMBNAILS = "thumbnails.npz"
CARD = "README.md"
FILES = frozenset({GRAPH, WEIGHTS, GOLDEN, NEIGHBOURS, THUMBNAILS, CARD})
INT8_GRAPH, INT8_WEIGHTS = "model.int8.xml", "model.int8.bin"  # OpenVINO's own format; only where somebody asked for them
INT8_FILES = frozenset({INT8_GRAPH, INT8_WEIGHTS})
MAPS = "maps"  # the graph's output that the vectors are the means of; the names of the stages' end in it


Precision = Literal["f32", "bf16", "f16", "int8"]  # what a network computes in
FAITHFUL = 0.01  # of a probability: who looks at answers that differ by less cannot tell them apart


class ArtifactError(Exception):
    """The package cannot be trusted. The text names the file, what was found, what was promised, and what to do."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Preprocessing(_Record):
    """How an encoded image becomes the network's pixels; `graft.service.imaging.preprocess` is its only interpreter.

    Fixed for every package: EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled by
    1/257, colour profiles are ignored, and of an animation the first frame counts.
    """

    resize: int = Field(gt=0, description="pixels that the shorter side is scaled to before cropping")
    crop: int = Field(gt=0, description="pixels of the square's side that the network sees")
    fit: Literal["crop", "squash", "letterbox"] = "crop"
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"
    mean: tuple[float, float, float] = Field(description="of RGB in [0, 1]; subtracted inside the network")
    std: tuple[float, float, float] = Field(description="of RGB in [0, 1]; divided by inside the network")


class Backbone(_Record):
    """The pretrained network that was grafted onto."""

    name: str
    weights: str = Field(description="where the weights came from, for a person")
    license: str
    sha256: str = Field(description="of the backbone's tensors as they were loaded")
    width: int = Field(gt=0, description="of the network's own vector")
    stages: dict[NonNegativeInt, PositiveInt] = Field({}, description="widths of the stages used, by timm's number of each")
    sees: Literal["last", "all"] = Field("last", description="the head's input: that vector, or every stage's mean before it")
    pooled: bool = Field(False, description="whether the vector is the mean over all positions of a map, as torch showed")

    @property
    def maps(self) -> dict[str, int]:
        """The graph's outputs float32 (N, width, h, w) whose means are the head's input, in its order, each with its width.

        Empty where the network is not pooled: then no map's positions add up to a logit.
        """
        stages = {f"stage{number + 1}_{MAPS}": width for number, width in self.stages.items()} if self.sees == "all" else {}
        return stages | {MAPS: self.width} if self.pooled else {}


class Score(_Record):
    """A share of right answers with its 95 % Wilson interval."""

    accuracy: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    n: int = Field(ge=0)


class Fidelity(_Record):
    """What becomes of a package's answers where the network computes in another precision than f32."""

    moved: float = Field(ge=0, le=1, description="how far the probability of an undecided image would, over validation images")
    changed: int = Field(ge=0, description="how many of these images get another answer")
    score: Score = Field(description="how many test images are answered rightly")

    @property
    def faithful(self) -> bool:
        """Whether it may be used without being asked for."""
        return self.changed == 0 and self.moved <= FAITHFUL


class Calibration(_Record):
    """How far to trust an answer, as validation taught it; test only measures what came of it.

    Attributes:
        thresholds: in the labels' order. One label an image: the lowest probability at which `wanted_precision` was
            reached, None if never. Several: the probability from which on the label is given.
        coverage: how often a prediction set promises to hold the right label; None for several labels an image.
        set_threshold: the probability from which on a label is in the prediction set; 0 where validation had too few
            images for the promise, so that every label is in it.
        outlier_k: an image's outlier score is its cosine distance to the k-th nearest of the package's neighbours.
        outlier_threshold: an image with a higher score is an outlier.
    """

    wanted_precision: float = Field(gt=0, lt=1)
    thresholds: tuple[float | None, ...]
    coverage: float | None = Field(gt=0, lt=1)
    set_threshold: float | None = Field(ge=0, le=1)
    outlier_k: int = Field(gt=0)
    outlier_threshold: float = Field(ge=0, le=2)


class FileRecord(_Record):
    sha256: str
    bytes: int = Field(ge=0)


class Manifest(_Record):
    """Everything about a model but its numbers."""

    format: Literal[4] = FORMAT
    sha256: str = Field(default="", description="of this file with this field empty: the model's identity")
    name: str
    version: str
    created: str = Field(description="ISO 8601, UTC")
    labels: tuple[str, ...] = Field(min_length=2)
    strategy: str
    backbone: Backbone
    preprocessing: Preprocessing
    multilabel: bool = Field(description="whether an image may have several labels, or none")
    temperature: float = Field(gt=0, description="logits are divided by it before the softmax, or the sigmoids")
    calibration: Calibration
    scores: dict[str, Score] = Field(description="by split; `test` was never used to choose anything")
    tolerance: float = Field(gt=0, description="how far a probability may move from the golden answers")
    fidelity: dict[Precision, Fidelity] = Field(description="by precision, of those that the packaging machine computes in")
    libraries: dict[str, str]
    files: dict[str, FileRecord]

    @model_validator(mode="after")
    def _one_threshold_a_label(self) -> "Manifest":
        thresholds = self.calibration.thresholds
        if len(thresholds) != len(self.labels):
            raise ValueError(f"there are {len(self.labels)} labels, but {len(thresholds)} thresholds")
        if self.multilabel and None in thresholds:
            raise ValueError("several labels an image need a threshold each")
        if not self.multilabel and self.calibration.set_threshold is None:
            raise ValueError("one label an image needs a threshold for its prediction set")
        return self

    def content(self) -> bytes:
        """The manifest file's bytes: the only spelling that `read` accepts."""
        return (json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n").encode()

    def sealed(self) -> "Manifest":
        """This manifest with its own digest filled in."""
        blank = self.model_copy(update={"sha256": ""})
        return blank.model_copy(update={"sha256": hashlib.sha256(blank.content()).hexdigest()})


@dataclass(frozen=True)
class Artifact:
    """A package whose every byte has been checked."""

    path: Path
    manifest: Manifest

    @property
    def graph(self) -> Path:
        return self.path / GRAPH

    @property
    def int8_graph(self) -> Path:
        return self.path / INT8_GRAPH

    @property
    def weights(self) -> Path:
        return self.path / WEIGHTS

    @property
    def golden(self) -> Path:
        return self.path / GOLDEN

    @property
    def neighbours(self) -> Path:
        return self.path / NEIGHBOURS

    @property
    def thumbnails(self) -> Path:
        return self.path / THUMBNAILS


def record(path: Path) -> FileRecord:
    """The digest and size of one file, read in pieces."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return FileRecord(sha256=digest.hexdigest(), bytes=file.tell())


def read(path: Path) -> Artifact:
    """The package in a directory, every byte of it verified.

    Raises:
        ArtifactError: if anything is missing, added, altered, or of another format; the text names the file.
    """
    if not path.is_dir():
        raise ArtifactError(f"{path} is not a package: no such directory. Make one with: graft fit DIR")
    manifest = _read_manifest(path / MANIFEST)
    _check_names(path, manifest)
    for name, promised in manifest.files.items():
        _check_file(path / name, promised)
    return Artifact(path, manifest)


def _read_manifest(path: Path) -> Manifest:
    if path.is_symlink():
        raise ArtifactError(f"{path} is a link. A package holds no links; copy it with its contents.")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing, so {path.parent} is not a finished package. Pack it again.") from None
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from None
    try:
        fields = json.loads(content)
        found = fields["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ArtifactError(f"{path} is not a Graft manifest. Copy the package again from where it was made.") from None
    if found != FORMAT:
        raise ArtifactError(f"{path} has format {found!r}; this Graft reads format {FORMAT}. Install the Graft it names.")
    try:
        manifest = Manifest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"{path}: {where}: {first['msg']}. Copy the package again.") from None
    if manifest.sealed().content() != content:
        raise ArtifactError(f"{path} was altered after it was written: its own sha256 does not match. Copy it again.")
    return manifest


def _check_names(path: Path, manifest: Manifest) -> None:
    promised, found = set(manifest.files), {entry.name for entry in path.iterdir()} - {MANIFEST}
    # The names are a closed set, so no manifest can point outside its own directory.
    wanted = FILES | INT8_FILES if "int8" in manifest.fidelity else FILES
    if odd := promised ^ wanted:
        raise ArtifactError(f"{path / MANIFEST} promises the wrong files ({', '.join(sorted(odd))}). Copy it again.")
    if missing := promised - found:
        raise ArtifactError(f"{path / min(missing)} is missing. Copy the package again from where it was made.")
    if extra := found - promised:
        raise ArtifactError(f"{path / min(extra)} is not in the manifest. Remove it if it is yours; nothing else may be here.")


def _check_file(path: Path, promised: FileRecord) -> None:
    if path.is_symlink() or not path.is_file():
        raise ArtifactError(f"{path} is not a plain file. A package holds no links; copy it with its contents.")
    try:
        found = record(path)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from None
    if found.bytes != promised.bytes:
        raise ArtifactError(f"{path} has {found.bytes:,} bytes; the manifest promises {promised.bytes:,}. Copy it again.")
    if found.sha256 != promised.sha256:
        raise ArtifactError(
            f"{path} has sha256 {found.sha256[:12]}…, but the manifest promises {promised.sha256[:12]}…."
            " Its content was altered; copy it again from where it was made."
        )

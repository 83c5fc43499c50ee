"""A package brought to life: bytes to pixels to outputs to a ranked answer. The service, `graft predict` and `graft
evaluate` all hold one of these, so they cannot answer differently. No HTTP.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..artifact import MANIFEST, Artifact, ArtifactError, Manifest, Precision, read
from ..imaging.preprocess import Decoded, ImageLimits, decode
from . import loader
from .engine import Engine, Outputs
from .neighbours import Neighbours, Thumbnails
from .postprocess import Ranked, conforming, given, named, probabilities, rank


@dataclass(frozen=True)
class Golden:
    """Questions with their answers, asked by training and again at every start.

    Attributes:
        encoded: the images as files.
        logits: float32 (N, C), what training's own network answered.
    """

    encoded: tuple[bytes, ...]
    logits: NDArray[np.float32]

    def save(self, path: Path) -> None:
        """Writes the .npz; plain arrays only, so that it can be read without pickle."""
        content = np.frombuffer(b"".join(self.encoded), np.uint8)
        ends = np.cumsum([len(encoded) for encoded in self.encoded])
        np.savez(path, content=content, ends=ends, logits=self.logits)

    @classmethod
    def load(cls, path: Path) -> "Golden":
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            pieces = np.split(arrays["content"], arrays["ends"][:-1])
            return cls(tuple(piece.tobytes() for piece in pieces), arrays["logits"])


Doubt = Literal["outlier", "undecided"]


@dataclass(frozen=True)
class Answer:
    """What is told about one image.

    Attributes:
        ranked: the most probable labels, most probable first.
        prediction_set: the labels that hold the right one as often as was promised; where an image may have several
            labels, those it is given. Most probable first.
        outlier_score: how unlike the training images it is, in [0, 2].
        doubt: why nobody should rely on this answer; None if somebody may.
    """

    ranked: tuple[Ranked, ...]
    prediction_set: tuple[str, ...]
    outlier_score: float
    doubt: Doubt | None


class Checked(NamedTuple):
    """What asking the golden questions here brought.

    Attributes:
        drift: the largest change of a probability, in [0, 1].
        seconds: that the network took for one image, in the median.
    """

    drift: float
    seconds: float


class Model:
    """A verified package and the engine that runs it."""

    def __init__(self, artifact: Artifact, running: Engine, limits: ImageLimits = ImageLimits()) -> None:
        self.artifact = artifact
        self.manifest = artifact.manifest
        self.engine = running
        self.limits = limits

    def decode(self, encoded: bytes) -> Decoded:
        """The pixels the network sees of one file. Raises ImageError."""
        return decode(encoded, self.manifest.preprocessing, self.limits)

    @cached_property
    def neighbours(self) -> Neighbours:
        """The training images that an answer is compared with.

        Raises:
            ArtifactError: if their vectors are not this network's.
        """
        neighbours, k = Neighbours.load(self.artifact.neighbours), self.manifest.calibration.outlier_k
        n_vectors, width = neighbours.vectors.shape
        if width != self.manifest.backbone.width or n_vectors < k:
            needed = f"at least {k} of {self.manifest.backbone.width} numbers"
            raise ArtifactError(f"{self.artifact.neighbours} has {n_vectors} vectors of {width} numbers; needed: {needed}.")
        return neighbours

    @cached_property
    def thumbnails(self) -> Thumbnails:
        """The neighbours' pictures, read when they are first asked for.

        Raises:
            ArtifactError: if they are not these neighbours' pictures.
        """
        thumbnails, n_needed = Thumbnails.load(self.artifact.thumbnails), len(self.neighbours.paths)
        if len(thumbnails) != n_needed:
            raise ArtifactError(f"{self.artifact.thumbnails} has {len(thumbnails)} pictures; needed: {n_needed}.")
        return thumbnails

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Calibrated, (N, C), of logits (N, C)."""
        return probabilities(logits, self.manifest.temperature, self.manifest.multilabel)

    def answer(self, outputs: Outputs, top_k: int) -> Answer:
        """The answer to one image from its outputs, logits (1, C) and vectors (1, D)."""
        labels, calibration = self.manifest.labels, self.manifest.calibration
        chances = self.probabilities(outputs.logits)
        members = self._members(chances)[0]
        score = self.neighbours.outlier_score(outputs.vectors[0], calibration.outlier_k)
        undecided = bool(members.all()) and not self.manifest.multilabel
        doubt: Doubt | None = "outlier" if score > calibration.outlier_threshold else "undecided" if undecided else None
        return Answer(rank(chances[0], labels, top_k), named(members, chances[0], labels), score, doubt)

    def _members(self, chances: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which labels are in the prediction sets, (N, C)."""
        calibration = self.manifest.calibration
        if calibration.set_threshold is None:
            return given(chances, np.array(calibration.thresholds, np.float64))
        return conforming(chances, calibration.set_threshold)

    def classify(self, encoded: bytes, top_k: int) -> Answer:
        """The whole road for one file, in this thread. Raises ImageError."""
        return self.answer(self.engine(self.decode(encoded).pixels[None]), top_k)

    @property
    def drift(self) -> float:
        """How far the golden answers move on this machine: the largest change of a probability, in [0, 1].

        Raises:
            ArtifactError: if they are answers of a network with another number of labels.
        """
        return self.checked.drift

    @cached_property
    def checked(self) -> Checked:
        """The golden questions, asked once. Raises as `drift` does."""
        golden = Golden.load(self.artifact.golden)
        n_labels, n_logits = len(self.manifest.labels), golden.logits.shape[1]
        if n_labels != n_logits:
            manifest, path = self.artifact.path / MANIFEST, self.artifact.golden
            raise ArtifactError(f"{manifest} lists {n_labels} labels, but {path} has {n_logits} logits.")
        rows, seconds = [], []
        for encoded in golden.encoded:
            pixels, begun = self.decode(encoded).pixels[None], time.perf_counter()
            rows.append(self.engine(pixels).logits)
            seconds.append(time.perf_counter() - begun)
        moved = self.probabilities(np.concatenate(rows)) - self.probabilities(golden.logits)
        return Checked(float(np.abs(moved).max()), float(np.median(seconds)))

    @property
    def fit(self) -> bool:
        """Whether the golden answers come out as was promised."""
        return self.drift <= self.allowance  # not so if it is no number

    @property
    def allowance(self) -> float:
        """How far the golden answers may move: what another machine may do to them, and what this precision did before."""
        seen = self.manifest.fidelity.get(self.engine.precision)
        return self.manifest.tolerance + (seen.moved if seen else 0)


def load(
    path: Path, device: str = "auto", limits: ImageLimits = ImageLimits(), precision: Precision | Literal["auto"] = "auto"
) -> Model:
    """The model of a package directory, fit to answer: every byte verified, the golden answers reproduced.

    Args:
        precision: "auto" for the fastest of those that this machine computes in by itself and that change no answer.

    Raises:
        ArtifactError: if the package is damaged, or this machine's answers are not those that were evaluated, or it does not
            compute in that precision.
    """
    artifact = read(path)
    first, *others = _candidates(artifact.manifest, loader.resolved(device), precision)
    model = Model(artifact, loader.load(artifact, device, first), limits)
    if not model.fit:
        raise ArtifactError(
            f"{artifact.golden}: this machine's answers differ by {model.drift:.2g} from those that were evaluated;"
            f" {model.allowance:.2g} is allowed. Compare the versions in {path / MANIFEST} with those here."
        )
    chosen = fastest([model, *(Model(artifact, loader.load(artifact, device, other), limits) for other in others)])
    _ = chosen.neighbours  # now, not during the first request
    return chosen


def fastest(models: Sequence[Model]) -> Model:
    """The one that answers soonest, of those that answer as they should; the first of these models does."""
    return min((model for model in models if model.fit), key=lambda model: model.checked.seconds)


def _candidates(manifest: Manifest, device: str, wanted: Precision | Literal["auto"]) -> list[Precision]:
    """What to try, f32 first; or just what is wanted. Raises ArtifactError if this machine does not compute in that."""
    native = loader.native(device)
    if wanted == "auto":
        return ["f32", *(name for name in native if name != "f32" and _faithful(manifest, name))]
    if wanted not in native:
        raise ArtifactError(f"This machine's {device} does not compute in {wanted} by itself; it does in {', '.join(native)}.")
    return [wanted]


def _faithful(manifest: Manifest, precision: Precision) -> bool:
    """Whether a precision changes no answer. Of half floats, which only GPUs compute in, the golden answers alone tell it."""
    seen = manifest.fidelity.get(precision)
    return seen.faithful if seen else precision == "f16"


def head_of(artifact: Artifact) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (C, D) and bias (C,) of a package's head, which stand in the graph under no names that can be relied on.

    Raises:
        ArtifactError: if the package's weights do not hold it.
    """
    from safetensors import SafetensorError, safe_open

    path = artifact.weights
    try:
        with safe_open(path, framework="numpy") as tensors:
            weight, bias = (tensors.get_tensor(f"head.{name}").astype(np.float64) for name in ("weight", "bias"))
    except SafetensorError as error:
        raise ArtifactError(f"{path} does not hold the head: {error}.") from None
    return weight, bias

"""A loaded package: from image bytes to pixels, network outputs and a classification result. No HTTP.

The service, `graft predict` and `graft evaluate` all use this class, so their results agree.
"""

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..artifact import Artifact, ArtifactError, read
from ..errors import ImageError
from ..fidelity import Precision
from ..imaging.preprocess import DecodedImage, ImageLimits, decode
from ..manifest import GOLDEN, GRAPH, MANIFEST, Manifest
from ..settings import DeviceSetting
from . import loader
from .contents import Contents, load_contents
from .devices import Device, resolve_device
from .engine import DeviceFailed, Engine, Outputs, Pixels
from .engine_speed import images_per_second
from .neighbors import NeighborIndex, Thumbnails
from .openvino import OpenVinoEngine
from .postprocess import LabelProbability, above_threshold, label_names, prediction_set, rank, to_probabilities

logger = logging.getLogger("graft")

MIN_INT8_SPEEDUP = 1.05

AbstainReason = Literal["outlier", "unsure"]


@dataclass(frozen=True)
class ClassificationResult:
    """The classification of one image.

    Attributes:
        ranked: the most probable labels, most probable first.
        prediction_set: multiclass: a set that contains the true label with the target coverage; multilabel: the predicted
            labels. Most probable first.
        outlier_score: cosine distance to the k-th nearest training image, in [0, 2].
        abstain_reason: why the prediction is unreliable; None if it is reliable.
    """

    ranked: tuple[LabelProbability, ...]
    prediction_set: tuple[str, ...]
    outlier_score: float
    abstain_reason: AbstainReason | None


class InferenceResult(NamedTuple):
    """One image, decoded, with the network's outputs.

    Attributes:
        outputs: logits (1, C) and vectors (1, D).
        timing_ms: milliseconds by stage.
    """

    decoded: DecodedImage
    outputs: Outputs
    timing_ms: dict[str, float]


class Model:
    """A verified package with the engine that runs it.

    Args:
        contents: of the package; None reads them at first use.
    """

    def __init__(
        self, artifact: Artifact, engine: Engine, limits: ImageLimits = ImageLimits(), contents: Contents | None = None
    ) -> None:
        self._contents = contents
        self.artifact = artifact
        self.manifest = artifact.manifest
        self.engine = engine
        self.limits = limits

    def compile_for_latency(self) -> None:
        """Makes single images faster on a CPU, after a moment of compiling."""
        if isinstance(self.engine, OpenVinoEngine):
            self.engine.compile_for_latency()

    def decode(self, encoded: bytes) -> DecodedImage:
        """Decodes and preprocesses one image file. Raises ImageError."""
        return decode(encoded, self.manifest.preprocessing, self.limits)

    @cached_property
    def contents(self) -> Contents:
        """Golden samples, neighbors and thumbnails. Raises ArtifactError if they do not fit this network."""
        return self._contents or load_contents(self.artifact)

    @property
    def neighbors(self) -> NeighborIndex:
        """The training images for outlier scores and similarity search."""
        return self.contents.neighbors

    @property
    def thumbnails(self) -> Thumbnails:
        """The thumbnails of the neighbors."""
        return self.contents.thumbnails

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """The calibrated probabilities (N, C) of logits (N, C)."""
        return to_probabilities(logits, self.manifest.temperature, self.manifest.multilabel)

    def postprocess(self, outputs: Outputs, top_k: int, max_error: float | None = None) -> ClassificationResult:
        """Turns the outputs for one image, logits (1, C) and vectors (1, D), into a classification result.

        Args:
            max_error: the largest wanted share of wrong predictions among those that do not abstain, in [0, 1]; None for that
                of the package.
        """
        labels, calibration = self.manifest.labels, self.manifest.calibration
        class_probabilities = self.probabilities(outputs.logits)
        members = self._prediction_sets(class_probabilities)[0]
        outlier_score = self.neighbors.outlier_score(outputs.vectors[0], calibration.outlier_k)
        abstain_reason: AbstainReason | None = None
        if outlier_score > calibration.outlier_threshold:
            abstain_reason = "outlier"
        elif not self.manifest.multilabel and class_probabilities.max() < calibration.min_probability(max_error):
            abstain_reason = "unsure"
        ranked, member_labels = (
            rank(class_probabilities[0], labels, top_k),
            label_names(members, class_probabilities[0], labels),
        )
        return ClassificationResult(ranked, member_labels, outlier_score, abstain_reason)

    def _prediction_sets(self, probabilities: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Membership of each label in the prediction sets, (N, C)."""
        calibration = self.manifest.calibration
        select = above_threshold if calibration.set_thresholds is None else prediction_set
        return select(probabilities, self._thresholds)

    @cached_property
    def _thresholds(self) -> NDArray[np.float64]:
        """The lowest probability of each label in a prediction set, or of a multi-label prediction, (C,)."""
        calibration = self.manifest.calibration
        return np.array(calibration.set_thresholds or calibration.thresholds, np.float64)

    def classify(self, encoded: bytes, top_k: int) -> ClassificationResult:
        """Classifies one image file in the calling thread. Raises ImageError."""
        return self.postprocess(self.engine(self.decode(encoded).pixels[None]), top_k)

    @cached_property
    def golden_difference(self) -> float:
        """The largest difference from a golden probability on this machine, in [0, 1].

        Raises:
            ArtifactError: if the golden samples or the network's outputs do not fit the manifest.
        """
        golden, logits = self.contents.golden, []
        for encoded in golden.encoded:
            outputs = self.engine(self._golden_pixels(encoded))
            if not np.isfinite(outputs.vectors).all():
                raise ArtifactError(f"{self.artifact.location(GRAPH)} gives vectors that are not finite.")
            logits.append(outputs.logits)
        shifts = self.probabilities(np.concatenate(logits)) - self.probabilities(golden.logits[self.engine.precision])
        return float(np.abs(shifts).max())

    def _golden_pixels(self, encoded: bytes) -> Pixels:
        """The pixels (1, S, S, 3) of one golden image. Raises ArtifactError if it cannot be decoded."""
        try:
            return self.decode(encoded).pixels[None]
        except ImageError as error:
            raise ArtifactError(f"{self.artifact.location(GOLDEN)} has an image that cannot be decoded: {error}") from None

    @property
    def passes(self) -> bool:
        """Whether the golden probabilities are reproduced within the tolerance."""
        return self.golden_difference <= self.golden_tolerance  # False for NaN

    @property
    def golden_tolerance(self) -> float:
        """The largest allowed `golden_difference`: the tolerance between machines plus the measured shift of this precision.

        Each of two machines may differ from f32 by this shift, and so from each other by two of them.
        """
        return self.manifest.tolerance + 2 * self.manifest.precisions[self.engine.precision].max_probability_shift


def load(
    package: Path | Artifact,
    device: DeviceSetting = "auto",
    limits: ImageLimits = ImageLimits(),
    precision: Precision | Literal["auto"] = "auto",
) -> Model:
    """Loads a package: verifies every byte and all contents, and reproduces the golden probabilities.

    Whatever is used later is read and checked now, so that a package cannot fail at a request.

    Args:
        package: a package folder, or a package that is open already.
        precision: "auto" selects the fastest precision that this machine has in hardware and that is equivalent to f32. With
            int8, `artifact` and `manifest` of the result are those of the package's int8 model.

    Raises:
        ArtifactError: if the package is damaged or contradicts itself, the golden probabilities differ, or the device does not
            support the precision.
        DeviceFailed: if the GPU that was asked for by name fails, or is too small for the network.
    """
    artifact, resolved = package if isinstance(package, Artifact) else read(package), resolve_device(device)
    try:
        return _load_fastest(artifact, resolved, limits, precision)
    except DeviceFailed as error:  # a card may pass the check of the device, and not have the memory for this network
        if device != "auto":
            raise
        logger.warning(f"the CPU is used, not the GPU: {error}")
        return _load_fastest(artifact, "cpu", limits, precision)


def _load_fastest(artifact: Artifact, device: Device, limits: ImageLimits, precision: Precision | Literal["auto"]) -> Model:
    first, *others = _candidate_precisions(artifact.manifest, device, precision)
    # Contents are read before a network is parsed, and not during the first request.
    found = {False: (artifact, load_contents(artifact))}
    if "int8" in (first, *others):
        int8 = artifact.int8_model()
        found[True] = int8, load_contents(int8)

    def load_one(name: Precision) -> Model:
        own, contents = found[name == "int8"]
        return Model(own, loader.load(own, device, name), limits, contents)

    best = load_one(first)
    if not best.passes:
        raise ArtifactError(
            f"{best.artifact.location(GOLDEN)}: this machine's probabilities differ by {best.golden_difference:.2g} from the"
            f" golden ones; the tolerance is {best.golden_tolerance:.2g}."
            f" Compare the installed libraries with those in {artifact.path / MANIFEST}."
        )
    for other in others:  # one after the other: at most two have to fit into the memory of a GPU
        try:
            model = load_one(other)
        except DeviceFailed as error:
            logger.warning(f"{other} is not used: {error}")
            continue
        best = select_faster(best, model) if model.passes else best
    return best


def select_faster(best: Model, other: Model) -> Model:
    """The model with more images per second, measured side by side as in a busy service.

    An int8 model has to be faster by more than noise: it answers differently, and replicas should agree.
    """
    side = best.manifest.preprocessing.crop
    speed, other_speed = images_per_second([best.engine, other.engine], side)
    needed = MIN_INT8_SPEEDUP * speed if other.artifact.is_int8 else speed
    return other if other_speed > needed else best


def _candidate_precisions(manifest: Manifest, device: Device, requested: Precision | Literal["auto"]) -> list[Precision]:
    """The precisions to try, f32 first; or only the requested one. Raises ArtifactError if it is not supported."""
    supported, precisions = loader.supported_precisions(device), manifest.precisions
    if requested == "auto":
        return ["f32", *(name for name in supported if name != "f32" and name in precisions and manifest.is_equivalent(name))]
    if requested not in supported:
        raise ArtifactError(f"This machine's {device} does not support {requested}; it supports {', '.join(supported)}.")
    if requested not in precisions and requested != "int8":  # `int8_model` says how to get one
        raise ArtifactError(f"{requested} is too narrow for the network of this package: its outputs were not finite.")
    return [requested]

"""The records of a package: the names of its files, and its manifest with the bounds of every field. Opens no file.

The reader defines the format, because it must still work in two years; `graft.training.packaging.writer` imports it.
Import only pydantic and the standard library here, so that a damaged package is rejected within milliseconds.
"""

import hashlib
import json
import math
from collections import Counter
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from .fidelity import MAX_PROBABILITY_SHIFT, Fidelity, Precision
from .records import Note, Probability, Record, Sha256, Text

FORMAT_VERSION: Literal[9] = 9
MANIFEST = "manifest.json"
GRAPH = "model.onnx"
WEIGHTS = "weights.safetensors"
GOLDEN = "golden.npz"
NEIGHBORS = "neighbors.npz"
THUMBNAILS = "thumbnails.npz"
SEEN_IMAGES = "seen_images.npz"
MODEL_CARD = "README.md"
PACKAGE = "package"  # folder of the package in a run folder
FILES = frozenset({GRAPH, WEIGHTS, GOLDEN, NEIGHBORS, THUMBNAILS, SEEN_IMAGES, MODEL_CARD})
HEAD = "head"  # stands for the file with the head's tensors; of the f32 model, that is the weights file
F32_NAMES = {HEAD: WEIGHTS}
INT8_NAMES = {  # the files that the int8 model has of its own, by those of the f32 model; optional
    GRAPH: "model.int8.onnx",
    HEAD: "head.int8.safetensors",
    NEIGHBORS: "neighbors.int8.npz",
}
INT8_FILES = frozenset(INT8_NAMES.values())
MAPS_OUTPUT = "maps"  # graph output: the feature maps that are averaged into the vectors; stage outputs have this suffix

# Whoever can write a package can also write its digests. These limits are far above what training writes; they keep a reader
# from hashing terabytes, or from using values that fail at the first request.
MAX_MANIFEST_BYTES = 2**24
MAX_BYTES = {
    GRAPH: 2**31,  # protobuf's limit
    WEIGHTS: 2**32,
    GOLDEN: 2**28,
    NEIGHBORS: 2**25,
    THUMBNAILS: 2**25,
    SEEN_IMAGES: 2**30,  # 24 bytes for each image
    MODEL_CARD: 2**26,
}
MAX_BYTES |= {own: MAX_BYTES[F32_NAMES.get(name, name)] for name, own in INT8_NAMES.items()}
MAX_SIDE = 4096  # pixels of the network's input
MAX_WIDTH = 2**20  # of a feature vector
MAX_CENTERS = 5_000  # of a kernel machine: 5 MB of a package, a millisecond of every image
MAX_FREQUENCY_ERROR = 1e-6  # of the sum of label frequencies, which is 1
MAX_SMALL = 100  # entries of the lists and mappings that do not grow with the labels

MetricName = Literal["log-loss", "accuracy", "balanced-accuracy", "f1-macro"]
Frequency = Annotated[float, Field(gt=0, le=1)]
Deviation = Annotated[float, Field(ge=0.001, le=10)]  # the divisor of a channel
Temperature = Annotated[float, Field(ge=0.01, le=100, description="divisor of the logits before the softmax or sigmoid")]


class Preprocessing(Record):
    """How an encoded image is converted to the network's input. Implemented only in `graft.service.imaging.preprocess`.

    The same for every package: EXIF orientation is applied, transparent pixels are composited on white, color profiles are
    ignored, and only the first frame of an animation and the first page of a TIFF are used.
    """

    resize: int = Field(gt=0, le=MAX_SIDE, description="length of the shorter side before cropping, in pixels")
    crop: int = Field(gt=0, le=MAX_SIDE, description="side of the network's square input, in pixels")
    fit: Literal["crop", "squash", "letterbox"] = "crop"
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"
    mean: tuple[Probability, Probability, Probability] = Field(
        description="per RGB channel, for values in [0, 1]; subtracted inside the network"
    )
    std: tuple[Deviation, Deviation, Deviation] = Field(
        description="per RGB channel, for values in [0, 1]; the divisor inside the network"
    )
    sample_bits: Literal[8, 10, 12, 14, 16] | None = Field(
        None,
        description="bits in use in images with more than 8 bits per channel: those of the training images; null if there were"
        " no such images: then each image's own",
    )


class KernelShape(Record):
    """The size of a kernel machine."""

    axes: int = Field(gt=0, le=MAX_WIDTH, description="dimension of the space in which distances are measured")
    centers: int = Field(gt=0, le=MAX_CENTERS, description="number of centers, which are training images")


class Backbone(Record):
    """The pretrained network without its classifier."""

    name: Text
    weights: Note = Field(description="human-readable source of the weights")
    license: Note
    sha256: Note = Field(description="digest of the pretrained tensors as loaded")
    width: int = Field(gt=0, le=MAX_WIDTH, description="dimension of the output vector")
    stages: dict[NonNegativeInt, Annotated[PositiveInt, Field(le=MAX_WIDTH)]] = Field(
        {}, max_length=MAX_SMALL, description="channels of each stage used, by timm stage index"
    )
    head_input: Literal["last", "all"] = Field(
        "last", description="the head's input: last: the output vector; all: the pooled stages and the output vector"
    )
    kernel: KernelShape | None = Field(None, description="of the kernel machine beside the linear head; null without one")
    pooled: bool = Field(False, description="whether the output vector is a global average pool, as verified in torch")

    @property
    def head_width(self) -> int:
        """Number of inputs of the head."""
        return self.width + (sum(self.stages.values()) if self.head_input == "all" else 0)

    def head_shapes(self, n_labels: int) -> dict[str, tuple[int, ...]]:
        """The shapes of the head's tensors in the weights file, by name."""
        width, shapes = self.head_width, {"head.weight": (n_labels, self.head_width), "head.bias": (n_labels,)}
        if self.kernel is None:
            return shapes
        axes, centers = self.kernel.axes, self.kernel.centers
        return shapes | {
            "head.offset": (width,),
            "head.projection": (axes, width),
            "head.shift": (axes,),
            "head.centers": (centers, axes),
            "head.coefficients": (n_labels, centers),
        }

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


class Score(Record):
    """Accuracy with its 95% Wilson interval."""

    accuracy: Probability
    low: Probability
    high: Probability
    n: int = Field(ge=0)


Scores = Annotated[
    dict[Text, Score],
    Field(max_length=MAX_SMALL, description="accuracy by split; `test` was not used for any selection"),
]


class ErrorLevel(Record):
    """The probability above which predictions are wrong no more often than wanted."""

    max_error: float = Field(gt=0, lt=1, description="largest share of wrong predictions among those that are answered")
    min_probability: Probability | None = Field(
        description="the lowest probability of the top label that is answered; null if none is shown to be sure enough"
    )
    answered: Probability = Field(description="share of the held-out images that are answered")


class Calibration(Record):
    """Decision thresholds, fitted on held-out images; the test split only evaluates them.

    Attributes:
        n_images: number of those images: of training and validation, each predicted by a head that has not learned from it, or
            of validation alone if the backbone was trained.
        thresholds: one per label, in label order. Multiclass: the lowest probability that reaches `target_precision`, or None.
            Multilabel: the lowest probability at which the label is predicted.
        coverage: target probability that the prediction set contains the true label; None for multilabel.
        set_thresholds: the lowest probability of each label in the prediction set; None for multilabel. 0 if there are too few
            images to guarantee the coverage: then the set always contains the label.
        covered_by_label: whether images of the label are covered as often as wanted; if not, they are on average with those of
            other labels.
        max_error: the largest share of wrong predictions among those that do not abstain. None: only outliers abstain.
        error_levels: the thresholds for this error and others, in ascending order.
        outlier_k: the outlier score is the cosine distance to the k-th nearest neighbor in the package.
        outlier_threshold: an image with a higher score is an outlier.
    """

    n_images: int = Field(ge=0)
    target_precision: float = Field(gt=0, lt=1)
    thresholds: tuple[Probability | None, ...]
    coverage: float | None = Field(gt=0, lt=1)
    set_thresholds: tuple[Probability, ...] | None
    covered_by_label: tuple[bool, ...] = ()
    max_error: float | None = Field(None, gt=0, lt=1)
    error_levels: tuple[ErrorLevel, ...] = Field((), max_length=MAX_SMALL)
    outlier_k: int = Field(gt=0)
    outlier_threshold: float = Field(ge=0, le=2)

    def min_probability(self, max_error: float | None = None) -> float:
        """The lowest probability of a prediction that does not abstain, in [0, 1]; infinity if all abstain.

        Args:
            max_error: in [0, 1], instead of the one of the package. The threshold is that of the largest error level up to it.
        """
        wanted = self.max_error if max_error is None else max_error
        if wanted is None or wanted >= 1 or not self.error_levels:
            return 0.0
        found = (level.min_probability for level in self.error_levels if level.max_error <= wanted)
        return min((probability for probability in found if probability is not None), default=math.inf)


class LabelFrequencies(Record):
    """How frequent the labels are, in label order: among the training images, and as the probabilities assume."""

    training: tuple[Frequency, ...] = Field(description="among the training images")
    assumed: tuple[Frequency, ...] = Field(
        description="that the probabilities assume; for others, multiply each probability by their ratio and normalize"
    )

    @property
    def is_shifted(self) -> bool:
        """Whether the probabilities assume other frequencies than those of the training images."""
        return self.assumed != self.training

    def to_text(self) -> str:
        """What the probabilities assume, as a sentence."""
        if not self.is_shifted:
            return "The probabilities assume the label frequencies of the training images."
        assumed, training = (max(frequencies) / min(frequencies) for frequencies in (self.assumed, self.training))
        ratio = "the most frequent label is {:.1f} times as frequent as the rarest"
        assumption = "equally frequent labels" if assumed < 1 + 1e-9 else f"that {ratio.format(assumed)}"
        return f"The probabilities assume {assumption}; among the training images, {ratio.format(training)}."


class Int8Model(Record):
    """A second model in the package: the network quantized to int8, and all that was fitted to its outputs.

    The fields are those of `Manifest`.
    """

    backbone: Backbone
    temperature: Temperature
    label_frequencies: LabelFrequencies | None
    calibration: Calibration
    scores: Scores
    fidelity: Fidelity = Field(description="how its predictions differ from those of the f32 model on images new to both")


class FileRecord(Record):
    sha256: Sha256
    bytes: int = Field(ge=0)


class Manifest(Record):
    """The metadata of a model: everything except its weights."""

    format: Literal[9] = FORMAT_VERSION
    sha256: str = Field(default="", description="digest of this file with this field empty; identifies the model")
    name: Text
    version: Text
    created: Text = Field(description="ISO 8601, UTC")
    labels: tuple[Text, ...] = Field(min_length=2)
    strategy: Text
    backbone: Backbone
    preprocessing: Preprocessing
    formats: tuple[Text, ...] = Field(
        (), max_length=MAX_SMALL, description="file formats of the training images; a service accepts them"
    )
    multilabel: bool = Field(description="whether an image may have several labels or none")
    temperature: Temperature
    metric: MetricName = Field(description="what models were judged by at training")
    label_frequencies: LabelFrequencies | None = Field(description="null for a multi-label model")
    calibration: Calibration
    scores: Scores
    tolerance: float = Field(gt=0, le=MAX_PROBABILITY_SHIFT, description="largest allowed difference from a golden probability")
    fidelity: dict[Precision, Fidelity] = Field(description="by precision of the network; the same on every packaging machine")
    int8: Int8Model | None = Field(None, description="the int8 model; null without one")
    libraries: dict[Text, Text] = Field(max_length=MAX_SMALL)
    files: dict[str, FileRecord] = Field(max_length=MAX_SMALL)

    @model_validator(mode="after")
    def _check_labels(self) -> "Manifest":
        if duplicates := [label for label, count in Counter(self.labels).items() if count > 1]:
            raise ValueError(f"labels: {duplicates[0]!a} is listed twice")
        return self

    @model_validator(mode="after")
    def _check_preprocessing(self) -> "Manifest":
        resize, crop = self.preprocessing.resize, self.preprocessing.crop
        if self.preprocessing.fit == "crop" and crop > resize:
            raise ValueError(f"preprocessing: {crop} pixels cannot be cut out of {resize}")
        return self

    @model_validator(mode="after")
    def _check_fidelity(self) -> "Manifest":
        reference = self.fidelity.get("f32")
        if reference is None:
            raise ValueError("fidelity: f32 is missing")
        if "int8" in self.fidelity:
            raise ValueError("fidelity: int8 is a model of its own, with its own record")
        # It is added to the tolerance: a large one would accept any answer to the golden images.
        if reference.max_probability_shift > MAX_PROBABILITY_SHIFT:
            raise ValueError("fidelity: f32 is the reference, so its probabilities cannot shift")
        return self

    @model_validator(mode="after")
    def _check_sizes(self) -> "Manifest":
        for name, record in self.files.items():
            if record.bytes > (most := MAX_BYTES.get(name, record.bytes)):
                raise ValueError(f"files: {name} has {record.bytes:,} bytes; the most is {most:,}")
        return self

    @model_validator(mode="after")
    def _check_thresholds(self) -> "Manifest":
        for model in self._models:
            thresholds = model.calibration.thresholds
            if len(thresholds) != len(self.labels):
                raise ValueError(f"{len(self.labels)} labels, but {len(thresholds)} thresholds")
            if self.multilabel and None in thresholds:
                raise ValueError("every label of a multilabel model needs a threshold")
            if not self.multilabel and len(model.calibration.set_thresholds or ()) != len(self.labels):
                raise ValueError("a multiclass model needs a set threshold for every label")
        return self

    @model_validator(mode="after")
    def _check_frequencies(self) -> "Manifest":
        for model in self._models:
            if (model.label_frequencies is None) != self.multilabel:
                raise ValueError("label_frequencies: a multiclass model needs them, and a multilabel model has none")
            for frequencies in model.label_frequencies.model_dump().values() if model.label_frequencies else ():
                if len(frequencies) != len(self.labels) or abs(sum(frequencies) - 1) > MAX_FREQUENCY_ERROR:
                    raise ValueError("label_frequencies: there must be one for each label, and they must sum to 1")
        return self

    @property
    def _models(self) -> "tuple[Manifest | Int8Model, ...]":
        return (self, self.int8) if self.int8 else (self,)

    @property
    def precisions(self) -> dict[Precision, Fidelity]:
        """What each precision that the package can be served in changes; the int8 model is last."""
        return self.fidelity | ({"int8": self.int8.fidelity} if self.int8 else {})

    def is_equivalent(self, precision: Precision) -> bool:
        """Whether `precision=auto` may select it. The labels of int8 may differ: it is another model, not a copy.

        Raises:
            KeyError: if the package does not have the precision.
        """
        fidelity = self.precisions[precision]
        return fidelity.is_as_good if precision == "int8" else fidelity.is_equivalent

    def for_int8(self) -> "Manifest":
        """This manifest with the fields of the int8 model in place of those of the f32 model."""
        own = dict(self.int8 or ())
        own.pop("fidelity", None)
        return self.model_copy(update=own)

    def to_bytes(self) -> bytes:
        """The manifest file's bytes, in the canonical form that `read` requires."""
        return (json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n").encode()

    def with_digest(self) -> "Manifest":
        """A copy of this manifest with its own digest set."""
        without_digest = self.model_copy(update={"sha256": ""})
        return without_digest.model_copy(update={"sha256": hashlib.sha256(without_digest.to_bytes()).hexdigest()})

"""What a run has to tell: the records that evaluation and the ladder write into the run folder, and the report reads.

Records, and how a difference is said; who computes them is not known here.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Estimate(_Record):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


def points(value: float, low: float, high: float, of: str = "") -> str:
    """A difference of two shares with its interval, for a person: `+1.2 points (+0.3 to +2.0)`."""
    return f"{100 * value:+.1f} points{f' of {of}' * bool(of)} ({100 * low:+.1f} to {100 * high:+.1f})"


class LabelScores(_Record):
    """How one label fares on the test images. An estimate is None where there is nothing to estimate it from."""

    label: str
    support: int = Field(ge=0, description="test images that have this label")
    precision: Estimate | None
    recall: Estimate | None
    f1: Estimate | None
    average_precision: Estimate | None = None
    threshold: float | None = Field(
        None,
        description="chosen on validation. One label an image: the lowest probability at which the wanted precision was"
        " reached, None if never; several: the probability from which on the label is given",
    )
    precision_above: Estimate | None = Field(None, description="precision on test of what is at least that probable")


class Bin(_Record):
    """One bin of a reliability diagram: what was claimed, and what came true."""

    confidence: float = Field(description="mean probability of the top label in this bin")
    accuracy: float = Field(description="share of them that were right")
    n: int


class Conformal(_Record):
    """Prediction sets that hold the right label with a promised probability."""

    promised: float = Field(gt=0, lt=1, description="the coverage asked for")
    threshold: float = Field(description="labels at least this probable are in the set, and the most probable one always is")
    coverage: Estimate = Field(description="measured on test")
    mean_size: float
    sizes: dict[int, int] = Field(description="how many test images got a set of each size")


class Outliers(_Record):
    """How unlike the training images an image is: the cosine distance of its vector to the k-th nearest of theirs."""

    k: int
    threshold: float = Field(description="above it an image counts as an outlier")
    flagged: Estimate = Field(description="share of the test images above the threshold")


class LearningCurve(_Record):
    """What held-out images score by number of images learned from, and what more of them would bring.

    Attributes:
        n_images: that were learned from, ascending.
        accuracy: on held-out images; mean average precision for several labels an image.
        gain_of_doubling: by how much twice the largest number would raise it.
    """

    n_images: tuple[int, ...]
    accuracy: tuple[Estimate, ...]
    gain_of_doubling: Estimate

    def sentence(self) -> str:
        """What more images would bring, in words."""
        gain = self.gain_of_doubling
        return f"twice the images would bring about {points(gain.value, gain.low, gain.high)}"


class Evaluation(_Record):
    """Everything that is known about a trained network's answers to images that it never saw.

    Attributes:
        metrics: by name, on test. One label an image: accuracy, top5 (where there are more than 5 labels),
            balanced_accuracy, log_loss, brier. Several: map, micro_f1, macro_f1, exact_match, and log_loss and brier as
            means over labels. Both: ece_before and ece_after (the calibration error without and with the temperature).
        confusion: `confusion[true][predicted]` in test images; None for several labels an image.
    """

    n: int
    multilabel: bool
    temperature: float
    metrics: dict[str, Estimate]
    labels: tuple[LabelScores, ...]
    confusion: tuple[tuple[int, ...], ...] | None
    reliability_before: tuple[Bin, ...]
    reliability_after: tuple[Bin, ...]
    conformal: Conformal | None
    outliers: Outliers | None
    curve: LearningCurve | None = None
    ten_crop: Estimate | None = Field(None, description="by how much ten looks at an image score better than one")

    @property
    def headline(self) -> Estimate:
        """The one number that a network is known by: accuracy, or mean average precision for several labels an image."""
        return self.metrics["map" if self.multilabel else "accuracy"]


class Quadrant(_Record):
    """Where the data were found between small and large, similar to ImageNet and different from it."""

    large: bool
    different: bool
    sentence: str = Field(description="for a person, with the evidence")


class Rung(_Record):
    """One rung of the ladder: what was tried, what came of it, and what was decided."""

    strategy: Literal["probe", "svm", "stages", "last", "finetune", "scratch"]
    validation: Estimate = Field(description="accuracy, or mean average precision for several labels an image")
    seconds: float
    kept: bool
    verdict: str = Field(description="in words, for a person")

"""Result records of a run: written by evaluation and strategy selection, read by the report.

Records and their text form only; nothing is computed here.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Estimate(_Record):
    """A value with its 95 % confidence interval."""

    value: float
    low: float
    high: float


def format_points(value: float, low: float, high: float, metric: str = "") -> str:
    """A difference of two proportions with its interval, such as `+1.2 points (+0.3 to +2.0)`."""
    return f"{100 * value:+.1f} points{f' of {metric}' * bool(metric)} ({100 * low:+.1f} to {100 * high:+.1f})"


class LabelScores(_Record):
    """Per-class metrics on the test images. An estimate is None if it is undefined, such as precision without predictions."""

    label: str
    support: int = Field(ge=0, description="test images that have this label")
    precision: Estimate | None
    recall: Estimate | None
    f1: Estimate | None
    average_precision: Estimate | None = None
    threshold: float | None = Field(
        None,
        description="chosen on validation. Multiclass: the lowest probability at which the target precision was reached,"
        " None if never. Multi-label: the lowest probability at which the label is predicted",
    )
    precision_above: Estimate | None = Field(
        None, description="precision on test of predictions with at least this probability"
    )


class CalibrationBin(_Record):
    """One bin of a reliability diagram: mean confidence and observed accuracy."""

    confidence: float = Field(description="mean probability of the top label in this bin")
    accuracy: float = Field(description="fraction of predictions in this bin that are correct")
    n: int


class ConformalPrediction(_Record):
    """Conformal prediction sets, which contain the true label with a guaranteed probability."""

    promised: float = Field(gt=0, lt=1, description="the target coverage")
    threshold: float = Field(description="labels with at least this probability are in the set; the top label always is")
    coverage: Estimate = Field(description="measured on test")
    mean_size: float
    sizes: dict[int, int] = Field(description="number of test images by set size")


class OutlierDetection(_Record):
    """Outlier detection: the cosine distance of an image's vector to the k-th nearest training vector."""

    k: int
    threshold: float = Field(description="images with a greater distance are outliers")
    flagged: Estimate = Field(description="fraction of test images above the threshold")


class LearningCurve(_Record):
    """Held-out accuracy as a function of the number of training images, extrapolated to twice as many.

    Attributes:
        n_images: training images, ascending.
        accuracy: on held-out images; mean average precision for multi-label data.
        gain_of_doubling: predicted improvement with twice the largest number of images.
    """

    n_images: tuple[int, ...]
    accuracy: tuple[Estimate, ...]
    gain_of_doubling: Estimate

    def to_text(self) -> str:
        """The predicted gain of twice as many images."""
        gain = self.gain_of_doubling
        return f"estimated gain from twice as many images: {format_points(gain.value, gain.low, gain.high)}"


class Evaluation(_Record):
    """Evaluation of a trained model on held-out test images.

    Attributes:
        n: test images.
        metrics: by name. Multiclass: accuracy, top5 (with more than 5 labels), balanced_accuracy, log_loss, brier.
            Multi-label: map, micro_f1, macro_f1, exact_match, and log_loss and brier as means over labels. Both: ece_before
            and ece_after (expected calibration error before and after temperature scaling).
        confusion: confusion matrix, `confusion[true][predicted]` in test images; None for multi-label data.
    """

    n: int
    multilabel: bool
    temperature: float
    metrics: dict[str, Estimate]
    labels: tuple[LabelScores, ...]
    confusion: tuple[tuple[int, ...], ...] | None
    reliability_before: tuple[CalibrationBin, ...]
    reliability_after: tuple[CalibrationBin, ...]
    conformal: ConformalPrediction | None
    outliers: OutlierDetection | None
    curve: LearningCurve | None = None
    ten_crop: Estimate | None = Field(None, description="accuracy gain of ten-crop over single-crop inference")
    gain_over_probe: Estimate | None = Field(None, description="accuracy gain of fine-tuning over the linear probe, paired")

    @property
    def primary_metric(self) -> Estimate:
        """The primary metric: accuracy, or mean average precision for multi-label data."""
        return self.metrics["map" if self.multilabel else "accuracy"]


class TransferRegime(_Record):
    """Transfer-learning regime of a dataset: small or large, similar to ImageNet or different from it."""

    large: bool
    different: bool
    description: str = Field(description="the regime with its evidence, as text")


class StrategyAttempt(_Record):
    """One strategy that was tried: its validation score, its training time, and whether it was kept."""

    strategy: Literal["previous", "probe", "svm", "stages", "finetune-last", "finetune", "scratch"]
    validation: Estimate = Field(description="accuracy, or mean average precision for multi-label data")
    seconds: float
    kept: bool
    verdict: str = Field(description="why it was kept or not, as text")

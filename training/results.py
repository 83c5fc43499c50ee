"""Result records of a run: written by evaluation and strategy selection, read by the report.

Records and their text form only; nothing is computed here.
"""

from collections.abc import Sequence
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


def format_error(max_error: float) -> str:
    """A wanted error, such as `5%` or `0.5%`."""
    return f"{100 * max_error:g}%"


def describe_sample(n: int, n_groups: int | None, noun: str = "images") -> str:
    """How many images were measured: `495 test images in 212 groups`.

    Args:
        n_groups: the number of groups; None, or `n`, if every image is its own.
    """
    return f"{n:,} {noun}{describe_groups(n, n_groups)}"


def describe_groups(n: int, n_groups: int | None) -> str:
    """The end of `describe_sample`, such as ` in 212 groups`; "" if every image is its own."""
    return "" if n_groups is None or n_groups == n else f" in {n_groups:,} group{'s' * (n_groups != 1)}"


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
        description="chosen on held-out images. Multiclass: the lowest probability at which the target precision was reached,"
        " None if never. Multi-label: the lowest probability at which the label is predicted",
    )
    precision_above: Estimate | None = Field(
        None, description="precision on test of predictions with at least this probability"
    )
    coverage: Estimate | None = Field(None, description="test images of this label whose prediction set contains it")
    covered_by_label: bool | None = Field(
        None, description="whether this coverage is guaranteed for the label, or only on average with other labels"
    )


def least_covered(by_label: Sequence[LabelScores]) -> tuple[str, Estimate] | None:
    """The label whose images the prediction sets cover least, with that coverage; None without prediction sets."""
    measured = [(scores.label, scores.coverage) for scores in by_label if scores.coverage]
    return min(measured, key=lambda pair: (pair[1].value, pair[0]), default=None)


class CalibrationBin(_Record):
    """One bin of a reliability diagram: mean confidence and observed accuracy."""

    confidence: float = Field(description="mean probability of the top label in this bin")
    accuracy: float = Field(description="fraction of predictions in this bin that are correct")
    n: int


class ConformalPrediction(_Record):
    """Conformal prediction sets, which contain the true label with a guaranteed probability."""

    promised: float = Field(gt=0, lt=1, description="the target coverage")
    coverage: Estimate = Field(description="measured on test")
    mean_size: float
    sizes: dict[int, int] = Field(description="number of test images by set size")


class RiskPoint(_Record):
    """One point of a risk-coverage curve."""

    answered: float = Field(description="share of the test images that are answered: the surest ones, outliers last")
    error: Estimate = Field(description="share of wrong predictions among them")


class SelectivePrediction(_Record):
    """What abstaining brings, measured on test (El-Yaniv & Wiener 2010)."""

    max_error: float | None = Field(description="the wanted error of answered images; None: only outliers abstain")
    answered: Estimate = Field(description="share of images that are answered")
    error: Estimate | None = Field(description="share of wrong predictions among them; None if there are none")
    caught: Estimate | None = Field(description="share of all wrong predictions that abstain; None if no prediction is wrong")
    curve: tuple[RiskPoint, ...] = Field(description="the error by share of answered images, ascending")
    aurc: float = Field(description="area under the curve: the error, averaged over all shares of answered images")


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
        kept: the strategy of the model that was kept, if it is not the linear probe that the curve was measured with; else "".
    """

    n_images: tuple[int, ...]
    accuracy: tuple[Estimate, ...]
    gain_of_doubling: Estimate
    kept: str = ""

    def to_text(self) -> str:
        """The predicted gain of twice as many images, and for which model if another one was kept."""
        gain = self.gain_of_doubling
        text = f"estimated gain from twice as many images: {format_points(gain.value, gain.low, gain.high)}"
        if not self.kept:
            return text
        tuned = self.kept in ("finetune", "finetune-last", "scratch")
        kept = "the fine-tuned network" if tuned else f"the kept model ({self.kept})"
        return f"{text} for a linear probe; {kept} may gain more"


class SplitGap(_Record):
    """The scores on validation and test: do they differ by more than chance?

    Attributes:
        difference: validation minus test; its interval is a 99 % interval, unlike others.
    """

    validation: Estimate
    test: Estimate
    difference: Estimate

    @property
    def is_significant(self) -> bool:
        """Whether the two scores differ by more than chance."""
        return self.difference.low > 0 or self.difference.high < 0

    def to_text(self) -> str:
        """What a significant difference means, with both numbers, as a sentence; "" if it may be chance."""
        if not self.is_significant:
            return ""
        numbers = f"validation {self.validation.value:.1%}, test {self.test.value:.1%}"
        points = f"{100 * abs(self.difference.value):.1f} points"
        if self.difference.value > 0:
            return (
                f"test is {points} below validation ({numbers}), more than chance: the validation images resemble the training"
                " images more than the test images do. Trust the test number; probabilities and prediction sets were"
                " calibrated on images like those of validation, and that does not carry over to images like those of test"
            )
        return (
            f"test is {points} above validation ({numbers}), more than chance: the test images are easier than the validation"
            " images. New images may be harder than the test images, too"
        )


MIN_SUPPORT = 5  # test images of a label; that none of fewer is predicted is no surprise
MAX_NAMED_LABELS = 5  # in a warning


def never_predicted_warning(labels: Sequence[LabelScores]) -> str:
    """A warning about labels that have test images and are never predicted, as rare labels may be; "" if there are none."""
    missed = [label for label in labels if label.support >= MIN_SUPPORT and label.precision is None]
    if not missed:
        return ""
    names = ", ".join(label.label for label in missed[:MAX_NAMED_LABELS])
    more = ", …" if len(missed) > MAX_NAMED_LABELS else ""
    count = "1 label is" if len(missed) == 1 else f"{len(missed):,} labels are"
    return f"{count} never predicted: {names}{more} ({sum(label.support for label in missed):,} test images)"


def temperature_warning(before: Estimate, after: Estimate, log_loss_gain: Estimate) -> str:
    """That temperature scaling made the calibration worse, by more than chance, as a sentence; else "".

    Args:
        before, after: expected calibration error without and with temperature scaling, on test.
        log_loss_gain: log-loss before minus after, paired. The temperature changes no prediction, so it is all calibration.
    """
    if log_loss_gain.high >= 0 or after.value <= before.value:
        return ""
    return f"temperature scaling made calibration worse on test: {before.value:.1%} before, {after.value:.1%} after"


class Evaluation(_Record):
    """Evaluation of a trained model on held-out test images.

    Attributes:
        n: test images.
        n_groups: groups of test images: near-duplicates and images that were declared to belong together count once in every
            interval. As many as images if there are none; None in the files of earlier versions.
        metrics: by name. Multiclass: accuracy, top5 (with more than 5 labels), balanced_accuracy, macro_f1, log_loss, brier.
            Multi-label: map, micro_f1, macro_f1, exact_match, and log_loss and brier as means over labels. Both: ece_before
            and ece_after (expected calibration error before and after temperature scaling).
        confusion: confusion matrix, `confusion[true][predicted]` in test images; None for multi-label data.
    """

    n: int
    n_groups: int | None = None
    multilabel: bool
    temperature: float
    metrics: dict[str, Estimate]
    labels: tuple[LabelScores, ...]
    confusion: tuple[tuple[int, ...], ...] | None
    reliability_before: tuple[CalibrationBin, ...]
    reliability_after: tuple[CalibrationBin, ...]
    conformal: ConformalPrediction | None
    outliers: OutlierDetection | None
    selective: SelectivePrediction | None = None
    curve: LearningCurve | None = None
    ten_crop: Estimate | None = Field(None, description="accuracy gain of ten-crop over single-crop inference")
    temperature_gain: Estimate | None = Field(
        None, description="log-loss without temperature scaling minus log-loss with it, in nats, paired"
    )
    label_frequencies: str = Field(
        "",
        description="which label frequencies the probabilities assume, as a sentence, if not those of the training images. Then"
        " log_loss, brier, ece_before, ece_after and the reliability are measured after adjustment to the training images",
    )
    split_gap: SplitGap | None = Field(None, description="whether test differs from validation; None without validation")
    gain_over_probe: Estimate | None = Field(None, description="accuracy gain of fine-tuning over the linear probe, paired")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What must be read before the numbers, as sentences, most important first."""
        gap = self.split_gap.to_text() if self.split_gap else ""
        temperature = (
            temperature_warning(self.metrics["ece_before"], self.metrics["ece_after"], self.temperature_gain)
            if self.temperature_gain
            else ""
        )
        return tuple(filter(None, [gap, temperature, never_predicted_warning(self.labels)]))

    @property
    def calibration_note(self) -> str:
        """That the metrics of calibration are not those of the served probabilities, as sentences; "" if they are."""
        if not self.label_frequencies:
            return ""
        return f"{self.label_frequencies} Log-loss, Brier score and ECE are those for the frequencies of the training images."

    @property
    def has_groups(self) -> bool:
        """Whether some of the images belong together."""
        return self.n_groups is not None and self.n_groups < self.n

    def describe_sample(self, noun: str = "images") -> str:
        """How many images it was measured on, and in how many groups: `495 test images in 212 groups`."""
        return describe_sample(self.n, self.n_groups, noun)

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

    strategy: Literal["previous", "probe", "svm", "stages", "kernel", "finetune-last", "finetune", "scratch"]
    validation: Estimate = Field(description="accuracy, or mean average precision for multi-label data")
    seconds: float
    kept: bool
    verdict: str = Field(description="why it was kept or not, as text")

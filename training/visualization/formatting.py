"""Labels, descriptions and sentences for the report's numbers. No HTML."""

from collections.abc import Mapping

from graft.service.manifest import Manifest
from graft.training import results
from graft.training.evaluation.metrics import METRICS
from graft.training.results import (
    ConformalPrediction,
    Estimate,
    Evaluation,
    LabelScores,
    LearningCurve,
    OutlierDetection,
    SelectivePrediction,
    StrategyAttempt,
)
from graft.training.visualization.charts import percent

STRATEGY_DESCRIPTIONS: Mapping[str, str] = {
    "auto": "automatic strategy selection within a time budget",
    "probe": "linear probe on the last features of the pretrained backbone",
    "svm": "linear SVM on the last features",
    "stages": "linear probe on the features of several stages",
    "kernel": "linear probe, and a kernel machine on all features",
    "previous": "the earlier model, unchanged",
    "finetune-last": "fine-tuning of the last stages, initialized with the probe",
    "finetune": "fine-tuning of the whole network, initialized with the probe",
    "scratch": "training of the whole network from scratch",
}

# name: (title, description)
CORRUPTIONS: Mapping[str, tuple[str, str]] = {
    "translation": (
        "Translation",
        "Each image is shifted in a random direction.",
    ),
    "rotation": (
        "Rotation",
        "Rotated around the center, in either direction.",
    ),
    "scale": ("Scale", "Scaled down with reflection padding, or scaled up and cropped."),
    "flip": ("Flip", "Flipped horizontally and vertically."),
    "brightness": ("Brightness", "Pixel values multiplied by a factor and clipped."),
    "blur": ("Blur", "Gaussian blur; sigma in pixels of the network input."),
    "noise": ("Noise", "Gaussian noise on every pixel value, as in low light."),
    "jpeg": ("JPEG", "JPEG compression with decreasing quality."),
    "occlusion": ("Occlusion", "A square in the mean color of the image, at a random position."),
    "fgsm": (
        "FGSM",
        "Fast gradient sign method: a one-step attack that knows the network. No pixel value changes by more than epsilon.",
    ),
    "pgd": ("PGD", "Projected gradient descent: an attack of five steps from a random start within epsilon."),
}


TAIL_LENGTH = 14  # characters at the end of a path that are always shown
INTERVALS = (
    "Intervals are 95% confidence intervals: Wilson's for proportions, the percentiles of a bootstrap over the images for"
    " everything else."
)
GROUPS = (
    "Images of one group, such as near-duplicates or images with the same --group-by value, are not independent: intervals"
    " count groups."
)


def split_path(path: str) -> tuple[str, str]:
    """A path in two parts: a page shortens the first where space is short, and always shows the second."""
    return path[:-TAIL_LENGTH], path[-TAIL_LENGTH:]


def format_metric(name: str, value: float) -> str:
    """A metric value, as a percentage or as a number."""
    metric = METRICS.get(name)
    return percent(value) if metric and metric.is_proportion else f"{value:.3f}"


def format_interval(estimate: Estimate) -> str:
    """`81.8% to 88.0%`."""
    return f"{percent(estimate.low)} to {percent(estimate.high)}"


def format_difference(gain: Estimate) -> str:
    """A difference of two proportions with its confidence interval: `+1.2 points (+0.3 to +2.0)`."""
    return results.format_points(gain.value, gain.low, gain.high)


def primary_metric_text(evaluation: Evaluation) -> tuple[str, Estimate, str]:
    """The primary metric of a run: its name, its value, and a sentence about its confidence interval."""
    name, title = ("map", "mean average precision") if evaluation.multilabel else ("accuracy", "test accuracy")
    estimate = evaluation.metrics[name]
    low, high = format_metric(name, estimate.low), format_metric(name, estimate.high)
    confidence = f"95% confidence interval {low} to {high}, on {evaluation.describe_sample('held-out test images')}"
    if not evaluation.multilabel:
        balanced = evaluation.metrics["balanced_accuracy"].value
        confidence += f"; balanced accuracy {format_metric('balanced_accuracy', balanced)}"
    return title, estimate, confidence


def data_scaling_text(curve: LearningCurve) -> str:
    """The expected gain from doubling the training set, and a recommendation."""
    gain = curve.gain_of_doubling
    if gain.low > 0.005:
        advice = "Collecting more images is likely to help."
    elif gain.high < 0.005:
        advice = "More images of the same kind are unlikely to help."
    else:
        advice = "The data does not show whether more images would help."
    sentence = curve.to_text()
    return f"{sentence[0].upper()}{sentence[1:]}. {advice}"


def calibration_text(evaluation: Evaluation) -> str:
    """The effect of temperature scaling; a calibration that got worse is called that."""
    method = f"Temperature {evaluation.temperature:.2f}, fitted on other held-out images."
    before, after = evaluation.metrics.get("ece_before"), evaluation.metrics.get("ece_after")
    if before is None or after is None:
        return method
    numbers = (
        f"the expected calibration error (ECE) on the test set is {percent(after.value)} ({format_interval(after)}) with it,"
        f" {percent(before.value)} ({format_interval(before)}) without"
    )
    if percent(after.value) == percent(before.value):
        return f"Temperature scaling leaves the calibration as it was: {numbers}. {method}"
    better, gain = after.value < before.value, evaluation.temperature_gain
    verdict = "improves the calibration" if better else "makes the calibration worse"
    # By the log-loss, which is paired: the intervals of two calibration errors on the same images say little.
    certain = gain is not None and (gain.low > 0 if better else gain.high < 0)
    doubt = "" if certain else " The difference may be chance: so says a paired comparison of the log-loss."
    return f"Temperature scaling {verdict}: {numbers}.{doubt} {method}"


def conformal_text(sets: ConformalPrediction, by_label: tuple[LabelScores, ...]) -> str:
    """The target and measured coverage of the prediction sets, on average and for the label that is covered least."""
    measured_coverage = f"{percent(sets.coverage.value)} ({format_interval(sets.coverage)})"
    return (
        f"Conformal prediction sets contain the true label with a target probability of {percent(sets.promised)}."
        f" Coverage on the test set: {measured_coverage}, with {sets.mean_size:.2f} labels per set on average."
        f"{_worst_label(by_label)}"
    )


def _worst_label(by_label: tuple[LabelScores, ...]) -> str:
    """The label that is covered least, and the labels whose coverage is an average."""
    least = results.least_covered(by_label)
    if least is None:
        return ""
    label, coverage = least
    text = f" The label that is covered least, “{label}”: {percent(coverage.value)} ({format_interval(coverage)})."
    n_shared = sum(scores.covered_by_label is False for scores in by_label)
    if not n_shared:
        return f"{text} The target holds for each label by itself."
    which = "all labels" if n_shared == len(by_label) else f"{n_shared:,} labels with few images"
    return f"{text} For {which} the target holds on average over these labels only."


def selective_text(selective: SelectivePrediction) -> str:
    """When the model abstains, and what that brings on the test set."""
    wanted = "only for outliers"
    if selective.max_error is not None:
        limit = results.format_error(selective.max_error)
        wanted = f"for outliers, and where it is too unsure: at most {limit} of the answers should be wrong"
    answered = f"it answers {percent(selective.answered.value)} ({format_interval(selective.answered)})"
    if selective.error is None:
        return f"The model abstains {wanted}. On the test set, it abstains for every image."
    wrong = f"{percent(selective.error.value)} ({format_interval(selective.error)}) of these answers are wrong"
    caught = selective.caught
    share = f", and {percent(caught.value)} ({format_interval(caught)}) of all errors are among the rest" if caught else ""
    return f"The model abstains {wanted}. On the test set, {answered}; {wrong}{share}."


def outlier_text(outliers: OutlierDetection) -> str:
    """The outlier threshold, and the share of test images above it."""
    return (
        f"An image is an outlier if its cosine distance to the {_ordinal(outliers.k)} nearest training image exceeds"
        f" {outliers.threshold:.3f}: {percent(outliers.flagged.value)} of the test images"
        f" ({format_interval(outliers.flagged)})."
    )


def selection_text(attempts: tuple[StrategyAttempt, ...]) -> str:
    """How many strategies were tried, and which was selected."""
    selected = next((attempt for attempt in reversed(attempts) if attempt.kept), None)
    tried = f"{len(attempts)} strategies were tried" if len(attempts) > 1 else "One strategy was tried"
    return f"{tried}. Selected: {STRATEGY_DESCRIPTIONS[selected.strategy]}." if selected else f"{tried}."


def int8_text(manifest: Manifest) -> str:
    """How the int8 model of a package compares with the f32 model, and when it is served; "" if there is none."""
    if manifest.int8 is None:
        return ""
    fidelity = manifest.int8.fidelity
    use = "It is served where it is faster" if manifest.is_equivalent("int8") else "It is served only with GRAFT_PRECISION=int8"
    return (
        f"The int8 model gives the label of the f32 model for {fidelity.agreement:.1%} of {fidelity.n_images:,} images that"
        f" neither has learned from; its accuracy there differs by {100 * fidelity.accuracy_change:+.1f} points, its log-loss"
        f" by {fidelity.log_loss_change:+.3f}. {use}."
    )


def _ordinal(number: int) -> str:
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"

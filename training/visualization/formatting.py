"""Numbers -> the words that the report says them in."""

from collections.abc import Mapping

from graft.training import results
from graft.training.results import Conformal, Estimate, Evaluation, LearningCurve, Outliers, Rung
from graft.training.visualization.charts import percent

# name: (title, what it means, whether it is a share)
METRICS: Mapping[str, tuple[str, str, bool]] = {
    "accuracy": ("Right answers", "share of images whose most probable label is the right one (top-1)", True),
    "top5": ("Right among five", "share of images whose right label is among the five most probable (top-5)", True),
    "balanced_accuracy": (
        "Balanced accuracy",
        "mean recall of the labels: rare ones count as much as common ones",
        True,
    ),
    "map": ("Mean average precision", "mean over the labels of how well each one ranks its images", True),
    "micro_f1": ("F1 over all labels", "precision and recall in one number, every answer counting the same", True),
    "macro_f1": ("Mean F1 of the labels", "precision and recall in one number, every label counting the same", True),
    "exact_match": ("Exactly right", "share of images with every label right and none too many", True),
    "log_loss": ("Log-loss", "what wrong and hesitant answers cost, in nats; lower is better", False),
    "brier": ("Brier score", "mean squared error of the probabilities; lower is better", False),
    "ece_before": (
        "Calibration error, before",
        "how far claims are from what comes true (ECE); lower is better",
        True,
    ),
    "ece_after": ("Calibration error, after", "the same after temperature scaling: what the package answers with", True),
}
STRATEGIES: Mapping[str, str] = {
    "auto": "climbing while validation and the time left say that it pays",
    "probe": "a linear head on the pretrained network's last features",
    "svm": "a linear support vector machine on the last features",
    "stages": "a linear head on the features of several stages",
    "last": "fine-tuning of the last stages, starting from the probe",
    "finetune": "fine-tuning of the whole network, starting from the probe",
    "scratch": "training of the whole network from the start",
}

# name: (title, what it means)
DISTURBANCES: Mapping[str, tuple[str, str]] = {
    "translation": (
        "Translation",
        "Moved, each image in a direction of its own. Convolution moves its answer along, and pooling forgets where it was:"
        " this is what they promise not to mind.",
    ),
    "rotation": (
        "Rotation",
        "Turned about the centre, some to the left and some to the right. Convolution promises nothing here.",
    ),
    "scale": ("Scale", "Shown smaller, with what lies beyond the edge mirrored in, or larger, with less of it to see."),
    "flip": ("Mirroring", "Left to right and upside down."),
    "brightness": ("Brightness", "Every value multiplied; what exceeds white stays white."),
    "blur": ("Blur", "Out of focus: a Gaussian blur, in pixels of what the network sees."),
    "noise": ("Noise", "As in poor light: Gaussian noise on every value of every pixel."),
    "jpeg": ("JPEG", "Saved as a JPEG file, worse and worse."),
    "occlusion": ("Occlusion", "A square in the image's mean colour lies somewhere on it."),
    "fgsm": (
        "FGSM",
        "An attack in one step against the right answer: every value moves by so much at most, in the direction that raises"
        " the loss (Goodfellow et al. 2015). The attacker knows the network.",
    ),
    "pgd": ("PGD", "An attack in five smaller steps from a random start, never further away than that (Madry et al. 2018)."),
}


def measured(name: str, value: float) -> str:
    """One metric's value, as a share or as a number."""
    share = METRICS.get(name, ("", "", False))[2]
    return percent(value) if share else f"{value:.3f}"


def between(estimate: Estimate) -> str:
    """`81.8% to 88.0%`."""
    return f"{percent(estimate.low)} to {percent(estimate.high)}"


def points(gain: Estimate) -> str:
    """A difference of two shares with its interval: `+1.2 points (+0.3 to +2.0)`."""
    return results.points(gain.value, gain.low, gain.high)


def headline(evaluation: Evaluation) -> tuple[str, Estimate, str]:
    """The one number of a run: its name in a sentence, itself, and how sure it is."""
    name, what = (
        ("map", "mean average precision") if evaluation.multilabel else ("accuracy", "of the test images answered right")
    )
    estimate = evaluation.metrics[name]
    low, high = measured(name, estimate.low), measured(name, estimate.high)
    sure = f"between {low} and {high} with 95% confidence, on {evaluation.n:,} images that nothing was chosen by"
    return what, estimate, sure


def doubling(curve: LearningCurve) -> str:
    """What more images would bring, and whether that is known."""
    gain = curve.gain_of_doubling
    if gain.low > 0.005:
        advice = "Collecting more images is likely to pay."
    elif gain.high < 0.005:
        advice = "More images of the same kind would hardly help."
    else:
        advice = "Whether more images would help cannot be told from these."
    return f"Twice the images would bring about {points(gain)}. {advice}"


def calibration(evaluation: Evaluation) -> str:
    """What temperature scaling did, in words."""
    how = f"The logits are divided by {evaluation.temperature:.2f}, chosen on validation."
    before, after = evaluation.metrics.get("ece_before"), evaluation.metrics.get("ece_after")
    if before is None or after is None:
        return how
    way = "overconfident" if evaluation.temperature > 1 else "too hesitant"
    start = f"Uncalibrated, it was {way}; " if abs(evaluation.temperature - 1) > 0.1 else ""
    off = f"claims were off by {percent(before.value)} on average, now by {percent(after.value)} ({between(after)})"
    return f"{start}{off}. {how}" if start else f"{off[0].upper()}{off[1:]}. {how}"


def conformal(sets: Conformal) -> str:
    """What the prediction sets promise, and what they kept."""
    kept = f"{percent(sets.coverage.value)} ({between(sets.coverage)})"
    return (
        f"Beside one label, the model can answer with a set that holds the right one with a promised"
        f" {percent(sets.promised)} probability. On the test images it did so for {kept}, with"
        f" {sets.mean_size:.2f} labels a set on average."
    )


def outliers(measure: Outliers) -> str:
    """When an image counts as unlike those learned from, and how many test images do."""
    return (
        f"An image further than {measure.threshold:.3f} (cosine distance) from its {_th(measure.k)} nearest training image"
        f" counts as an outlier: {percent(measure.flagged.value)} of the test images do ({between(measure.flagged)})."
    )


def ladder(rungs: tuple[Rung, ...]) -> str:
    """The ladder's story in a sentence."""
    kept = next((rung for rung in reversed(rungs) if rung.kept), None)
    tried = f"{len(rungs)} ways of learning were tried" if len(rungs) > 1 else "One way of learning was tried"
    return f"{tried}; {STRATEGIES[kept.strategy]} was kept." if kept else f"{tried}."


def _th(number: int) -> str:
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"

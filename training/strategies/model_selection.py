"""Statistics for model selection: the expected gain of a model, early exit, and the transfer-learning regime of a dataset.

Pure functions of numbers, most of which also return an explanation as text. No training, no files.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graft.service.manifest import MetricName
from graft.training.data.cross_validation import Targets
from graft.training.evaluation.clusters import Clusters
from graft.training.evaluation.confidence_intervals import wilson
from graft.training.evaluation.paired import paired_difference, paired_losses, standard_error
from graft.training.results import TransferRegime, format_points

LAST_STAGE = "last"  # the pooled features that the pretrained classifier takes
# What is expected of a candidate before it is measured: a loss 5 % higher than the baseline's, give or take 30 %. In the
# simulations of benchmarks/selection_rule.py this loses less against the best choice than the lowest measured log-loss, above
# all with few images and many candidates, and half as much as to ask for a significant gain.
PRIOR_GAIN, PRIOR_DEVIATION = -0.05, 0.3
MIN_PROBABILITY = 0.5  # that the candidate's loss is lower: its expected loss is
MIN_PROBABILITY_TO_REPLACE = 0.95  # of a model that is in use, which a change costs something
MIN_LOSS = 1e-3  # nats, or share of errors; below that a loss has nothing left to gain
MIN_GAIN = 0.01  # of accuracy: a smaller gain is not worth the training of a more expensive strategy
LARGE_IMAGES_PER_LABEL = 500  # images per label; with more, fine-tuning the full network rarely overfits
MIN_SCRATCH_IMAGES_PER_LABEL = 5_000  # images per label, as in CIFAR-10; with fewer, pretrained weights were always better


# The loss is one minus these metrics, which are higher for a better model.
SCORES = {"accuracy": "accuracy", "balanced-accuracy": "balanced accuracy", "f1-macro": "macro F1"}


class Difference(NamedTuple):
    """Improvement of the candidate over the baseline with its 95 % interval; positive is better for every metric."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Paired comparison of two models that cost the same to serve, on the same held-out images.

    The candidate's gain in the loss, as a fraction of the baseline's, has a normal prior. Its posterior mean is the measured
    gain shrunk toward the baseline, the more so the fewer images there are.

    Attributes:
        accuracy: difference in [-1, 1] with its 95 % interval; of mean average precision for multi-label data.
        losses: of the candidate and of the baseline: log-loss in nats per image, or one minus another metric.
        standard_error: of their difference.
        n_images: number of images.
        accuracy_name: name of the metric in `accuracy`, for display.
        min_probability: asked of the candidate.
        metric: of the losses.
    """

    accuracy: Difference
    losses: tuple[float, float]
    standard_error: float
    n_images: int
    accuracy_name: str = "accuracy"
    min_probability: float = MIN_PROBABILITY
    metric: MetricName = "log-loss"

    @property
    def _posterior(self) -> tuple[float, float]:
        """Mean and standard deviation of the candidate's gain, as a fraction of the baseline's loss."""
        candidate, baseline = self.losses
        scale = max(baseline, MIN_LOSS)
        # Plus the variance of one image: a few that all agree say little.
        measured, variance = (baseline - candidate) / scale, (self.standard_error / scale) ** 2 + 1 / self.n_images**2
        precision = 1 / variance + 1 / PRIOR_DEVIATION**2
        return (measured / variance + PRIOR_GAIN / PRIOR_DEVIATION**2) / precision, precision**-0.5

    @property
    def is_better(self) -> bool:
        """Whether the candidate's loss on new images is lower than the baseline's, with the probability that is asked."""
        return self.probability > self.min_probability

    @property
    def probability(self) -> float:
        """The probability that the candidate's loss on new images is lower than the baseline's."""
        mean, deviation = self._posterior
        return 0.5 * math.erfc(-mean / deviation / math.sqrt(2))

    def to_text(self, candidate: str, baseline: str) -> str:
        """The verdict with its numbers, such as `kernel is kept rather than probe: log-loss 0.400 and …`."""
        kept, other = (candidate, baseline) if self.is_better else (baseline, candidate)
        losses = self.losses if self.is_better else self.losses[::-1]
        if score := SCORES.get(self.metric):
            numbers, better = f"{score} {1 - losses[0]:.1%} and {1 - losses[1]:.1%}", "higher"
        else:
            numbers, better = f"log-loss {losses[0]:.3f} and {losses[1]:.3f}", "lower"
        numbers += f" on {self.n_images:,} held-out images"
        points = format_points(*self.accuracy, metric=self.accuracy_name)
        certainty = f"{better} on new images with a probability of {format_certainty(self.probability)}"
        if not self.is_better and self.probability > MIN_PROBABILITY:
            certainty = f"that of {candidate} is {certainty}, and {self.min_probability:.0%} is asked of it"
        elif not self.is_better:
            certainty = f"{better} on new images with a probability of {format_certainty(1 - self.probability)}"
        return f"{kept} is kept rather than {other}: {numbers}, {certainty}; {candidate} has {points}"


def format_certainty(probability: float) -> str:
    """A probability in whole percent, never 100%."""
    return "over 99%" if probability > 0.99 else f"{probability:.0%}"


def compare(
    logits: NDArray[np.float32],
    temperature: float,
    baseline_logits: NDArray[np.float32],
    baseline_temperature: float,
    targets: Targets,
    clusters: Clusters | None = None,
    min_probability: float = MIN_PROBABILITY,
    metric: MetricName = "log-loss",
) -> Comparison:
    """Compares a candidate's logits (N, C) with a baseline's on the same images; targets int (N,) or bool (N, C).

    The comparison is paired by image, so that variance shared by both models cancels; clusters are int64 (N,).
    """
    paired = paired_losses(metric, logits, temperature, baseline_logits, baseline_temperature, targets)
    return Comparison(
        Difference(*paired_difference(logits, baseline_logits, targets, clusters=clusters)),
        (paired.loss, paired.baseline),
        standard_error(paired.gains, clusters),
        len(targets),
        "accuracy" if targets.ndim == 1 else "mean average precision",
        min_probability,
        metric,
    )


def early_exit_reason(n_errors: int, n_images: int, n_groups: int | None = None) -> str:
    """Why no other strategy is worth trying: even a perfect one would gain less than MIN_GAIN; "" if it may gain more.

    Judged by the upper limit of the error, not by its estimate: no error in a few images leaves much to gain.

    Args:
        n_groups: groups of images that do not count as independent; None if every image is its own.
    """
    _, highest = wilson(n_errors / n_images, n_groups or n_images)
    if highest >= MIN_GAIN:
        return ""
    errors = "no error" if n_errors == 0 else f"{n_errors} error{'s' * (n_errors > 1)}"
    return f"{errors} in {n_images:,} held-out images: the error is at most {highest:.2%}, so there is little left to gain"


def transfer_regime(n_images: int, n_labels: int, losses: dict[str, float]) -> TransferRegime:
    """Classifies the dataset as small or large, and as similar to ImageNet or different from it.

    These are the four cases of transfer learning (Yosinski et al. 2014). Similarity is measured, not guessed: the dataset
    is similar if a linear probe on the last stage has the lowest log-loss.

    Args:
        n_images: training images.
        losses: cross-validated log-loss of a linear probe by stage; must have `last`, may have `all`.
    """
    large = n_images >= LARGE_IMAGES_PER_LABEL * n_labels
    single_stage = {stage: loss for stage, loss in losses.items() if stage != "all"}
    best_stage = min(single_stage, key=lambda stage: single_stage[stage])
    # Concatenated stages have more features, so they win slightly even where the last stage is sufficient.
    all_win = losses.get("all", math.inf) < 0.8 * losses[LAST_STAGE]
    different = best_stage != LAST_STAGE or all_win
    size = f"{'large' if large else 'small'} ({n_images:,} images, {n_images / n_labels:,.0f} per label)"
    if best_stage != LAST_STAGE:
        evidence = (
            f"log-loss of a probe on {best_stage} is {single_stage[best_stage]:.3f}, on the last stage {losses[LAST_STAGE]:.3f}"
        )
    elif all_win:
        evidence = f"log-loss of a probe on all stages is {losses['all']:.3f}, on the last stage {losses[LAST_STAGE]:.3f}"
    else:
        evidence = f"a probe on the last stage has the lowest log-loss, {losses[LAST_STAGE]:.3f}"
    similarity = "different from" if different else "similar to"
    sentence = f"the dataset is {size} and {similarity} ImageNet: {evidence}"
    return TransferRegime(large=large, different=different, description=sentence)


def max_epochs(seconds: float, n_images: int, n_validation: int, images_per_second: float, epochs_after: float = 0.0) -> int:
    """How many epochs fit in the time left; a training step costs about three times as much as inference.

    Args:
        seconds: left of the budget.
        n_images: training images.
        images_per_second: training speed measured on this machine.
        epochs_after: the time needed after the last epoch, in epochs.
    """
    return max(0, math.floor(seconds * images_per_second / (n_images + n_validation / 3) - epochs_after))

"""Statistics for model selection: significance of a difference, early exit, and the transfer-learning regime of a dataset.

Pure functions of numbers, most of which also return an explanation as text. No training, no files.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graft.training.data.cross_validation import Targets
from graft.training.evaluation.clusters import Clusters, n_clusters
from graft.training.evaluation.confidence_intervals import wilson
from graft.training.evaluation.paired import paired_difference, paired_log_loss
from graft.training.results import TransferRegime, format_points

LAST_STAGE = "last"  # the pooled features that the pretrained classifier takes
MIN_BOOTSTRAP_IMAGES = 10  # a bootstrap over fewer images says nothing: that of two is as wide as their difference
MIN_GAIN = 0.01  # of accuracy: a smaller gain is not worth the training of a more expensive strategy
LARGE_IMAGES_PER_LABEL = 500  # images per label; with more, fine-tuning the full network rarely overfits
MIN_SCRATCH_IMAGES_PER_LABEL = 5_000  # images per label, as in CIFAR-10; with fewer, pretrained weights were always better


class Difference(NamedTuple):
    """Improvement of the candidate over the baseline with its 95 % interval; positive is better for every metric."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Paired comparison of two models on the same validation images.

    Attributes:
        accuracy: difference in [-1, 1]; of mean average precision for multi-label data.
        log_loss: improvement in nats per image.
        metric: name of the metric in `accuracy`, for display.
    """

    accuracy: Difference
    log_loss: Difference
    metric: str = "accuracy"

    @property
    def significantly_better(self) -> bool:
        """Whether the candidate is significantly better.

        It is if its accuracy is significantly higher. It also is if its log-loss is significantly lower, which takes fewer
        images to show, and its accuracy is not lower.
        """
        return self.accuracy.low > 0 or (self.log_loss.low > 0 and self.accuracy.value >= 0)

    def to_text(self, candidate: str, baseline: str) -> str:
        """The verdict with its numbers, such as `finetune is significantly better than probe: +10.8 points of accuracy …`."""
        numbers = format_points(*self.accuracy, metric=self.metric)
        if self.accuracy.low > 0:
            return f"{candidate} is significantly better than {baseline}: {numbers}; kept"
        if self.significantly_better:
            gain = f"lower by {self.log_loss.value:.3f} ({self.log_loss.low:.3f} to {self.log_loss.high:.3f})"
            return f"{candidate} has a significantly lower log-loss than {baseline}: {gain}, {numbers}; kept"
        return f"{candidate} is not significantly better than {baseline}: {numbers}; the cheaper {baseline} is kept"


def compare(
    logits: NDArray[np.float32],
    temperature: float,
    baseline_logits: NDArray[np.float32],
    baseline_temperature: float,
    targets: Targets,
    clusters: Clusters | None = None,
) -> Comparison:
    """Compares a candidate's logits (N, C) with a baseline's on the same images; targets int (N,) or bool (N, C).

    Uses a paired bootstrap over the images (Efron & Tibshirani 1993), so that variance shared by both models cancels; over
    clusters, int64 (N,), if there are any.
    """
    log_loss = Difference(
        *paired_log_loss(logits, baseline_logits, targets, temperature, baseline_temperature, clusters=clusters)
    )
    n_independent = len(targets) if clusters is None else n_clusters(clusters)
    return Comparison(
        Difference(*paired_difference(logits, baseline_logits, targets, clusters=clusters)),
        log_loss if n_independent >= MIN_BOOTSTRAP_IMAGES else Difference(log_loss.value, -math.inf, math.inf),
        "accuracy" if targets.ndim == 1 else "mean average precision",
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
    return f"{errors} in {n_images:,} validation images: the error is at most {highest:.2%}, so there is little left to gain"


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


def max_epochs(seconds: float, n_images: int, n_validation: int, images_per_second: float) -> int:
    """How many epochs fit in the time left; a training step costs about three times as much as inference.

    Args:
        seconds: left of the budget.
        n_images: training images.
        images_per_second: training speed measured on this machine.
    """
    return max(0, math.floor(seconds * images_per_second / (n_images + n_validation / 3)))

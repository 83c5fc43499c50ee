"""The ladder's judgement, without its hands: what is really better, when climbing cannot pay, what kind of data this is.

Pure functions of numbers; every one of them also has words for a person.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graft.training.data.cross_validation import Targets
from graft.training.evaluation.metrics import paired_difference, paired_log_loss
from graft.training.results import Quadrant, points

LAST = "last"  # the stage that the pretrained classifier itself looked at
FEWEST_MISTAKES = 4  # with e mistakes mended and none made, a bootstrap misses them all with exp(-e): 1.8 % for 4
LARGE = 500  # images a label: from here on a network has more to learn from than to forget
ENOUGH_FOR_SCRATCH = 5_000  # images a label, as CIFAR-10 has; with fewer, pretrained weights have always won


class Difference(NamedTuple):
    """By how much the challenger is better, with a 95 % interval; positive is better, whatever the measure."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two networks' answers to the same validation images.

    Attributes:
        accuracy: difference in [-1, 1]; of mean average precision for several labels an image.
        log_loss: improvement, in nats an image.
        measure: what `accuracy` is, for a person.
    """

    accuracy: Difference
    log_loss: Difference
    measure: str = "accuracy"

    @property
    def better(self) -> bool:
        """Whether the challenger is really better.

        More right answers beyond chance are. So are better probabilities beyond chance, which need fewer images to show,
        as long as they do not cost right answers.
        """
        return self.accuracy.low > 0 or (self.log_loss.low > 0 and self.accuracy.value >= 0)

    def sentence(self, challenger: str, incumbent: str) -> str:
        """The verdict in words, with the numbers it rests on."""
        numbers = points(*self.accuracy, of=self.measure)
        if self.accuracy.low > 0:
            return f"{challenger} is really better than {incumbent}: {numbers}; kept"
        if self.better:
            gain = f"log-loss lower by {self.log_loss.value:.3f} ({self.log_loss.low:.3f} to {self.log_loss.high:.3f})"
            return f"{challenger} knows better how sure to be than {incumbent}: {gain}, {numbers}; kept"
        return f"{challenger} is not shown to be better than {incumbent}: {numbers}; {incumbent} is kept, it is cheaper"


def compare(
    logits: NDArray[np.float32],
    temperature: float,
    rival: NDArray[np.float32],
    rival_temperature: float,
    targets: Targets,
) -> Comparison:
    """A challenger against a rival on the same images: logits (N, C) each; targets int (N,), or bool (N, C).

    A paired bootstrap over the images (Efron & Tibshirani 1993), so what the two have in common cancels out.
    """
    return Comparison(
        Difference(*paired_difference(logits, rival, targets)),
        Difference(*paired_log_loss(logits, rival, targets, temperature, rival_temperature)),
        "accuracy" if targets.ndim == 1 else "mean average precision",
    )


def nothing_to_gain(n_mistakes: int, n_images: int) -> str:
    """Why no rung could be shown to be better, or "" if one could."""
    if n_mistakes >= FEWEST_MISTAKES:
        return ""
    mistakes = "no mistake" if n_mistakes == 0 else f"{n_mistakes} mistake{'s' * (n_mistakes > 1)}"
    return f"{mistakes} in {n_images:,} validation images: not even a flawless network could be shown to be better"


def quadrant(n_images: int, n_labels: int, costs: dict[str, float]) -> Quadrant:
    """Where the data lie between small and large, and between similar to ImageNet and different from it.

    The four cases of transfer learning (Yosinski et al. 2014; the lectures' table): what pretrained features are worth
    is measured by which stage's features a linear probe likes best, not guessed.

    Args:
        n_images: to learn from.
        costs: a probe's cross-validated log-loss by stage; `last` is among them, `all` may be.
    """
    large = n_images >= LARGE * n_labels
    alone = {stage: cost for stage, cost in costs.items() if stage != "all"}
    winner = min(alone, key=lambda stage: alone[stage])
    # Features of several stages together are wider, so they win by a little even where the last stage says it all.
    together = costs.get("all", math.inf) < 0.8 * costs[LAST]
    different = winner != LAST or together
    size = f"{'large' if large else 'small'} ({n_images:,} images, {n_images / n_labels:,.0f} a label)"
    if winner != LAST:
        evidence = f"a probe on {winner} beats one on the last stage, log-loss {alone[winner]:.3f} against {costs[LAST]:.3f}"
    elif together:
        evidence = f"all stages together beat the last one by far, log-loss {costs['all']:.3f} against {costs[LAST]:.3f}"
    else:
        evidence = f"the last stage's features are the best, log-loss {costs[LAST]:.3f}"
    likeness = "different from" if different else "similar to"
    sentence = f"the data are {size} and {likeness} ImageNet: {evidence}"
    return Quadrant(large=large, different=different, sentence=sentence)


def epochs_that_fit(seconds: float, n_images: int, n_validation: int, images_per_second: float) -> int:
    """How many epochs fit into a time: learning takes about three times as long as looking.

    Args:
        seconds: left of the budget.
        images_per_second: learned from, as measured on this machine.
    """
    return max(0, math.floor(seconds * images_per_second / (n_images + n_validation / 3)))

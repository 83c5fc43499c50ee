"""Whether the test score differs from the validation score by more than chance. Numpy only.

Two splits at random differ by chance alone. A test part that was made in another way, such as a later day or another camera,
may be harder: then only the test score tells what to expect.
"""

import math

from graft.training.evaluation.clusters import Z
from graft.training.evaluation.metrics import primary_metric
from graft.training.evaluation.predictions import Predictions
from graft.training.results import Estimate, SplitGap

Z_99 = 2.575829  # two-sided 99 %: one run in a hundred is warned by chance


def split_gap(validation: Predictions, test: Predictions) -> SplitGap:
    """The scores on both splits, and the validation score minus the test score with its 99 % interval.

    The interval is that of two independent estimates whose own intervals may be asymmetrical (the square-and-add method of
    Newcombe 1998, method 10). These count groups of images, so the comparison does, too.

    Raises:
        ValueError: if a split has no images.
    """
    if not len(validation.targets) or not len(test.targets):
        raise ValueError("A score cannot be compared with that of no images.")
    before, after = primary_metric(validation), primary_metric(test)
    value, scale = before.value - after.value, Z_99 / Z
    below = scale * math.hypot(before.value - before.low, after.high - after.value)
    above = scale * math.hypot(before.high - before.value, after.value - after.low)
    difference = Estimate(value=value, low=max(-1.0, value - below), high=min(1.0, value + above))
    return SplitGap(validation=before, test=after, difference=difference)

"""The number of epochs of a run, revised after every epoch to what still fits into its time. No torch.

Training speed cannot be foreseen: other processes come and go. The learning rate therefore follows the progress of the run and
not the number of steps: each epoch covers the same share of the progress that is left. So it ends annealed, unless an epoch
takes so long that not even half of another one fits.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

LAST_EPOCH_SHARE = 0.5  # of an epoch that must fit, so that one more is trained and the run ends annealed

Decide = Callable[[int, Callable[[], int]], int]


def _compute(_: int, make: Callable[[], int]) -> int:
    return make()


@dataclass
class EpochPlan:
    """How many epochs to train, as planned at the start and after each epoch.

    Attributes:
        epochs: planned at the start.
        max_epochs: to plan at most, if training is faster than expected; not used without a deadline.
        deadline: end of the training, as `time.monotonic()`; infinite to keep the plan.
        decide: takes the number of trained epochs and a function that computes the plan; returns the plan. A resumed run
            returns what it recorded before.
        epochs_after: the time needed from the last epoch to the deadline, in epochs.
        totals: epochs planned after 0, 1, … epochs.
    """

    epochs: int
    max_epochs: int = 0
    deadline: float = math.inf
    decide: Decide = _compute
    epochs_after: float = 0.0
    totals: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.totals = [self.epochs]

    def revise(self, trained: int, seconds: float) -> int:
        """The number of epochs after `trained` of them, of which the last took `seconds`."""
        if self.deadline < math.inf:
            self.totals.append(self.decide(trained, lambda: self._total(trained, seconds)))
        else:
            self.totals.append(self.totals[-1])
        return self.totals[-1]

    def restore(self, trained: int) -> int:
        """The number of epochs that was planned after `trained` epochs of an earlier process."""
        while len(self.totals) <= trained:
            self.revise(len(self.totals), 0.0)
        del self.totals[trained + 1 :]
        return self.totals[-1]

    def progress(self, epochs: float) -> float:
        """The progress in [0, 1] after a number of epochs, such as 2.5."""
        done = 0.0
        for epoch in range(math.ceil(epochs)):
            left = self.totals[min(epoch, len(self.totals) - 1)] - epoch
            done += (1 - done) * min(1.0, epochs - epoch) / max(1, left)
        return min(1.0, done)

    def _total(self, trained: int, seconds: float) -> int:
        planned = self.totals[-1]
        if planned <= trained:
            return trained
        if not seconds:  # nothing was measured
            return planned
        n_fit = (self.deadline - time.monotonic()) / seconds - self.epochs_after
        n_more = math.floor(n_fit + 1 - LAST_EPOCH_SHARE) if n_fit < 1 else math.floor(n_fit)
        return min(max(self.epochs, self.max_epochs), trained + max(0, n_more))

"""The labels of a data set, most probably wrong first, and what a cut through this list catches. Records only, no model."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from graft.training.data.findings import LabelIssue

MAX_CUTS = 3  # in the sentence
FIRST_CUT, CUT_FACTOR = 20, 3  # images: each cut of the sentence is three times as long as the one before
ENOUGH_RECALL = 0.95  # a longer list than one with this share of the errors is not worth reading


@dataclass(frozen=True)
class LabelCut:
    """What the first n images of the ranking are expected to hold.

    Attributes:
        precision: share of wrong labels among them, in [0, 1].
        recall: share of all wrong labels that are among them, in [0, 1].
    """

    n: int
    precision: float
    recall: float


@dataclass(frozen=True)
class LabelRanking:
    """Every image whose label was checked.

    Attributes:
        issues: most probably wrong first; those of the default cut before all others.
        n_default: how many images the default cut reports: those that are almost certainly wrong.
    """

    issues: tuple[LabelIssue, ...] = ()
    n_default: int = 0

    @property
    def n_expected(self) -> float:
        """The expected number of wrong labels."""
        return math.fsum(issue.error_probability for issue in self.issues)

    def top(self, n: int | None = None) -> list[LabelIssue]:
        """The first n images; None for the default cut."""
        return list(self.issues[: self.n_default if n is None else n])

    def cuts(self, sizes: Sequence[int]) -> Iterator[LabelCut]:
        """What lists of these sizes, > 0, are expected to hold."""
        sums = list(accumulate(issue.error_probability for issue in self.issues))
        for size in sizes:
            if 0 < size <= len(sums):
                yield LabelCut(size, sums[size - 1] / size, sums[size - 1] / sums[-1] if sums[-1] > 0 else 0.0)

    def shown_cuts(self) -> list[LabelCut]:
        """At most MAX_CUTS cuts that a person would choose between."""
        shown: list[LabelCut] = []
        for cut in self.cuts([FIRST_CUT * CUT_FACTOR**power for power in range(MAX_CUTS)]):
            if shown and shown[-1].recall >= ENOUGH_RECALL:
                break
            shown.append(cut)
        return shown

    def to_text(self) -> str:
        """How many labels are wrong, and what a longer list would catch, as a sentence; "" if none was checked or is wrong."""
        if self.n_expected < 0.5:
            return ""
        count = f"{self.n_expected:,.0f} of {len(self.issues):,} labels are wrong ({self.n_expected / len(self.issues):.1%})"
        count += ", or more if similar labels were confused"
        cuts = [f"of the first {cut.n:,}, {cut.precision:.0%} are: {cut.recall:.0%} of all" for cut in self.shown_cuts()]
        return "; ".join([f"estimated: about {count}", *cuts])

    def to_dict(self) -> dict[str, object]:
        """For `--json`: every image, with the probability that its label is wrong."""
        return {
            "expected": round(self.n_expected, 2),
            "checked": len(self.issues),
            "default": self.n_default,
            "cuts": [
                {"n": cut.n, "precision": round(cut.precision, 4), "recall": round(cut.recall, 4)} for cut in self.shown_cuts()
            ],
            "images": [
                {
                    "path": issue.path,
                    "label": issue.given_label,
                    "suggested": issue.predicted_label,
                    "error_probability": round(issue.error_probability, 6),
                }
                for issue in self.issues
            ],
        }

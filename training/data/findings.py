"""What can be wrong with a data set, as a record: written by whoever finds it, read by the command line and the report."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Suspect:
    """An image whose label is probably wrong.

    Attributes:
        given, suggested: names of labels; several are joined by commas.
        probability: of the suggested label, by a model that did not learn from this image.
    """

    path: str
    given: str
    suggested: str
    probability: float


Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that a person should know about the data.

    Attributes:
        kind: a stable slug, such as "leak" or "near-duplicate".
        severity: an error stops a fit; a warning should be looked at; a note is for the record.
        text: one line: what was found, where, and what to do about it.
        paths: the files concerned, below the data set's root.
        drop: the files that would have to be left out for an error to be mended; empty if leaving out does not mend it.
        flag: the flag that leaves them out: "--skip-bad", "--drop-duplicates", or "" if there is none.
    """

    kind: str
    severity: Severity
    text: str
    paths: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    flag: str = ""

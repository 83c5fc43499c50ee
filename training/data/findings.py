"""Records of data issues: created by the checks, shown by the command line and the report. Records only, no checks."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class LabelIssue:
    """An image with a possibly wrong label.

    Attributes:
        given_label, predicted_label: label names, joined by commas if there are several.
        probability: out-of-sample probability of the predicted label: the model was not trained on this image.
        error_probability: that the given label is wrong.
    """

    path: str
    given_label: str
    predicted_label: str
    probability: float
    error_probability: float = 1.0


Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One issue in the data.

    Attributes:
        kind: a stable identifier, such as "leak" or "near-duplicate".
        severity: an error stops training; a warning should be checked; a note is informational.
        text: one line: what was found, where, and how to fix it.
        paths: the affected files, relative to the data set's root.
        drop: the files to exclude to fix the error; empty if excluding files does not fix it.
        flag: the command-line flag that excludes them: "--skip-bad", "--drop-duplicates", or "" if there is none.
    """

    kind: str
    severity: Severity
    text: str
    paths: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    flag: str = ""

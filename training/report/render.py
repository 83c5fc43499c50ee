"""What a run has to tell -> one offline HTML file that a person enjoys. Numbers come in; nothing is computed but layout.

Everything is escaped by Jinja2 (labels and file names are a stranger's text), nothing is asked of another origin, and
the page's own content security policy allows just its own style and script, by their digests.
"""

import base64
import csv
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from graft.training.data.findings import Finding, Suspect
from graft.training.evaluation.comparison import Table
from graft.training.interpret.collect import Seen
from graft.training.report import tables
from graft.training.report.tables import Epoch
from graft.training.results import Evaluation, Quadrant, Rung
from graft.training.robustness.measure import Robustness
from graft.training.robustness.recommendations import Advice, chapters, sample
from graft.training.runtime import atomic_files
from graft.training.runtime.progress import duration
from graft.training.visualization import charts, formatting, gallery
from graft.training.visualization.gallery import Answers, Sheet
from graft.training.visualization.thumbnails import Album

if TYPE_CHECKING:
    from jinja2 import Environment

    from graft.training.architecture.summary import Inspection


NAME = "report.html"  # in a run's folder, or a comparison's
PAGE = Path(__file__).parent / "templates"
SCORES = ("val/accuracy", "val/map")  # what `metrics.csv` may call the validation score


@dataclass(frozen=True)
class Choice:
    """One line of the recipe, and whether a person chose it or the data's size did."""

    name: str
    value: str
    derived: bool


@dataclass(frozen=True)
class Repeat:
    """What it takes to do the same again."""

    command: str
    choices: tuple[Choice, ...]
    versions: Mapping[str, str]
    machine: str
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Story:
    """A whole run, as its report tells it.

    Attributes:
        name: of the data set.
        created: when, for a person.
        counts: by split, images per label; in the order of `labels`.
        n_images: by split.
        sizes: of the images, in words.
        left_out: by path, why.
        rungs: in the order in which they were climbed.
        epochs: of the training that was kept, or none for a probe.
        answers: what was said about each test image.
        sees: the pictures of what the network looks at, and for.
        remarks: further results in words: what ten crops gained, whether fine-tuning beat its probe.
        package: where it lies, as a person would type it.
    """

    name: str
    created: str
    labels: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]
    n_images: Mapping[str, int]
    sizes: str
    strategy: str
    backbone: str
    seconds: float
    package: str
    evaluation: Evaluation
    answers: Answers
    repeat: Repeat
    left_out: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    rungs: tuple[Rung, ...] = ()
    quadrant: Quadrant | None = None
    epochs: tuple[Epoch, ...] = ()
    suspects: tuple[Suspect, ...] = ()
    remarks: tuple[str, ...] = ()
    sees: Seen | None = None


def report_page(story: Story, read: Callable[[str], bytes]) -> str:
    """A run's report.

    Args:
        read: the encoded bytes of one of the data set's files; a file that cannot be read has no picture in the page.
    """
    album = Album(read)
    # In the order of what is missed most where the page is full, which is not the order in which it is read.
    wrong = gallery.mistakes(story.answers, story.evaluation, story.labels, album)
    suspects = gallery.suspects(story.suspects, album)
    strange = gallery.strangest(story.answers, story.labels, album)
    sheets = _sheets(story.findings, {path: album.picture(path) for path in gallery.concerned(story.findings)})
    confusion = story.evaluation.confusion
    behind = gallery.cells(story.answers, confusion, story.labels, album) if confusion else ()
    return _rendered(
        "report.html",
        {"story": story, "wrong": wrong, "suspects": suspects, "strange": strange, "sheets": sheets, "cells": behind},
    )


def check_page(name: str, summary: str, findings: Sequence[Finding], pictures: Mapping[str, str]) -> str:
    """What is wrong with a data set, gravest first, with the images concerned.

    Args:
        summary: what the data set is, in a line.
        pictures: data URIs by path; `gallery.concerned` says of which files, an `Album` makes them.
    """
    return _rendered("check.html", {"name": name, "summary": summary, "sheets": _sheets(findings, pictures)})


def compare_page(name: str, summary: str, table: Table, repeat: Repeat | None = None) -> str:
    """Strategies against each other: the lectures' table for a person's own images."""
    return _rendered("compare.html", {"name": name, "summary": summary, "table": table, "repeat": repeat})


def robust_page(name: str, found: Robustness, advice: Advice) -> str:
    """What a package's answers withstand, as curves with pictures, and what follows."""
    told = {"name": name, "found": found, "advice": advice, "sample": sample(found), "chapters": list(chapters(found))}
    return _rendered("robust.html", told)


def inspect_page(found: "Inspection", sees: Seen | None = None) -> str:
    """What a network is, layer by layer.

    Args:
        sees: what its template `sees.html` is told of what the network sees in images; None: there were none.
    """
    from graft.training.architecture import summary as inspection

    shares = [
        max(layer.weights / found.anatomy.weights, inspection.operations_share(layer, found.anatomy))
        for layer in found.anatomy.layers
    ]
    told = {"found": found, "inspection": inspection, "largest": max(shares, default=1.0), "sees": sees}
    return _rendered("inspect.html", told)


def save(page: str, path: Path) -> None:
    """Writes a page, whole or not at all."""
    atomic_files.write(path, page)


def read_epochs(path: Path) -> tuple[Epoch, ...]:
    """The training curves in a `metrics.csv`, from the start, epoch 0, on; none if there is no file."""
    if not path.is_file():
        return ()
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(_epoch({name: float(value) for name, value in row.items() if value}) for row in csv.DictReader(file))


def _epoch(row: Mapping[str, float]) -> Epoch:
    known = {name: value for name, value in row.items() if math.isfinite(value)}
    score = next((known[name] for name in SCORES if name in known), None)
    return Epoch(int(row["epoch"]), known.get("train/loss"), known.get("val/loss"), score)


def _sheets(findings: Sequence[Finding], pictures: Mapping[str, str]) -> tuple[Sheet, ...]:
    return tuple(gallery.sheet(finding, pictures) for finding in gallery.graded(findings))


def _rendered(template: str, told: Mapping[str, object]) -> str:
    style, script = ((PAGE / name).read_text(encoding="utf-8") for name in ("style.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}';"
        " base-uri 'none'; form-action 'none'"
    )
    return _environment().get_template(template).render({**told, "style": style, "script": script, "policy": policy})


def _digest(text: str) -> str:
    """What a content security policy calls exactly this text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _environment() -> "Environment":
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: charts.clean(value) if type(value) is str else value,
    )
    environment.filters.update(percent=charts.percent, duration=duration)
    environment.globals.update(charts=charts, wording=formatting, panels=tables)
    return environment

"""Renders reports as self-contained HTML files. Computes only layout: every number comes from another package.

Jinja2 escapes all text, because labels and file names are untrusted. A page makes no network requests, and its content
security policy allows only its own style and script, by their hashes.
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


NAME = "report.html"  # in a run folder or a comparison folder
PAGE = Path(__file__).parent / "templates"
SCORES = ("val/accuracy", "val/map")  # possible columns of the validation score in `metrics.csv`


@dataclass(frozen=True)
class Choice:
    """One configuration value, and whether it was derived from the data or set in the recipe."""

    name: str
    value: str
    derived: bool


@dataclass(frozen=True)
class Repeat:
    """Everything needed to reproduce a run."""

    command: str
    choices: tuple[Choice, ...]
    versions: Mapping[str, str]
    machine: str
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Story:
    """The content of a run's report.

    Attributes:
        name: of the data set.
        created: date and time, formatted.
        counts: by split, images per label; in the order of `labels`.
        n_images: by split.
        image_sizes: a text.
        excluded: the reason by path.
        attempts: the strategies, in the order in which they were tried.
        epochs: of the selected training; empty for a probe.
        predictions: for each test image.
        interpretation: heat maps, the embedding map and filters of the network.
        remarks: further results as sentences: the gains of ten-crop evaluation and of fine-tuning over the probe.
        package: its path, as typed in a shell.
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
    """Renders the report of a run.

    Args:
        read: returns the encoded bytes of a file of the data set; a file that cannot be read has no thumbnail.
    """
    thumbnails = Album(read)
    # In order of importance, because the thumbnail budget of a page may run out.
    errors = gallery.mistakes(story.answers, story.evaluation, story.labels, thumbnails)
    label_issues = gallery.suspects(story.suspects, thumbnails)
    outliers = gallery.strangest(story.answers, story.labels, thumbnails)
    sheets = _sheets(story.findings, {path: thumbnails.picture(path) for path in gallery.concerned(story.findings)})
    confusion = story.evaluation.confusion
    cells = gallery.cells(story.answers, confusion, story.labels, thumbnails) if confusion else ()
    return _rendered(
        "report.html",
        {
            "report": story,
            "errors": errors,
            "label_issues": label_issues,
            "outliers": outliers,
            "sheets": sheets,
            "cells": cells,
        },
    )


def check_page(name: str, summary: str, findings: Sequence[Finding], pictures: Mapping[str, str]) -> str:
    """Renders the findings of a data check with the affected images, most severe first.

    Args:
        summary: one line about the data set.
        pictures: data URIs by path, made by a `ThumbnailCache` for the files of `gallery.affected_paths`.
    """
    return _rendered("check.html", {"name": name, "summary": summary, "sheets": _sheets(findings, pictures)})


def compare_page(name: str, summary: str, table: Table, repeat: Repeat | None = None) -> str:
    """Renders a comparison of strategies on the same images."""
    return _rendered("compare.html", {"name": name, "summary": summary, "comparison": table, "reproduction": repeat})


def robust_page(name: str, found: Robustness, advice: Advice) -> str:
    """Renders robustness curves with example images, and a recommendation."""
    context = {
        "name": name,
        "robustness": found,
        "recommendation": advice,
        "sample": sample(found),
        "sections": list(chapters(found)),
    }
    return _rendered("robust.html", context)


def inspect_page(found: "Inspection", sees: Seen | None = None) -> str:
    """Renders the layer table of a network.

    Args:
        interpretation: heat maps, embedding maps and activations on images; None without images.
    """
    from graft.training.architecture import summary

    shares = [
        max(layer.weights / found.anatomy.weights, summary.operations_share(layer, found.anatomy))
        for layer in found.anatomy.layers
    ]
    context = {
        "inspection": found,
        "summary": summary,
        "largest": max(shares, default=1.0),
        "interpretation": sees,
    }
    return _rendered("inspect.html", context)


def save(page: str, path: Path) -> None:
    """Writes a page atomically."""
    atomic_files.write(path, page)


def read_epochs(path: Path) -> tuple[Epoch, ...]:
    """Reads the training curves from a `metrics.csv`, starting at epoch 0; empty if the file does not exist."""
    if not path.is_file():
        return ()
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(_epoch({name: float(value) for name, value in row.items() if value}) for row in csv.DictReader(file))


def _epoch(row: Mapping[str, float]) -> Epoch:
    finite = {name: value for name, value in row.items() if math.isfinite(value)}
    score = next((finite[name] for name in SCORES if name in finite), None)
    return Epoch(int(row["epoch"]), finite.get("train/loss"), finite.get("val/loss"), score)


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
    """The hash source of a text for a content security policy."""
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
    environment.globals.update(charts=charts, formatting=formatting, tables=tables)
    return environment

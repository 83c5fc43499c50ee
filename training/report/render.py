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

from graft.training.data.findings import Finding, LabelIssue
from graft.training.evaluation.comparison import Comparison
from graft.training.interpret.collect import Interpretation
from graft.training.report import tables
from graft.training.report.tables import Epoch
from graft.training.results import Evaluation, StrategyAttempt, TransferRegime
from graft.training.runtime import atomic_files
from graft.training.runtime.progress import format_duration
from graft.training.visualization import charts, formatting, gallery
from graft.training.visualization.gallery import ContactSheet, ImagePredictions
from graft.training.visualization.thumbnails import ThumbnailCache

if TYPE_CHECKING:
    from jinja2 import Environment

    from graft.training.architecture.summary import Inspection


REPORT_FILE = "report.html"  # in a run folder or a comparison folder
TEMPLATES_DIR = Path(__file__).parent / "templates"
VAL_SCORE_COLUMNS = ("val/accuracy", "val/map")  # possible columns of the validation score in `metrics.csv`


@dataclass(frozen=True)
class ConfigLine:
    """One configuration value, and whether it was derived from the data or set in the recipe."""

    name: str
    value: str
    derived: bool


@dataclass(frozen=True)
class Reproduction:
    """Everything needed to reproduce a run."""

    command: str
    config: tuple[ConfigLine, ...]
    versions: Mapping[str, str]
    machine: str
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class RunReport:
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
    image_sizes: str
    strategy: str
    backbone: str
    seconds: float
    package: str
    evaluation: Evaluation
    predictions: ImagePredictions
    reproduction: Reproduction
    excluded: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    attempts: tuple[StrategyAttempt, ...] = ()
    transfer_regime: TransferRegime | None = None
    epochs: tuple[Epoch, ...] = ()
    label_issues: tuple[LabelIssue, ...] = ()
    remarks: tuple[str, ...] = ()
    interpretation: Interpretation | None = None


def report_page(report: RunReport, read: Callable[[str], bytes]) -> str:
    """Renders the report of a run.

    Args:
        read: returns the encoded bytes of a file of the data set; a file that cannot be read has no thumbnail.
    """
    thumbnails = ThumbnailCache(read)
    # In order of importance, because the thumbnail budget of a page may run out.
    errors = gallery.confident_errors(report.predictions, report.evaluation, report.labels, thumbnails)
    label_issues = gallery.label_issues(report.label_issues, thumbnails)
    outliers = gallery.top_outliers(report.predictions, report.labels, thumbnails)
    sheets = _contact_sheets(
        report.findings, {path: thumbnails.data_uri(path) for path in gallery.affected_paths(report.findings)}
    )
    confusion = report.evaluation.confusion
    cells = gallery.confusion_cells(report.predictions, confusion, report.labels, thumbnails) if confusion else ()
    return render_page(
        "report.html",
        {
            "report": report,
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
    return render_page("check.html", {"name": name, "summary": summary, "sheets": _contact_sheets(findings, pictures)})


def compare_page(name: str, summary: str, comparison: Comparison, reproduction: Reproduction | None = None) -> str:
    """Renders a comparison of strategies on the same images."""
    return render_page(
        "compare.html", {"name": name, "summary": summary, "comparison": comparison, "reproduction": reproduction}
    )


def inspect_page(inspection: "Inspection", interpretation: Interpretation | None = None) -> str:
    """Renders the layer table of a network.

    Args:
        interpretation: heat maps, embedding maps and activations on images; None without images.
    """
    from graft.training.architecture import summary

    shares = [
        max(layer.weights / inspection.model_summary.weights, summary.operations_share(layer, inspection.model_summary))
        for layer in inspection.model_summary.layers
    ]
    context = {
        "inspection": inspection,
        "summary": summary,
        "largest": max(shares, default=1.0),
        "interpretation": interpretation,
    }
    return render_page("inspect.html", context)


def render_fragment(template: str, context: Mapping[str, object]) -> str:
    """Renders a part of a page for a notebook, without style sheet, script or content security policy."""
    return _environment().get_template(template).render(context)


def save(page: str, path: Path) -> None:
    """Writes a page atomically."""
    atomic_files.write_text(path, page)


def read_epochs(path: Path) -> tuple[Epoch, ...]:
    """Reads the training curves from a `metrics.csv`, starting at epoch 0; empty if the file does not exist."""
    if not path.is_file():
        return ()
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(_parse_epoch({name: float(value) for name, value in row.items() if value}) for row in csv.DictReader(file))


def _parse_epoch(row: Mapping[str, float]) -> Epoch:
    finite = {name: value for name, value in row.items() if math.isfinite(value)}
    score = next((finite[name] for name in VAL_SCORE_COLUMNS if name in finite), None)
    return Epoch(int(row["epoch"]), finite.get("train/loss"), finite.get("val/loss"), score)


def _contact_sheets(findings: Sequence[Finding], pictures: Mapping[str, str]) -> tuple[ContactSheet, ...]:
    return tuple(gallery.finding_sheet(finding, pictures) for finding in gallery.by_severity(findings))


def render_page(template: str, context: Mapping[str, object]) -> str:
    """Renders a template as a page with its own style, script and content security policy."""
    style, script = ((TEMPLATES_DIR / name).read_text(encoding="utf-8") for name in ("style.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_csp_hash(style)}'; script-src '{_csp_hash(script)}';"
        " base-uri 'none'; form-action 'none'"
    )
    return _environment().get_template(template).render({**context, "style": style, "script": script, "policy": policy})


def _csp_hash(text: str) -> str:
    """The hash source of a text for a content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _environment() -> "Environment":
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES_DIR),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: charts.sanitize(value) if type(value) is str else value,
    )
    environment.filters.update(percent=charts.percent, duration=format_duration)
    environment.globals.update(charts=charts, formatting=formatting, gallery=gallery, tables=tables)
    return environment

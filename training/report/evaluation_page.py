"""The page of `graft evaluate --report`: the sections of a run's report that need only predictions, and the robustness."""

from collections.abc import Callable
from dataclasses import dataclass

from graft.training.report import render
from graft.training.results import Evaluation
from graft.training.robustness.measure import Robustness
from graft.training.robustness.recommendations import Recommendation, describe_sample, sections
from graft.training.visualization import gallery
from graft.training.visualization.gallery import ImagePredictions
from graft.training.visualization.thumbnails import ThumbnailCache


@dataclass(frozen=True)
class EvaluationReport:
    """The content of the page.

    Attributes:
        name: of the model.
        package, data: their paths, as typed in a shell.
        labels: of the package.
        predictions: for each image.
        remarks: further results as sentences.
        robustness, recommendation: None if they were not measured.
    """

    name: str
    package: str
    data: str
    labels: tuple[str, ...]
    evaluation: Evaluation
    predictions: ImagePredictions
    remarks: tuple[str, ...] = ()
    robustness: Robustness | None = None
    recommendation: Recommendation | None = None


def evaluation_page(report: EvaluationReport, read: Callable[[str], bytes]) -> str:
    """Renders the evaluation of a package.

    Args:
        read: returns the encoded bytes of an image; one that cannot be read has no thumbnail.
    """
    evaluation, predictions, thumbnails = report.evaluation, report.predictions, ThumbnailCache(read)
    confusion = evaluation.confusion
    context = {
        "report": report,
        "evaluation": evaluation,
        # In order of importance, because the thumbnail budget of a page may run out.
        "errors": gallery.confident_errors(predictions, evaluation, report.labels, thumbnails),
        "outliers": gallery.top_outliers(predictions, report.labels, thumbnails),
        "cells": gallery.confusion_cells(predictions, confusion, report.labels, thumbnails) if confusion else (),
    }
    if report.robustness and report.recommendation:
        context |= {
            "robustness": report.robustness,
            "recommendation": report.recommendation,
            "sample": describe_sample(report.robustness),
            "sections": list(sections(report.robustness)),
        }
    return render.render_page("evaluate.html", context)

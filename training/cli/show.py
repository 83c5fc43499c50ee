"""Prints the result of each command as text on stdout. `--json` prints the records themselves instead."""

from pathlib import Path
from typing import TYPE_CHECKING

from graft.training.cli import evaluation_tables, tables
from graft.training.cli.output import print_hint, print_table, print_text, terminal_width

if TYPE_CHECKING:
    from graft.service.artifact import Artifact
    from graft.service.inference.model import Model
    from graft.training.architecture.summary import Inspection
    from graft.training.cli.output import Table
    from graft.training.inference.detector import Detections
    from graft.training.inference.scoring import PredictResult
    from graft.training.pipelines.check import AuditReport
    from graft.training.pipelines.compare import CompareResult
    from graft.training.pipelines.evaluate import EvaluateResult
    from graft.training.pipelines.fit import FitResult
    from graft.training.pipelines.info import Info
    from graft.training.pipelines.replay import Replay
    from graft.training.results import Evaluation
    from graft.training.robustness.measure import Robustness
    from graft.training.robustness.recommendations import Recommendation

MAX_DIFFERENCES = 10


def fit(result: "FitResult") -> None:
    from graft.training.pipelines import fit as pipeline

    print_text(pipeline.summary(result))
    print_hint(f"next: graft serve {result.package}")


def replay(repeated: "Replay", before: Path) -> None:
    run = repeated.result.run
    if not repeated.differences:
        relation = "identical to" if repeated.is_exact else f"within {repeated.tolerance:g} of"
        print_text(f"{run} is {relation} {before} in all metrics and weights")
        return
    tolerance = "" if repeated.is_exact else f" by more than {repeated.tolerance:g}"
    print_text(f"{run} differs from {before}{tolerance}:")
    print_table(tables.differences(repeated.differences[:MAX_DIFFERENCES]))
    if (n_more := len(repeated.differences) - MAX_DIFFERENCES) > 0:
        print_text(f"and {n_more:,} more; --json lists all")


def compare(result: "CompareResult", data: Path) -> None:
    from graft.training.evaluation import comparison

    print_table(tables.comparison(result.comparison))
    print_text(comparison.differences_text(result.comparison))
    print_text(f"all runs: {result.table}\nreport: {result.report}")
    print_hint(f"next: graft fit {data} --strategy {result.best.strategy} --backbone {result.best.backbone}")


def check(report: "AuditReport", data: Path, page: Path | None) -> None:
    from graft.training.audit.data_audit import truncate_findings
    from graft.training.pipelines import check as pipeline

    print_table(tables.findings(truncate_findings(report.findings)))
    if sentence := report.ranking.to_text():
        print_text(f"{sentence}; --max-label-issues N lists the first N")
    print_text(pipeline.summary(report))
    _saved("report", page, "to view the images, add --report FILE.html")
    print_hint(f"next: {pipeline.next_command(report, data)}")


def evaluate(result: "EvaluateResult", page: Path | None) -> None:
    from graft.training.pipelines import evaluation_text

    if result.seen_note:
        print_text(result.seen_note)
    print_text(f"{result.evaluation.describe_sample()}, 95 % confidence intervals")
    print_table(tables.metrics(result.evaluation))
    print_text("\n".join(evaluation_text.notes(result.evaluation)))
    _classes(result.evaluation)
    command = f"graft serve {result.package}"
    if result.robustness and result.recommendation:
        _robustness(result.robustness, result.recommendation)
        command = result.recommendation.command or command
    _saved("report", page, "to view the images, add --report FILE.html")
    print_hint(f"next: {command}")


def _classes(evaluation: "Evaluation") -> None:
    """The per-class metrics, and what was confused with what."""
    print_text(f"\nby label, lowest {'average precision' if evaluation.multilabel else 'F1'} first")
    _print_first(evaluation_tables.per_class(evaluation), len(evaluation.labels))
    if evaluation.confusion is None:
        return
    if len(evaluation.labels) <= evaluation_tables.MAX_MATRIX_LABELS:
        print_text("\nconfusion matrix: true labels in rows, predicted labels in columns")
        print_table(evaluation_tables.confusion_matrix(evaluation, terminal_width()))
    elif n_pairs := evaluation_tables.n_confused_pairs(evaluation):
        print_text("\nmost confused pairs")
        _print_first(evaluation_tables.confused_pairs(evaluation), n_pairs)
    else:
        print_text("\nno image was misclassified")


def _print_first(table: "Table", n_all: int) -> None:
    """Prints a table, and the number of rows that it leaves out."""
    print_table(table)
    if (n_more := n_all - len(table.rows)) > 0:
        print_text(f"and {n_more:,} more; --json has all")


def _robustness(robustness: "Robustness", recommendation: "Recommendation") -> None:
    from graft.training.robustness import recommendations

    clean = f"clean accuracy {robustness.clean_accuracy.value:.1%}"
    print_text(f"\nrobustness: {recommendations.describe_sample(robustness)}; {clean}")
    print_table(tables.robustness(robustness))
    print_text("\n".join(recommendation.sentences))


def locate(detections: "Detections", package: Path, image: Path, drawing: Path | None) -> None:
    from graft.training.inference import detector

    print_text(detector.to_text(detections))
    _saved("image", drawing, f"to view the boxes: graft locate {package} {image} --out FILE.png")
    print_hint(f"next: graft predict {package} {image}")


def inspect(inspection: "Inspection", page: Path | None) -> None:
    from graft.training.architecture import summary

    print_text(f"{inspection.name}: {inspection.description}\n")
    print_table(tables.layers(inspection))
    print_text("\n".join(["", summary.RECEPTIVE_FIELD_NOTE, *summary.total_lines(inspection)]))
    _saved("page", page, "to write a page, add --html FILE")


def predict(result: "PredictResult") -> None:
    failed = f"; {result.n_failed:,} images could not be used: see the column `error`" if result.n_failed else ""
    kept = f", {result.n_parts - result.n_computed:,} of which were there" if result.n_parts > result.n_computed else ""
    parts = "1 part" if result.n_parts == 1 else f"{result.n_parts:,} parts"
    print_text(f"{result.folder}: {result.n_images:,} images in {parts}{kept}{failed}")


def verify(loaded: "Model", package: Path) -> None:
    manifest = loaded.manifest
    print_text(f"{package}: checksums match; golden outputs within {loaded.golden_difference:.1g}")
    print_text(f"model {manifest.name} {manifest.version}, {len(manifest.labels)} labels, sha256 {manifest.sha256}")
    print_hint(f"next: graft serve {package}")


def package(artifact: "Artifact") -> None:
    print_text(f"{artifact.path}: checksums match; this package is now served and built by default")
    print_text(f"model {artifact.manifest.name} {artifact.manifest.version}, sha256 {artifact.manifest.sha256}")
    print_hint("next: graft serve, or in a checkout: bentoml build")


def build(tag: str) -> None:
    print_text(tag)
    print_hint(f"next: bentoml serve {tag}, or bentoml containerize {tag}")


def info(found: "Info") -> None:
    print_table(tables.info(found))


def _saved(name: str, path: Path | None, hint: str) -> None:
    """Prints the path of a file that was written, or else how to get it."""
    if path:
        print_text(f"{name}: {path}")
    else:
        print_hint(hint)

"""`graft check`: the audit that every fit starts with, plus checks that need backbone features, in one report."""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from graft.training.audit import label_errors
from graft.training.audit.data_audit import SEVERITIES, read_and_audit, sort_findings
from graft.training.audit.image_groups import find_groups
from graft.training.audit.image_scan import median_side
from graft.training.audit.label_ranking import LabelRanking
from graft.training.backbones import onnx_cache, registry
from graft.training.config.recipe import Recipe
from graft.training.data.dataset import Dataset, describe
from graft.training.data.findings import Finding
from graft.training.data.splits import assign_groups
from graft.training.features.extraction import View, extract
from graft.training.report import notebook, render
from graft.training.runtime.device import select_device
from graft.training.runtime.isolation import preserved_state
from graft.training.runtime.progress import format_duration, step
from graft.training.strategies.context import select_extractor
from graft.training.visualization import gallery
from graft.training.visualization.thumbnails import ThumbnailCache


@dataclass(frozen=True)
class AuditReport:
    """The findings in a data set, most severe first. In a notebook it shows them.

    Attributes:
        name: of the data set.
        ranking: every label, most probably wrong first; empty if labels were not checked.
    """

    name: str
    dataset: Dataset
    findings: tuple[Finding, ...]
    seconds: float
    ranking: LabelRanking = field(default_factory=LabelRanking, repr=False)

    def count(self, severity: str) -> int:
        """Number of findings of one severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def save_report(self, path: Path) -> None:
        """Writes the findings and the affected images as one offline HTML page."""
        render.save(to_html(self), path)

    def __repr__(self) -> str:
        return f"AuditReport({summary(self)})"

    def _repr_html_(self) -> str:
        lines = tuple(filter(None, [describe(self.dataset), self.ranking.to_text()]))
        return notebook.fragment(summary(self), lines, (notebook.findings_table(self.findings),))

    def to_dict(self) -> dict[str, object]:
        """For `--json`: all findings, not truncated."""
        return {
            "images": len(self.dataset.samples),
            "labels": list(self.dataset.labels),
            "multilabel": self.dataset.multilabel,
            **{f"{severity}s": self.count(severity) for severity in SEVERITIES},
            "findings": [asdict(finding) for finding in self.findings],
            "label_errors": self.ranking.to_dict(),
            "seconds": round(self.seconds, 2),
        }


@preserved_state()
def check(data: Path, recipe: Recipe, use_features: bool = True, max_label_issues: int | None = None) -> AuditReport:
    """Finds issues in a data set. Reads every file; writes nothing into the data set's folder.

    Args:
        use_features: also find label issues and outliers, which needs a pass through the backbone.
        max_label_issues: how many of the most probable label errors to report; None for those that are almost certain.

    Raises:
        BackboneError, DatasetError, DeviceError: if the backbone, the data set or the device cannot be used at all.
    """
    device = select_device(recipe.device)
    start, ranking = time.monotonic(), LabelRanking()
    backbone = registry.resolve(recipe.backbone, recipe.weights)
    dataset, scanned, findings = read_and_audit(data, recipe)
    usable = dataset.exclude(scanned.unreadable)
    if use_features and len(usable.samples) > label_errors.MIN_IMAGES_PER_LABEL:
        # As a fit does, so that it names the same images, and finds the features in the cache.
        exported = onnx_cache.load_or_export(backbone, recipe.input_size, median_side(scanned), recipe.fit, dataset.sample_bits)
        features = extract(usable, map(View, usable.samples), exported, select_extractor(device))
        pairs, findings = find_groups(dataset, scanned, features, findings, recipe)
        readable = assign_groups(usable.exclude(features.unreadable), pairs)
        ranking, outliers = label_errors.find_issues(readable, readable.samples, features.select(readable.samples))
        findings += label_errors.to_findings(ranking.top(max_label_issues), outliers)
    return AuditReport(data.resolve().name, dataset, tuple(sort_findings(findings)), time.monotonic() - start, ranking)


def summary(report: AuditReport) -> str:
    """Number of findings by severity, in one line."""
    counts = {severity: report.count(severity) for severity in SEVERITIES}
    parts = [f"{count:,} {severity}{'s' * (count != 1)}" for severity, count in counts.items() if count]
    return f"{', '.join(parts) or 'no issues'} in {len(report.dataset.samples):,} images ({format_duration(report.seconds)})"


def next_command(report: AuditReport, data: Path) -> str:
    """The command to run next."""
    errors = [finding for finding in report.findings if finding.severity == "error"]
    flags = sorted({finding.flag for finding in errors if finding.flag})
    if all(finding.flag for finding in errors):
        return " ".join(["graft fit", str(data), *flags])
    return "fix the errors that no flag resolves, then run graft check again"


@step("writing the report")
def to_html(report: AuditReport) -> str:
    """The findings and the affected images as one self-contained HTML page."""
    by_path = {sample.path: sample for sample in report.dataset.samples}
    thumbnails = ThumbnailCache(lambda path: report.dataset.read(by_path[path]))
    pictures = {path: thumbnails.data_uri(path) for path in gallery.affected_paths(report.findings)}
    lead = "; ".join(filter(None, [f"{describe(report.dataset)}: {summary(report)}", report.ranking.to_text()]))
    return render.check_page(report.name, lead, report.findings, pictures)

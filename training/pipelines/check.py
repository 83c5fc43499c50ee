"""`graft check`: the audit that every fit starts with, plus checks that need backbone features, in one report."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from graft.training.audit import label_errors
from graft.training.audit.data_audit import SEVERITIES, audit, shortened
from graft.training.audit.image_scan import examine, median_side
from graft.training.backbones import onnx_cache, registry
from graft.training.config.recipe import Recipe
from graft.training.data.dataset import Dataset, describe, scan
from graft.training.data.findings import Finding
from graft.training.data.splits import grouped
from graft.training.features.extraction import View, extract
from graft.training.report.render import check_page
from graft.training.runtime.progress import duration, say
from graft.training.visualization import gallery
from graft.training.visualization.thumbnails import Album

SIDE = 128  # pixels, at most: finds the same outliers as a larger input, three times faster


@dataclass(frozen=True)
class Checked:
    """The findings in a data set, most severe first."""

    dataset: Dataset
    findings: tuple[Finding, ...]
    seconds: float

    def count(self, severity: str) -> int:
        """Number of findings of one severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def facts(self) -> dict[str, object]:
        """For `--json`: all findings, not truncated."""
        return {
            "images": len(self.dataset.samples),
            "labels": list(self.dataset.labels),
            "multilabel": self.dataset.multilabel,
            **{f"{severity}s": self.count(severity) for severity in SEVERITIES},
            "findings": [asdict(finding) for finding in self.findings],
            "seconds": round(self.seconds, 2),
        }


def check(data: Path, choices: Recipe, vectors: bool = True) -> Checked:
    """Finds issues in a data set. Reads every file; writes nothing into the data set's folder.

    Args:
        use_features: also find label issues and outliers, which needs a pass through the backbone.

    Raises:
        BackboneError, DatasetError: if the backbone or the data set cannot be used at all.
    """
    start = time.monotonic()
    backbone = registry.choose(choices.backbone, choices.weights)
    dataset = scan(data, choices.group_by, choices.follow_links)
    say(describe(dataset))
    dataset, scanned = examine(dataset)
    findings = audit(dataset, scanned)
    usable = grouped(dataset.without(scanned.troubles), scanned.alike)
    if vectors and len(usable.samples) > label_errors.FEWEST_TO_JUDGE:
        exported = onnx_cache.export(backbone, choices.input_size or SIDE, median_side(scanned), choices.fit)
        features = extract(usable, map(View, usable.samples), exported)
        readable = usable.without(features.unreadable)
        label_issues, outliers = label_errors.look(readable, readable.samples, features.rows_of(readable.samples))
        findings += label_errors.findings(label_issues, outliers)
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Checked(dataset, tuple(findings), time.monotonic() - start)


def text(checked: Checked) -> str:
    """The findings as text, the first few of each kind."""
    lines = [f"{finding.severity}: {finding.text}" for finding in shortened(checked.findings)]
    return "\n".join([*lines, summary(checked)])


def summary(checked: Checked) -> str:
    """Number of findings by severity, in one line."""
    counts = {severity: checked.count(severity) for severity in SEVERITIES}
    parts = [f"{count:,} {severity}{'s' * (count != 1)}" for severity, count in counts.items() if count]
    return f"{', '.join(parts) or 'no issues'} in {len(checked.dataset.samples):,} images ({duration(checked.seconds)})"


def advice(checked: Checked, data: Path) -> str:
    """The command to run next."""
    errors = [finding for finding in checked.findings if finding.severity == "error"]
    flags = sorted({finding.flag for finding in errors if finding.flag})
    if all(finding.flag for finding in errors):
        return " ".join(["graft fit", str(data), *flags])
    return "fix the errors that no flag resolves, then run graft check again"


def page(checked: Checked, name: str) -> str:
    """The findings and the affected images as one self-contained HTML page."""
    by_path = {sample.path: sample for sample in checked.dataset.samples}
    thumbnails = Album(lambda path: checked.dataset.read(by_path[path]))
    pictures = {path: thumbnails.picture(path) for path in gallery.concerned(checked.findings)}
    return check_page(name, f"{describe(checked.dataset)}: {summary(checked)}", checked.findings, pictures)

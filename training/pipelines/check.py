"""What is wrong with data, all of it at once: the audit that every fit begins with, and what only a backbone can see."""

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

SIDE = 128  # pixels, at most: what looks out of place does so on a small picture too, and is found three times sooner


@dataclass(frozen=True)
class Checked:
    """All that was found in a data set, the gravest first."""

    dataset: Dataset
    findings: tuple[Finding, ...]
    seconds: float

    def count(self, severity: str) -> int:
        """How many findings are that grave."""
        return sum(finding.severity == severity for finding in self.findings)

    def facts(self) -> dict[str, object]:
        """For `--json`: nothing is shortened."""
        return {
            "images": len(self.dataset.samples),
            "labels": list(self.dataset.labels),
            "multilabel": self.dataset.multilabel,
            **{f"{severity}s": self.count(severity) for severity in SEVERITIES},
            "findings": [asdict(finding) for finding in self.findings],
            "seconds": round(self.seconds, 2),
        }


def check(data: Path, choices: Recipe, vectors: bool = True) -> Checked:
    """Finds what is wrong with the data; reads every file, writes nothing beside them.

    Args:
        vectors: also look for suspect labels and outliers, which takes a pass through the backbone.

    Raises:
        BackboneError, DatasetError: if nothing can be understood at all.
    """
    begun = time.monotonic()
    choice = registry.choose(choices.backbone, choices.weights)
    dataset = scan(data, choices.group_by, choices.follow_links)
    say(describe(dataset))
    dataset, looks = examine(dataset)
    found = audit(dataset, looks)
    good = grouped(dataset.without(looks.troubles), looks.alike)
    if vectors and len(good.samples) > label_errors.FEWEST_TO_JUDGE:
        exported = onnx_cache.export(choice, choices.input_size or SIDE, median_side(looks), choices.fit)
        features = extract(good, map(View, good.samples), exported)
        seen = good.without(features.unreadable)
        wrong, strange = label_errors.look(seen, seen.samples, features.rows_of(seen.samples))
        found += label_errors.findings(wrong, strange)
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Checked(dataset, tuple(found), time.monotonic() - begun)


def text(checked: Checked) -> str:
    """The findings for a terminal, the first few of each kind."""
    lines = [f"{finding.severity}: {finding.text}" for finding in shortened(checked.findings)]
    return "\n".join([*lines, summary(checked)])


def summary(checked: Checked) -> str:
    """How much was found, in one line."""
    counts = {severity: checked.count(severity) for severity in SEVERITIES}
    words = [f"{count:,} {severity}{'s' * (count != 1)}" for severity, count in counts.items() if count]
    return f"{', '.join(words) or 'nothing wrong'} in {len(checked.dataset.samples):,} images ({duration(checked.seconds)})"


def advice(checked: Checked, data: Path) -> str:
    """The next command, for a person."""
    errors = [finding for finding in checked.findings if finding.severity == "error"]
    flags = sorted({finding.flag for finding in errors if finding.flag})
    if all(finding.flag for finding in errors):
        return " ".join(["graft fit", str(data), *flags])
    return "mend what has no flag, then check again"


def page(checked: Checked, name: str) -> str:
    """The findings as one offline HTML page with the images concerned."""
    by_path = {sample.path: sample for sample in checked.dataset.samples}
    album = Album(lambda path: checked.dataset.read(by_path[path]))
    pictures = {path: album.picture(path) for path in gallery.concerned(checked.findings)}
    return check_page(name, f"{describe(checked.dataset)}: {summary(checked)}", checked.findings, pictures)

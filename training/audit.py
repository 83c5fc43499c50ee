"""What is wrong with the data, found before anything is learned from it: leaks, contradictions. No image is decoded."""

from collections import defaultdict

from training.dataset import Dataset, DatasetError, Sample
from training.findings import Finding


def audit(dataset: Dataset) -> list[Finding]:
    """Byte-identical images under two labels, and in both the part to learn from and the held-out part."""
    same: dict[bytes, list[Sample]] = defaultdict(list)
    for sample in dataset.samples:
        same[sample.digest].append(sample)
    findings = []
    for samples in same.values():
        paths = tuple(sample.path for sample in samples)
        if len({sample.label for sample in samples}) > 1:
            findings.append(Finding("conflict", "error", f"one image under two labels: {', '.join(paths)}", paths, paths))
        elif len({sample.part for sample in samples}) > 1:
            learned = tuple(sample.path for sample in samples if sample.part == "train")
            text = f"one image to learn from and held out: {', '.join(paths)}"
            findings.append(Finding("leak", "error", text, paths, learned))
    return findings


def settled(dataset: Dataset, drop_duplicates: bool) -> tuple[Dataset, list[Finding]]:
    """The data that may be learned from, and what was left out of it.

    Raises:
        DatasetError: if there are findings and nobody allowed to drop them; the text shows the first ten.
    """
    findings = audit(dataset)
    if findings and not drop_duplicates:
        shown = "\n".join(f"  {finding.text}" for finding in findings[:10])
        raise DatasetError(
            f"{len(findings)} findings would make the numbers lie:\n{shown}\n"
            "Mend the folder, or leave these images out with --drop-duplicates."
        )
    return dataset.without(path for finding in findings for path in finding.drop), findings

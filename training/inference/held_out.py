"""A data set in a package's own labels."""

from dataclasses import replace
from pathlib import Path

from graft.service.inference.model import Model
from graft.training.data.dataset import Dataset, DatasetError, Sample, scan


def held_out(model: Model, data: Path) -> tuple[Dataset, tuple[Sample, ...]]:
    """Labelled images in a package's own labels, and those that it is judged by: where they come in parts, the held-out one.

    Raises:
        DatasetError: if the data name a label that the package does not know, or several labels where it knows one.
    """
    dataset = _in_words_of(model, scan(data))
    return dataset, tuple(sample for sample in dataset.samples if sample.part == "test") or dataset.samples


def _in_words_of(model: Model, dataset: Dataset) -> Dataset:
    """The data set with a package's labels in the package's order: they are matched by name."""
    manifest = model.manifest
    known = {label: index for index, label in enumerate(manifest.labels)}
    if unknown := sorted(set(dataset.labels) - set(known)):
        raise DatasetError(f"The package knows no {', '.join(map(repr, unknown))}; it knows {', '.join(known)}.")
    if dataset.multilabel and not manifest.multilabel:
        raise DatasetError("The images have several labels each; the package gives an image exactly one.")
    place = [known[label] for label in dataset.labels]
    samples = tuple(
        replace(sample, labels=tuple(sorted(place[label] for label in sample.labels))) for sample in dataset.samples
    )
    return replace(dataset, labels=manifest.labels, samples=samples, multilabel=manifest.multilabel)

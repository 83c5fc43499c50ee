"""Loads the held-out images of a data set, with the labels in a package's order."""

from dataclasses import replace
from pathlib import Path

from graft.service.inference.model import Model
from graft.training.config.read_options import ReadOptions
from graft.training.data.dataset import Dataset, DatasetError, Sample, scan


def load_test_split(model: Model, data: Path, options: ReadOptions | None = None) -> tuple[Dataset, tuple[Sample, ...]]:
    """A data set with the package's label indices, and its evaluation samples.

    The samples are the test split if the data set has one, otherwise all of them.

    Raises:
        DatasetError: if the data contain a label that the package lacks, or several labels per image for a
            single-label package.
    """
    dataset = _align_labels(model, scan(data, options))
    return dataset, tuple(sample for sample in dataset.samples if sample.split == "test") or dataset.samples


def _align_labels(model: Model, dataset: Dataset) -> Dataset:
    """The data set with the package's labels, matched by name, in the package's order."""
    manifest = model.manifest
    index_of = {label: index for index, label in enumerate(manifest.labels)}
    if unknown := sorted(set(dataset.labels) - set(index_of)):
        raise DatasetError(f"The package has no label {', '.join(map(repr, unknown))}. Its labels are {', '.join(index_of)}.")
    if dataset.multilabel and not manifest.multilabel:
        raise DatasetError("The images have several labels each, but the package predicts exactly one label per image.")
    new_index = [index_of[label] for label in dataset.labels]
    samples = tuple(
        replace(sample, labels=tuple(sorted(new_index[label] for label in sample.labels))) for sample in dataset.samples
    )
    return replace(dataset, labels=manifest.labels, samples=samples, multilabel=manifest.multilabel)

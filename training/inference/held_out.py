"""Loads the images that a package is evaluated on: those it has not seen, with the labels in its order."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from graft.service.inference.model import Model
from graft.service.manifest import SEEN_IMAGES
from graft.service.package_arrays import checking
from graft.training.config.read_options import ReadOptions
from graft.training.data.dataset import Dataset, DatasetError, Sample, scan
from graft.training.data.seen_images import ImageHashes, SeenImages, copy_pairs
from graft.training.data.splits import assign_groups


class HeldOut(NamedTuple):
    """Images to evaluate a package on.

    Attributes:
        dataset: with the package's label indices.
        samples: the images; those that do not count as independent have one group.
        n_seen: how many images of the test split, or of the data, the model has learned from or was chosen by, copies included.
        includes_seen: whether `samples` contains them.
    """

    dataset: Dataset
    samples: tuple[Sample, ...]
    n_seen: int = 0
    includes_seen: bool = False


def seen_note(n_images: int, n_seen: int, includes_seen: bool) -> str:
    """What became of the images that a model has seen, as a sentence; "" if there are none.

    Args:
        n_images: how many images it is evaluated on.
        n_seen, includes_seen: as in `HeldOut`.
    """
    if not n_seen:
        return ""
    if includes_seen:
        counts = f"{n_seen:,} of {n_images:,} images"
        return f"WARNING: the model has learned from {counts}, or was chosen by them: the scores are too high"
    counts = f"{n_seen:,} of {n_seen + n_images:,} images are left out"
    return f"{counts}: the model has learned from them or was chosen by them, or they are copies of such images"


def load(model: Model, data: Path, options: ReadOptions | None = None, include_training: bool = False) -> HeldOut:
    """The images of a data set that a package can be evaluated on: as `load_test_split`, without those that it has seen.

    Args:
        include_training: keep the images that the model has seen.

    Raises:
        ArtifactError: if the package's list of seen images is damaged.
        DatasetError: as `load_test_split`, and if the model has seen all images.
    """
    dataset, samples = load_test_split(model, data, options)
    with checking(model.artifact, SEEN_IMAGES):
        seen_images = SeenImages.load(model.artifact.seen_images)
    hashes = ImageHashes.read(dataset, samples)
    seen, samples = seen_images.contain(hashes), _with_groups(dataset, samples, hashes)
    n_seen = int(seen.sum())
    if include_training:
        return HeldOut(dataset, samples, n_seen, includes_seen=True)
    if n_seen == len(samples):
        raise DatasetError(
            f"{data}: the model has learned from all {n_seen:,} images, or was chosen by them, so they cannot tell how good it"
            " is. Pass images that are new to it."
        )
    return HeldOut(dataset, tuple(sample for sample, is_seen in zip(samples, seen, strict=True) if not is_seen), n_seen)


def load_test_split(model: Model, data: Path, options: ReadOptions | None = None) -> tuple[Dataset, tuple[Sample, ...]]:
    """A data set with the package's label indices, and its evaluation samples.

    The samples are the test split if the data set has one, otherwise all of them.

    Raises:
        DatasetError: if the data contain a label that the package lacks, or several labels per image for a
            single-label package.
    """
    dataset = _align_labels(model, scan(data, options))
    return dataset, tuple(sample for sample in dataset.samples if sample.split == "test") or dataset.samples


def _with_groups(dataset: Dataset, samples: Sequence[Sample], hashes: ImageHashes) -> tuple[Sample, ...]:
    """The samples with one group for all that do not count as independent: copies, near-duplicates and declared groups.

    There are no thumbnails here to tell similar images from copies, so a pair must be as close as a copy of a seen image.
    """
    keys = [digest.to_bytes(8, "big") for digest in hashes.digests.tolist()]
    keyed = tuple(replace(sample, digest=key, group=sample.group or key) for sample, key in zip(samples, keys, strict=True))
    pairs = ((keys[one], keys[other]) for one, other in copy_pairs(hashes.hashes).tolist())
    grouped = assign_groups(replace(dataset, samples=keyed), pairs).samples
    return tuple(replace(sample, group=one.group) for sample, one in zip(samples, grouped, strict=True))


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

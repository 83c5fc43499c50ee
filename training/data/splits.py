"""Splits a `Dataset` into train, validation and test sets. Depends on image content and seed, never on file names."""

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from graft.training.config.recipe import DEFAULT_SHARE
from graft.training.data.dataset import Dataset, DatasetError, Sample
from graft.training.data.near_duplicates import connected_components

MIN_TRAIN_IMAGES = 2  # training images per label: cross-validation needs one to train on and one to validate on


@dataclass(frozen=True)
class Splits:
    """Train, validation and test sets. No image and no group is in more than one of them."""

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]

    def to_dict(self) -> dict[str, tuple[Sample, ...]]:
        """Return the samples by split name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def assign_groups(dataset: Dataset, pairs: Iterable[tuple[bytes, bytes]]) -> Dataset:
    """Assign one group to samples that must stay together: identical bytes, near-duplicates and user-defined groups.

    The ID of a group is its smallest digest, so the same images always split the same way, whatever the groups are called.

    Args:
        pairs: digests of near-duplicates.
    """
    links = {(b"d" + sample.digest, b"g" + sample.group) for sample in dataset.samples if sample.group != sample.digest}
    links |= {(b"d" + one, b"d" + other) for one, other in pairs}
    group_of: dict[bytes, bytes] = {}
    for cluster in connected_components(sorted(links)):
        digests = [item[1:] for item in cluster if item[:1] == b"d"]
        group_of |= dict.fromkeys(digests, min(digests))
    samples = tuple(_with_group(sample, group_of.get(sample.digest, sample.digest)) for sample in dataset.samples)
    return replace(dataset, samples=samples)


def _with_group(sample: Sample, group: bytes) -> Sample:
    return sample if sample.group == group else replace(sample, group=group)


def split(
    dataset: Dataset,
    seed: int,
    validation_share: float = DEFAULT_SHARE,
    test_share: float = DEFAULT_SHARE,
    known: Mapping[bytes, str] | None = None,
) -> Splits:
    """Split into train, validation and test, stratified by label; predefined splits stay as they are.

    Args:
        seed: determines the split.
        validation_share, test_share: fractions of the training images that become validation and test images, in (0, 1), if
            these are not predefined.
        known: the split of images of an earlier run, by digest. They keep it, so that no image that was learned is a test
            image; of a group with several, the training split wins.

    Raises:
        DatasetError: if a label has too few distinct images to be in every split; the message has the counts.
    """
    if errors := too_small_labels(dataset):
        raise DatasetError("\n".join(errors))
    predefined: dict[str, list[Sample]] = defaultdict(list)
    for sample in dataset.samples:
        predefined[sample.split or "train"].append(sample)
    missing = _missing_splits(dataset)
    kept = _splits_to_keep(predefined["train"], ("train", *missing), known or {})
    shares = {"validation": validation_share, "test": test_share}
    new_shares = [shares[name] for name in missing]
    split_samples = _split_train(predefined["train"], len(dataset.labels), new_shares, seed, kept)
    splits = {name: tuple(_shuffle(samples, seed)) for name, samples in zip(("train", *missing), split_samples, strict=True)}
    _check_coverage(dataset, splits)
    return Splits(**{name: splits.get(name) or tuple(predefined[name]) for name in ("train", "validation", "test")})


def too_small_labels(dataset: Dataset) -> list[str]:
    """Return one message per label with too few distinct images for the splits to create; empty if there is none."""
    min_images = MIN_TRAIN_IMAGES + len(_missing_splits(dataset))
    groups: list[set[bytes]] = [set() for _ in dataset.labels]
    for sample in dataset.samples:
        if sample.split in ("", "train"):
            for label in sample.labels:
                if len(groups[label]) < min_images:
                    groups[label].add(sample.group)
    n_images = Counter(label for sample in dataset.samples for label in sample.labels if sample.split in ("", "train"))
    return [
        f"The label {name!r} has {_count_text(len(groups[label]), n_images[label])}; at least {min_images} are needed."
        for label, name in enumerate(dataset.labels)
        if len(groups[label]) < min_images
    ]


def _count_text(n_groups: int, n_images: int) -> str:
    total = f" of {n_images:,} (duplicates and groups count once)" if n_images > n_groups else ""
    return f"{n_groups} distinct image{'' if n_groups == 1 else 's'}{total}"


def _missing_splits(dataset: Dataset) -> tuple[str, ...]:
    """Return the splits that are not predefined and must be split off from the training images."""
    predefined = {sample.split for sample in dataset.samples}
    return tuple(name for name in ("validation", "test") if name not in predefined)


def _splits_to_keep(samples: Sequence[Sample], names: Sequence[str], known: Mapping[bytes, str]) -> dict[bytes, int]:
    """Return the index in `names` of the split of each group with known images."""
    kept: dict[bytes, int] = {}
    for sample in samples:
        if (name := known.get(sample.digest)) in names:
            kept[sample.group] = min(names.index(name), kept.get(sample.group, len(names)))
    return kept


def _split_train(
    samples: Sequence[Sample], n_labels: int, shares: Sequence[float], seed: int, kept: Mapping[bytes, int]
) -> list[list[Sample]]:
    """Split the samples into [train, *new splits] without splitting a group: label by label, the rarest first.

    A group with several labels is assigned by its rarest label and counts for its other labels too.

    Args:
        shares: of each new split.
        kept: the index of the split of groups that keep theirs.
    """
    groups: dict[bytes, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.group].append(sample)
    # By digest, not by name: the same images split the same way on every machine.
    order = sorted(groups, key=lambda group: hashlib.sha256(seed.to_bytes(4, "big") + group).digest())
    counts = {group: Counter(label for sample in groups[group] for label in sample.labels or (n_labels,)) for group in order}
    groups_with: dict[int, list[bytes]] = defaultdict(list)
    for group in order:
        for label in counts[group]:
            groups_with[label].append(group)
    split_of: dict[bytes, int] = dict(kept)
    for label in sorted(groups_with, key=lambda label: (len(groups_with[label]), label)):
        _assign_splits({group: counts[group][label] for group in groups_with[label]}, split_of, shares)
    return [
        [sample for group in order if split_of[group] == index for sample in groups[group]] for index in range(len(shares) + 1)
    ]


def _check_coverage(dataset: Dataset, splits: dict[str, tuple[Sample, ...]]) -> None:
    """Raise DatasetError if a label is missing from a split, which happens only with multi-label groups."""
    for name, samples in splits.items():
        present = {label for sample in samples for label in sample.labels}
        if missing := [label_name for label, label_name in enumerate(dataset.labels) if label not in present]:
            raise DatasetError(
                f"No split keeps all groups together and has images of {', '.join(missing[:10])} in {name}:"
                " try another --seed or smaller groups, or define the splits yourself."
            )


def _assign_splits(sizes: dict[bytes, int], split_of: dict[bytes, int], shares: Sequence[float]) -> None:
    """Assign the unassigned groups of one label: to splits 1 to S until each has its share, the rest to split 0 (train).

    Args:
        sizes: the number of images with this label in each of its groups, in assignment order.
        split_of: the split index of each assigned group; updated in place.
        shares: of the splits 1 to S.
    """
    unassigned = [group for group in sizes if group not in split_of]
    for split_index, share in enumerate(shares, 1):
        target = max(1, round(share * sum(sizes.values())))
        n_assigned = sum(size for group, size in sizes.items() if split_of.get(group) == split_index)
        missing = {other: 1 if other else MIN_TRAIN_IMAGES for other in range(len(shares) + 1) if other != split_index}
        for group in sizes:
            if (other := split_of.get(group)) in missing:
                missing[other] -= 1
        n_spare = len(unassigned) - sum(max(0, n_missing) for n_missing in missing.values())
        candidates = [(group, sizes[group]) for group in unassigned]
        selected = _select_groups(candidates, target - n_assigned, n_spare, require_one=n_assigned == 0)
        split_of |= dict.fromkeys(selected, split_index)
        unassigned = [group for group in unassigned if group not in split_of]
    split_of |= dict.fromkeys(unassigned, 0)


def _select_groups(groups: list[tuple[bytes, int]], capacity: int, max_groups: int, require_one: bool) -> list[bytes]:
    """Select up to `max_groups` groups, in order, that fit into `capacity` images.

    If no group fits and `require_one` is set, select the smallest.
    """
    selected: list[bytes] = []
    for group, size in groups:
        if size <= capacity and len(selected) < max_groups:
            selected.append(group)
            capacity -= size
    if not selected and require_one and max_groups > 0:
        return [min(groups, key=lambda group: group[1])[0]]
    return selected


def _shuffle(samples: list[Sample], seed: int) -> list[Sample]:
    ordered = sorted(samples, key=lambda sample: (sample.digest, sample.path))
    random.Random(seed).shuffle(ordered)
    return ordered

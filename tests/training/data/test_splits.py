"""No image is in two splits, and every label is in each."""

import hashlib
import os
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from graft.training.audit.image_scan import scan_images
from graft.training.data.dataset import Dataset, DatasetError, Sample, Source, scan
from graft.training.data.splits import Splits, assign_groups, split


def make_dataset(counts: dict[str, int], copies: int = 1, split_name: str = "") -> Dataset:
    """A data set without files: `copies` byte-identical samples of each of `counts[label]` images."""
    samples = []
    for label, name in enumerate(counts):
        for image in range(counts[name]):
            digest = hashlib.sha256(f"{name} {image}".encode()).digest()
            samples += [
                Sample(f"{split_name}{name}/{image}-{copy}.png", (label,), split_name, digest, digest) for copy in range(copies)
            ]
    return Dataset(Source(Path("/nowhere")), tuple(counts), tuple(samples))


def per_label(splits: Splits) -> dict[str, dict[int, int]]:
    return {name: dict(Counter(sample.label for sample in samples)) for name, samples in splits.to_dict().items()}


def digests(samples: tuple[Sample, ...]) -> set[bytes]:
    return {sample.digest for sample in samples}


def test_split_is_70_15_15_of_every_label():
    assert per_label(split(make_dataset({"cat": 100, "dog": 20}), seed=0)) == {
        "train": {0: 70, 1: 14},
        "validation": {0: 15, 1: 3},
        "test": {0: 15, 1: 3},
    }


def test_every_sample_is_in_exactly_one_split():
    dataset = make_dataset({"cat": 37, "dog": 11}, copies=2)
    splits = split(dataset, seed=0)
    paths = [sample.path for samples in splits.to_dict().values() for sample in samples]
    assert sorted(paths) == sorted(sample.path for sample in dataset.samples)


def test_same_seed_makes_the_same_split():
    dataset = make_dataset({"cat": 50, "dog": 50})
    assert split(dataset, seed=5) == split(dataset, seed=5)


def test_another_seed_makes_another_split():
    dataset = make_dataset({"cat": 50, "dog": 50})
    assert digests(split(dataset, seed=0).test) != digests(split(dataset, seed=1).test)


def test_split_does_not_depend_on_file_names(make_folder):
    folder = make_folder({"cat": 20, "dog": 20})
    before = split(scan_images(scan(folder))[0], seed=0)
    for number, path in enumerate(sorted(folder.rglob("*.png"), reverse=True)):
        os.rename(path, path.with_name(f"renamed-{number * 7919 % 101}.png"))
    after = split(scan_images(scan(folder))[0], seed=0)
    for name, samples in before.to_dict().items():
        assert [sample.digest for sample in samples] == [sample.digest for sample in after.to_dict()[name]]


def test_identical_images_are_in_one_split():
    splits = split(make_dataset({"cat": 20, "dog": 20}, copies=3), seed=0)
    train, validation, test = digests(splits.train), digests(splits.validation), digests(splits.test)
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_smallest_possible_label_is_in_every_split():
    assert per_label(split(make_dataset({"cat": 100, "dog": 4}), seed=0)) == {
        "train": {0: 70, 1: 2},
        "validation": {0: 15, 1: 1},
        "test": {0: 15, 1: 1},
    }


def test_label_with_too_few_distinct_images_is_rejected():
    dataset = make_dataset({"cat": 20, "dog": 3}, copies=5)
    with pytest.raises(DatasetError, match=r"'dog' has 3 distinct images of 15 .*; at least 4 are needed"):
        split(dataset, seed=0)


def test_predefined_test_split_is_kept():
    train, test = (
        make_dataset({"cat": 20, "dog": 20}, split_name="train"),
        make_dataset({"cat": 4, "dog": 5}, split_name="test"),
    )
    other = tuple(Sample(s.path, s.labels, s.split, s.digest[::-1], s.group[::-1]) for s in test.samples)
    splits = split(Dataset(train.source, train.labels, train.samples + other), seed=0)
    assert splits.test == other
    assert per_label(splits)["train"] == {0: 17, 1: 17}
    assert {sample.split for sample in (*splits.train, *splits.validation)} == {"train"}


def test_shares_of_the_new_splits_can_be_chosen():
    dataset = make_dataset({"cat": 100, "dog": 20})
    assert per_label(split(dataset, 0, validation_share=0.1, test_share=0.3)) == {
        "train": {0: 60, 1: 12},
        "validation": {0: 10, 1: 2},
        "test": {0: 30, 1: 6},
    }


def with_groups(dataset: Dataset, size: int) -> Dataset:
    """The data set with groups of consecutive images of a label, as `--group-by` makes them."""
    counts: Counter[int] = Counter()
    samples = []
    for sample in dataset.samples:
        group = f"{sample.label}-{counts[sample.label] // size}".encode()
        counts[sample.label] += 1
        samples.append(replace(sample, group=group))
    return replace(dataset, samples=tuple(samples))


def torn_groups(grouped: Dataset, splits: Splits) -> list[bytes]:
    """The groups with images in more than one split."""
    split_of = {sample.path: name for name, samples in splits.to_dict().items() for sample in samples}
    found: dict[bytes, set[str]] = defaultdict(set)
    for sample in grouped.samples:
        found[sample.group].add(split_of[sample.path])
    return [group for group, names in found.items() if len(names) > 1]


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_the_user_are_never_torn_apart(seed):
    grouped = with_groups(make_dataset({"cat": 100, "dog": 100}), size=5)
    splits = split(assign_groups(grouped, []), seed)
    assert torn_groups(grouped, splits) == []
    assert min(map(len, splits.to_dict().values())) >= 20


@pytest.mark.parametrize("seed", range(5))
def test_near_duplicates_join_the_groups_of_both_images(seed):
    grouped = with_groups(make_dataset({"cat": 100, "dog": 100}), size=5)
    one, other = grouped.samples[0], grouped.samples[57]
    joined = [
        replace(sample, group=b"joined") if sample.group in (one.group, other.group) else sample for sample in grouped.samples
    ]
    splits = split(assign_groups(grouped, [(one.digest, other.digest)]), seed)
    assert torn_groups(replace(grouped, samples=tuple(joined)), splits) == []


def test_names_of_groups_do_not_change_the_split():
    dataset = make_dataset({"cat": 60, "dog": 60})
    grouped = with_groups(dataset, size=4)
    renamed = replace(grouped, samples=tuple(replace(sample, group=b"x" + sample.group[::-1]) for sample in grouped.samples))
    assert split(assign_groups(grouped, []), 3) == split(assign_groups(renamed, []), 3)

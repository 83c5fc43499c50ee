"""No image is in two splits, and every label is in each."""

import hashlib
import os
from collections import Counter
from pathlib import Path

import pytest

from graft.training.audit.image_scan import scan_images
from graft.training.data.dataset import Dataset, DatasetError, Sample, Source, scan
from graft.training.data.splits import Splits, split


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

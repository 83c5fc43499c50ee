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


def test_message_counts_the_images_that_can_be_split():
    train, test = make_dataset({"cat": 20, "dog": 2}), make_dataset({"cat": 5, "dog": 9}, split_name="test")
    dataset = replace(train, samples=train.samples + test.samples)
    with pytest.raises(DatasetError, match=r"^The label 'dog' has 2 distinct images; at least 3 are needed.$"):
        split(dataset, seed=0)
    dataset = replace(train, samples=tuple(sample for sample in train.samples if sample.path != "dog/1-0.png"))
    with pytest.raises(DatasetError, match=r"^The label 'dog' has 1 distinct image; at least 4 are needed.$"):
        split(dataset, seed=0)


def test_images_of_a_split_are_in_random_order():
    train = [[sample.digest for sample in split(make_dataset({"cat": 40}), seed, 0.5, 0.1).train] for seed in (0, 1)]
    assert all(digests != sorted(digests) and digests != sorted(digests, reverse=True) for digests in train)


def with_sizes(sizes: list[int]) -> Dataset:
    """One label with a group of each size, in single images."""
    dataset = make_dataset({"cat": sum(sizes)})
    groups = [number for number, size in enumerate(sizes) for _ in range(size)]
    samples = [replace(sample, group=bytes([group])) for sample, group in zip(dataset.samples, groups, strict=True)]
    return assign_groups(replace(dataset, samples=tuple(samples)), [])


def test_id_of_a_group_is_its_smallest_digest():
    grouped = with_sizes([3, 2])
    first, last = min(digests(grouped.samples[:3])), min(digests(grouped.samples[3:]))
    assert [sample.group for sample in grouped.samples] == [first] * 3 + [last] * 2


@pytest.mark.parametrize("seed", range(6))
def test_smallest_groups_are_held_out_if_none_fits(seed: int):
    splits = split(with_sizes([9, 5, 6, 7]), seed)  # 15 % of 27 images are 4
    assert [len(samples) for samples in splits.to_dict().values()] == [9 + 7, 5, 6]


@pytest.mark.parametrize("seed", range(6))
def test_rare_label_of_several_is_in_every_split(seed: int):
    dataset = make_dataset({"cat": 40})
    samples = [replace(sample, labels=(0, 1)) if number < 4 else sample for number, sample in enumerate(dataset.samples)]
    splits = split(replace(dataset, labels=("cat", "tail"), samples=tuple(samples)), seed)
    counts = [sum(1 in sample.labels for sample in samples) for samples in splits.to_dict().values()]
    assert counts == [2, 1, 1]
    assert [len(samples) for samples in splits.to_dict().values()] == [28, 6, 6]


@pytest.mark.parametrize(
    "known",
    [
        ["test"],
        ["validation"],
        ["train"],
        ["train", "train"],
        ["test", "validation"],
        ["train", "test"],
        ["train", "train", "validation"],
        ["train", "test", "validation"],
        ["train", "train", "test", "validation"],
    ],
)
def test_known_images_keep_their_split_and_new_ones_fill_the_others(known: list[str]):
    dataset = make_dataset({"cat": 4})
    names = {sample.digest: name for sample, name in zip(dataset.samples, known, strict=False)}
    splits = split(dataset, seed=0, known=names)
    assert per_label(splits) == {"train": {0: 2}, "validation": {0: 1}, "test": {0: 1}}
    assert all(names.get(sample.digest, name) == name for name, samples in splits.to_dict().items() for sample in samples)


def test_large_shares_leave_two_images_to_learn_from():
    dataset = make_dataset({"cat": 4})
    for known in ({}, {dataset.samples[0].digest: "train"}):
        splits = split(dataset, 0, validation_share=0.5, test_share=0.4, known=known)
        assert per_label(splits) == {"train": {0: 2}, "validation": {0: 1}, "test": {0: 1}}


def test_known_images_count_for_the_shares():
    dataset = make_dataset({"cat": 100})
    names = {sample.digest: "test" for sample in dataset.samples[:40]} | {dataset.samples[50].digest: "validation"}
    splits = split(dataset, seed=0, known=names)
    assert per_label(splits) == {"train": {0: 45}, "validation": {0: 15}, "test": {0: 40}}
    assert digests(splits.test) == {sample.digest for sample in dataset.samples[:40]}


def test_known_group_in_two_splits_is_learned_from():
    grouped = with_sizes([3, 3, 3, 3, 3, 3])
    names = {grouped.samples[0].digest: "test", grouped.samples[1].digest: "train", grouped.samples[2].digest: "validation"}
    assert digests(grouped.samples[:3]) < digests(split(grouped, seed=0, known=names).train)
    names = {grouped.samples[0].digest: "test", grouped.samples[1].digest: "validation", grouped.samples[4].digest: "other"}
    assert digests(grouped.samples[:3]) <= digests(split(grouped, seed=0, known=names).validation)


def test_known_images_may_leave_too_few_for_the_other_splits():
    dataset = make_dataset({"cat": 4})
    names = {sample.digest: "test" for sample in dataset.samples[:2]}
    with pytest.raises(DatasetError, match="No split keeps all groups together and has images of cat in validation"):
        split(dataset, seed=0, known=names)


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

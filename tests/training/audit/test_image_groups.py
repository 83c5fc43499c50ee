"""Bursts found by names and features: what they do to the splits, and what is said about them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from graft.training.audit.image_groups import find_groups
from graft.training.audit.image_scan import NO_THUMBNAIL, SCAN_DTYPE, ScanTable, UnreadableFile
from graft.training.config.read_options import ReadOptions
from graft.training.data.dataset import Dataset, Sample, Source
from graft.training.data.findings import Finding
from graft.training.data.splits import assign_groups
from graft.training.features.extraction import Features

BURST = 4  # images


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


def make(n_bursts: int, folder: str = "") -> tuple[Dataset, ScanTable, Features]:
    """Two labels of bursts of BURST small photos each, numbered in order, with vectors that are alike within a burst."""
    random, n = np.random.default_rng(0), 2 * n_bursts * BURST
    centers = random.standard_normal((2, 1, 32)) + 2 * random.standard_normal((2, n_bursts, 32))
    vectors = np.repeat(centers.reshape(-1, 32), BURST, axis=0) + 0.1 * random.standard_normal((n, 32))
    samples = [
        Sample(f"{folder}{'ab'[row * 2 // n]}/{row:03}.jpg", (row * 2 // n,), "", digest(row), digest(row)) for row in range(n)
    ]
    thumbnails = np.zeros((n, *NO_THUMBNAIL.shape), np.uint8)
    table = ScanTable(np.zeros(n, SCAN_DTYPE), thumbnails, {}, {})
    index = {sample.digest: row for row, sample in enumerate(samples)}
    features = Features(index, vectors.astype(np.float16), {"last": slice(0, 32)}, {}, 0)
    return Dataset(Source(Path("/nowhere")), ("a", "b"), tuple(samples)), table, features


def sizes_of_groups(dataset: Dataset, pairs) -> list[int]:
    groups = [sample.group for sample in assign_groups(dataset, pairs).samples]
    return sorted(groups.count(group) for group in set(groups))


def of_kind(findings: list[Finding], kind: str) -> list[Finding]:
    return [finding for finding in findings if finding.kind == kind]


@pytest.mark.parametrize("options", [ReadOptions(), ReadOptions(group_by="auto")])
def test_images_of_a_burst_are_one_group(options: ReadOptions):
    dataset, table, features = make(10)
    pairs, findings = find_groups(dataset, table, features, [], options)
    assert sizes_of_groups(dataset, pairs) == [BURST] * 20
    [note] = findings
    text = "these look like 20 bursts of 4 photos: images of a burst stay in one split; --group-by none if they should not"
    assert (note.kind, note.severity, note.text) == ("bursts", "note", text)


@pytest.mark.parametrize("options", [ReadOptions(group_by="none"), ReadOptions(group_by=r"(\d)")])
def test_bursts_are_not_looked_for_if_groups_are_declared_or_turned_off(options: ReadOptions):
    assert find_groups(*make(10), [], options) == ((), [])


def test_bursts_are_not_looked_for_if_the_samples_have_groups():
    dataset, table, features = make(10)
    samples = (replace(dataset.samples[0], group=digest(1)), *dataset.samples[1:])
    assert find_groups(replace(dataset, samples=samples), table, features, [], ReadOptions()) == ((), [])


def test_too_few_bursts_for_the_splits_are_ignored_unless_they_are_asked_for():
    dataset, table, features = make(3)
    pairs, [warning] = find_groups(dataset, table, features, [], ReadOptions())
    assert (pairs, warning.kind, warning.severity) == ((), "bursts", "warning")
    assert warning.text.endswith("too few for the splits: ignored, unless --group-by auto is given")
    pairs, [note] = find_groups(dataset, table, features, [], ReadOptions(group_by="auto"))
    assert (sizes_of_groups(dataset, pairs)[-1], note.severity) == (BURST, "note")


def test_bursts_in_several_given_splits_are_a_warning():
    dataset, table, features = make(10)
    split_of = dict.fromkeys((0, 1, 7, 40), "test") | dict.fromkeys(range(76, 80), "validation")
    samples = [replace(sample, split=split_of.get(row, "train")) for row, sample in enumerate(dataset.samples)]
    _, findings = find_groups(replace(dataset, samples=tuple(samples)), table, features, [], ReadOptions())
    [leak] = of_kind(findings, "burst-leak")
    assert leak.severity == "warning"
    assert leak.text.startswith(
        "3 bursts are in several splits (8 images in train and 4 images in test), so the scores are too good"
    )
    assert leak.paths == tuple(samples[row].path for row in (0, 1, 2, 3, 4, 5, 6, 7, 40, 41, 42, 43))


def test_bursts_in_one_split_each_are_no_leak():
    dataset, table, features = make(10)
    samples = [replace(sample, split="test" if row < 4 else "") for row, sample in enumerate(dataset.samples)]
    _, findings = find_groups(replace(dataset, samples=tuple(samples)), table, features, [], ReadOptions())
    assert of_kind(findings, "burst-leak") == []


def test_images_without_features_and_unusable_files_are_passed_over():
    dataset, table, features = make(10)
    table = replace(table, unreadable={dataset.samples[0].path: UnreadableFile("corrupt_image", "broken")})
    features = replace(features, row_index={key: row for key, row in features.row_index.items() if row != 9})
    pairs, _ = find_groups(dataset, table, features, [], ReadOptions())
    assert sizes_of_groups(dataset, pairs) == [1, 1, 3, 3] + [BURST] * 18


def test_near_copies_of_the_scan_are_kept_and_their_findings_are_made_again():
    dataset, table, features = make(10)
    table = replace(table, near_duplicates=((digest(0), digest(50)),))
    old = [Finding("near-copies", "note", "old"), Finding("other", "note", "kept")]
    pairs, findings = find_groups(dataset, table, features, old, ReadOptions(group_by="none"))
    assert pairs == ((digest(0), digest(50)),)
    assert Finding("other", "note", "kept") in findings
    pairs, _ = find_groups(dataset, table, features, old, ReadOptions())
    assert sizes_of_groups(dataset, pairs) == [BURST] * 18 + [2 * BURST]

"""Leaks and contradictions are found by content, and nothing is learned from them unasked."""

import shutil
from pathlib import Path

import pytest

from training.audit import audit, settled
from training.dataset import DatasetError, scan
from training.looks import examine

TWO_PARTS = {"train/cat": 3, "train/dog": 3, "test/cat": 2, "test/dog": 2}


@pytest.fixture
def leaky(make_folder) -> Path:
    folder = make_folder(TWO_PARTS)
    shutil.copy(folder / "train/cat/001.png", folder / "test/cat/copy.png")
    return folder


@pytest.fixture
def contradictory(make_folder) -> Path:
    folder = make_folder({"cat": 4, "dog": 4})
    shutil.copy(folder / "cat/001.png", folder / "dog/copy.png")
    return folder


def test_clean_folder_has_no_findings(make_folder):
    assert audit(examine(scan(make_folder(TWO_PARTS)))[0]) == []


def test_copies_within_one_label_and_part_are_no_finding(make_folder):
    folder = make_folder({"cat": 4, "dog": 4})
    shutil.copy(folder / "cat/001.png", folder / "cat/copy.png")
    assert audit(examine(scan(folder))[0]) == []


def test_image_to_learn_from_and_held_out_is_a_leak(leaky: Path):
    [finding] = audit(examine(scan(leaky))[0])
    assert finding.text == "one image to learn from and held out: test/cat/copy.png, train/cat/001.png"


def test_leak_is_mended_by_not_learning_from_it(leaky: Path):
    [finding] = audit(examine(scan(leaky))[0])
    assert finding.drop == ("train/cat/001.png",)


def test_image_under_two_labels_is_a_contradiction(contradictory: Path):
    [finding] = audit(examine(scan(contradictory))[0])
    assert finding.text == "one image under two labels: cat/001.png, dog/copy.png"


def test_contradiction_is_mended_by_leaving_out_both_sides(contradictory: Path):
    [finding] = audit(examine(scan(contradictory))[0])
    assert finding.drop == ("cat/001.png", "dog/copy.png")


def test_findings_stop_the_run_and_are_shown(leaky: Path):
    with pytest.raises(DatasetError, match=r"(?s)1 findings.*train/cat/001\.png.*--drop-duplicates"):
        settled(examine(scan(leaky))[0], drop_duplicates=False)


def test_only_ten_of_many_findings_are_shown(make_folder):
    folder = make_folder({"cat": 12, "dog": 1})
    for image in sorted((folder / "cat").iterdir()):
        shutil.copy(image, folder / "dog" / f"copy-{image.name}")
    with pytest.raises(DatasetError, match="12 findings") as refused:
        settled(examine(scan(folder))[0], drop_duplicates=False)
    assert str(refused.value).count("under two labels") == 10


def test_findings_are_dropped_when_allowed(leaky: Path):
    dataset, findings = settled(examine(scan(leaky))[0], drop_duplicates=True)
    paths = {sample.path for sample in dataset.samples}
    assert (len(paths), len(findings)) == (10, 1)
    assert "train/cat/001.png" not in paths


def test_clean_data_passes_whole(make_folder):
    dataset = examine(scan(make_folder(TWO_PARTS)))[0]
    assert settled(dataset, drop_duplicates=False) == (dataset, [])

"""What would make the numbers lie stops a fit, all of it is shown, and what a person allows is left out, on record."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from training.audit import audit, settled
from training.dataset import Dataset, DatasetError, scan
from training.findings import Finding
from training.looks import examine

TWO_PARTS = {"train/cat": 12, "train/dog": 12, "test/cat": 6, "test/dog": 6}


def audited(folder: Path) -> tuple[Dataset, list[Finding]]:
    dataset, looks = examine(scan(folder))
    return dataset, audit(dataset, looks)


def kinds(findings: list[Finding], severity: str) -> list[str]:
    return [finding.kind for finding in findings if finding.severity == severity]


@pytest.fixture
def leaky(make_folder) -> Path:
    folder = make_folder(TWO_PARTS)
    shutil.copy(folder / "train/cat/000.png", folder / "test/cat/leak.png")
    return folder


@pytest.fixture
def contradictory(make_folder) -> Path:
    folder = make_folder(TWO_PARTS)
    shutil.copy(folder / "train/cat/000.png", folder / "train/dog/copy.png")
    return folder


def test_clean_folder_has_no_errors(make_folder):
    assert kinds(audited(make_folder(TWO_PARTS))[1], "error") == []


def test_image_to_learn_from_and_held_out_is_a_leak(leaky: Path):
    _, findings = audited(leaky)
    [leak] = [finding for finding in findings if finding.severity == "error"]
    assert (leak.kind, leak.flag) == ("leak", "--drop-duplicates")
    assert set(leak.paths) == {"train/cat/000.png", "test/cat/leak.png"}


def test_leak_is_mended_by_not_learning_from_it(leaky: Path):
    dataset, findings = audited(leaky)
    kept, left_out = settled(dataset, findings, skip_bad=False, drop_duplicates=True)
    assert left_out == {"train/cat/000.png": "leak"}
    assert len(kept.samples) == len(dataset.samples) - 1


def test_contradiction_is_mended_by_leaving_out_both_sides(contradictory: Path):
    dataset, findings = audited(contradictory)
    assert kinds(findings, "error") == ["conflict"]
    _, left_out = settled(dataset, findings, skip_bad=False, drop_duplicates=True)
    assert set(left_out) == {"train/cat/000.png", "train/dog/copy.png"}


def test_errors_stop_the_run_and_name_the_way_out(leaky: Path):
    with pytest.raises(DatasetError, match=r"leak\.png") as refused:
        settled(*audited(leaky), skip_bad=True, drop_duplicates=False)
    assert "--drop-duplicates" in str(refused.value)


def test_damaged_file_is_left_out_when_allowed(make_folder):
    folder = make_folder({"cat": 24, "dog": 24})
    whole = (folder / "cat/000.png").read_bytes()
    (folder / "cat/000.png").write_bytes(whole[: len(whole) // 2])
    dataset, findings = audited(folder)
    with pytest.raises(DatasetError, match=r"cat/000\.png"):
        settled(dataset, findings, skip_bad=False, drop_duplicates=False)
    _, left_out = settled(dataset, findings, skip_bad=True, drop_duplicates=False)
    assert list(left_out) == ["cat/000.png"]


def test_more_than_one_in_twenty_damaged_stops_even_so(make_folder):
    folder = make_folder({"cat": 10, "dog": 10})
    for number in range(3):
        (folder / f"cat/00{number}.png").write_bytes(b"no image")
    with pytest.raises(DatasetError):
        settled(*audited(folder), skip_bad=True, drop_duplicates=False)


def test_the_same_picture_in_another_format_is_a_near_copy(make_folder, encode):
    photo = np.kron(np.random.default_rng(5).integers(0, 256, (8, 8, 3), dtype=np.uint8), np.ones((20, 20, 1), np.uint8))
    folder = make_folder({"cat": 12, "dog": 12})
    (folder / "cat/a.png").write_bytes(encode(photo))
    (folder / "cat/b.jpg").write_bytes(encode(photo, "JPEG", quality=90))
    assert "near-duplicate" in {finding.kind for finding in audited(folder)[1]}

"""`graft check` on a folder with every kind of issue, and on a clean folder."""

import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft.training.cli.main import main
from graft.training.config.recipe import Recipe
from graft.training.pipelines import check
from graft.training.sample import SAMPLE

LABELS = ("bag", "trouser", "sneaker")


def pixels(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


@pytest.fixture(scope="module")
def clothes(tmp_path_factory) -> Path:
    """120 color images of three labels that are easy to separate, large enough for every check."""
    folder = tmp_path_factory.mktemp("clean") / "clothes"
    with zipfile.ZipFile(SAMPLE) as archive:
        for label in LABELS:
            for part, numbers in (("train", range(1, 31)), ("test", range(1, 11))):
                (folder / part / label).mkdir(parents=True, exist_ok=True)
                for number in numbers:
                    small = Image.open(io.BytesIO(archive.read(f"{part}/{label}/{number:03d}.png"))).convert("RGB")
                    tinted = np.asarray(small.resize((96, 96), Image.Resampling.BICUBIC)) * np.array([1.0, 0.9, 0.8])
                    Image.fromarray(tinted.astype(np.uint8)).save(folder / part / label / f"{number:03d}.jpg", quality=95)
    return folder


def plant(folder: Path) -> dict[str, str]:
    """Adds one file for each kind of finding to a folder; returns the files by kind."""
    train, test = folder / "train", folder / "test"
    bag = train / "bag"
    image = Image.open(bag / "001.jpg")
    (bag / "cut.jpg").write_bytes((bag / "002.jpg").read_bytes()[:700])
    (bag / "empty.jpg").write_bytes(b"")
    (bag / "sketch.jpg").write_bytes(b"\xff\xd8\xff\xe0 this is no picture")
    image.save(bag / "really-a-png.jpg", "PNG", compress_level=3)
    shutil.copy(train / "trouser/003.jpg", train / "sneaker/twin.jpg")
    shutil.copy(train / "trouser/004.jpg", test / "trouser/copy.jpg")
    shutil.copy(train / "bag/005.jpg", train / "bag/005-again.jpg")
    Image.open(train / "bag/006.jpg").save(train / "bag/006-saved-again.jpg", quality=80)
    Image.open(train / "sneaker/007.jpg").resize((90, 90)).save(test / "sneaker/smaller.jpg", quality=90)
    Image.open(train / "bag/008.jpg").save(train / "trouser/008-saved-again.jpg", quality=80)
    Image.fromarray(np.full((96, 96, 3), 200, np.uint8)).save(bag / "blank.png")
    Image.open(bag / "009.jpg").resize((12, 12)).save(bag / "tiny.png")
    Image.fromarray(np.tile(pixels((bag / "010.jpg").read_bytes()), (1, 12, 1))).save(bag / "long.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(bag / "011.jpg").save(bag / "turned.jpg", quality=90, exif=exif)
    Image.open(bag / "012.jpg").convert("RGBA").save(bag / "see-through.png")
    Image.open(bag / "013.jpg").convert("L").save(bag / "gray.png")
    Image.open(bag / "014.jpg").convert("CMYK").save(bag / "print.jpg", quality=90)
    (bag / "notes.txt").write_text("bought in May")
    (train / "Bag").mkdir()
    shutil.copy(train / "bag/015.jpg", train / "Bag/other.jpg")
    (train / "hat").mkdir()
    os.symlink("nowhere.jpg", bag / "lost.jpg")
    os.symlink(train, bag / "loop")
    Image.open(train / "trouser/016.jpg").rotate(3).save(train / "sneaker/mislabeled.jpg", quality=95)
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(train / "trouser/noise.png")
    return {
        "unreadable": "train/bag/cut.jpg",
        "empty-file": "train/bag/empty.jpg",
        "wrong-extension": "train/bag/really-a-png.jpg",
        "conflict": "train/sneaker/twin.jpg",
        "leak": "test/trouser/copy.jpg",
        "duplicate": "train/bag/005-again.jpg",
        "near-duplicate": "train/bag/006-saved-again.jpg",
        "near-leak": "test/sneaker/smaller.jpg",
        "near-conflict": "train/trouser/008-saved-again.jpg",
        "blank": "train/bag/blank.png",
        "tiny-image": "train/bag/tiny.png",
        "extreme-aspect": "train/bag/long.png",
        "rotated": "train/bag/turned.jpg",
        "transparent": "train/bag/see-through.png",
        "gray-among-color": "train/bag/gray.png",
        "cmyk": "train/bag/print.jpg",
        "ignored": "train/bag/notes.txt",
        "broken-link": "train/bag/lost.jpg",
        "link-loop": "train/bag/loop",
        "label-error": "train/sneaker/mislabeled.jpg",
        "outlier": "train/trouser/noise.png",
    }


@pytest.fixture(scope="module")
def spoiled(cache, clothes: Path, tmp_path_factory) -> tuple[check.AuditReport, dict[str, str]]:
    folder = tmp_path_factory.mktemp("spoiled") / "clothes"
    shutil.copytree(clothes, folder)
    planted = plant(folder)
    return check.check(folder, Recipe()), planted


def test_finds_every_planted_issue(spoiled):
    report, planted = spoiled
    found = {(finding.kind, path) for finding in report.findings for path in finding.paths}
    assert len(planted) >= 15
    assert [kind for kind, path in planted.items() if (kind, path) not in found] == []


def test_finds_issues_without_files(spoiled):
    kinds = {finding.kind for finding in spoiled[0].findings}
    assert {"name-collision", "empty-folder", "tiny-class", "too-few", "imbalance"} <= kinds


def test_findings_are_sorted_by_severity(spoiled):
    severities = [finding.severity for finding in spoiled[0].findings]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)


def test_clean_folder_has_no_findings(cache, clothes: Path):
    report = check.check(clothes, Recipe())
    assert report.findings == ()
    assert check.summary(report).startswith("no issues in 120 images")
    assert check.next_command(report, clothes) == f"graft fit {clothes}"


def test_check_does_not_write_into_the_data_folder(cache, clothes: Path):
    before = sorted((path, path.stat().st_mtime_ns) for path in clothes.rglob("*"))
    check.check(clothes, Recipe())
    assert sorted((path, path.stat().st_mtime_ns) for path in clothes.rglob("*")) == before


def test_no_vectors_skips_the_backbone(clothes: Path, monkeypatch):
    monkeypatch.setattr(check.onnx_cache, "load_or_export", None)
    assert check.check(clothes, Recipe(), use_features=False).findings == ()


def test_page_shows_affected_images(spoiled):
    report, _ = spoiled
    page = check.to_html(report)
    assert "train/sneaker/twin.jpg" in page
    assert page.count("<img") > 10


def test_errors_exit_with_1_and_suggest_the_next_command(cache, clothes: Path, tmp_path: Path, capsys):
    shutil.copytree(clothes, tmp_path / "clothes")
    shutil.copy(clothes / "train/bag/001.jpg", tmp_path / "clothes/test/bag/copy.jpg")
    assert main(["check", str(tmp_path / "clothes"), "--no-vectors"]) == 1
    output = capsys.readouterr().out
    assert "error: duplicates across train and test" in output
    assert f"next: graft fit {tmp_path / 'clothes'} --drop-duplicates" in output


def test_warnings_exit_with_0(cache, clothes: Path, tmp_path: Path, capsys):
    shutil.copytree(clothes, tmp_path / "clothes")
    shutil.copy(clothes / "train/bag/001.jpg", tmp_path / "clothes/train/bag/copy.jpg")
    assert main(["check", str(tmp_path / "clothes"), "--no-vectors", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["errors"], result["warnings"], result["images"]) == (0, 1, 121)
    assert result["findings"][0]["kind"] == "duplicate"


def test_report_is_written_to_the_requested_file(cache, clothes: Path, tmp_path: Path, capsys):
    assert main(["check", str(clothes), "--no-vectors", "--report", str(tmp_path / "check.html")]) == 0
    assert (tmp_path / "check.html").read_text().startswith("<!doctype html>")
    assert f"report: {tmp_path / 'check.html'}" in capsys.readouterr().out


@pytest.fixture(scope="module")
def swapped(cache, clothes: Path, tmp_path_factory) -> tuple[Path, set[str]]:
    """A copy of the folder in which two images have each other's label, and the paths of these."""
    folder = Path(shutil.copytree(clothes, tmp_path_factory.mktemp("swapped") / "clothes"))
    one, other = folder / "train/bag/001.jpg", folder / "train/sneaker/001.jpg"
    encoded = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(encoded)
    return folder, {"train/bag/001.jpg", "train/sneaker/001.jpg"}


def test_list_of_label_errors_is_as_long_as_requested(swapped):
    folder, wrong = swapped
    report = check.check(folder, Recipe(), max_label_issues=7)
    listed = [path for finding in report.findings if finding.kind == "label-error" for path in finding.paths]
    assert len(listed) == 7
    assert wrong <= set(listed)


def test_json_has_the_probability_of_every_label(swapped, capsys):
    folder, wrong = swapped
    assert main(["check", str(folder), "--json", "--max-label-issues", "3"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["label_errors"]["checked"] == len(result["label_errors"]["images"]) == result["images"]
    assert wrong <= {image["path"] for image in result["label_errors"]["images"][:7]}
    assert sum(finding["kind"] == "label-error" for finding in result["findings"]) == 3


def test_number_of_label_errors_is_shown_everywhere(swapped, tmp_path: Path, capsys):
    folder, _ = swapped
    assert main(["check", str(folder), "--report", str(tmp_path / "check.html")]) == 0
    sentence = check.check(folder, Recipe()).ranking.to_text()
    assert sentence.startswith("estimated: about ")
    assert sentence in capsys.readouterr().out
    assert sentence in (tmp_path / "check.html").read_text(encoding="utf-8")

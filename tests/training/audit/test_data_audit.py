"""Data audit: errors stop a fit, all of them are reported, and files excluded by a flag are recorded."""

import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest

from graft.training.audit.data_audit import apply_exclusions, audit
from graft.training.audit.image_scan import scan_images
from graft.training.config.read_options import ReadOptions
from graft.training.data.dataset import Dataset, DatasetError, scan
from graft.training.data.findings import Finding
from graft.training.data.splits import assign_groups, split

TWO_SPLITS = {"train/cat": 12, "train/dog": 12, "test/cat": 6, "test/dog": 6}


def audited(folder: Path) -> tuple[Dataset, list[Finding]]:
    dataset, scanned = scan_images(scan(folder))
    return dataset, audit(dataset, scanned)


def kinds(findings: list[Finding], severity: str) -> list[str]:
    return [finding.kind for finding in findings if finding.severity == severity]


@pytest.fixture
def leaky(make_folder) -> Path:
    folder = make_folder(TWO_SPLITS)
    shutil.copy(folder / "train/cat/000.png", folder / "test/cat/leak.png")
    return folder


@pytest.fixture
def conflicting(make_folder) -> Path:
    folder = make_folder(TWO_SPLITS)
    shutil.copy(folder / "train/cat/000.png", folder / "train/dog/copy.png")
    return folder


def test_clean_folder_has_no_errors(make_folder):
    assert kinds(audited(make_folder(TWO_SPLITS))[1], "error") == []


def test_duplicate_in_train_and_test_is_a_leak(leaky: Path):
    _, findings = audited(leaky)
    [leak] = [finding for finding in findings if finding.severity == "error"]
    assert (leak.kind, leak.flag) == ("leak", "--drop-duplicates")
    assert set(leak.paths) == {"train/cat/000.png", "test/cat/leak.png"}


def test_leak_is_fixed_by_excluding_the_training_copy(leaky: Path):
    dataset, findings = audited(leaky)
    kept, excluded = apply_exclusions(dataset, findings, skip_bad=False, drop_duplicates=True)
    assert excluded == {"train/cat/000.png": "leak"}
    assert len(kept.samples) == len(dataset.samples) - 1


def test_conflicting_labels_are_fixed_by_excluding_both_files(conflicting: Path):
    dataset, findings = audited(conflicting)
    assert kinds(findings, "error") == ["conflict"]
    _, excluded = apply_exclusions(dataset, findings, skip_bad=False, drop_duplicates=True)
    assert set(excluded) == {"train/cat/000.png", "train/dog/copy.png"}


def test_errors_stop_the_run_and_name_the_remedy(leaky: Path):
    with pytest.raises(DatasetError, match=r"leak\.png") as raised:
        apply_exclusions(*audited(leaky), skip_bad=True, drop_duplicates=False)
    assert "--drop-duplicates" in str(raised.value)


def test_damaged_file_is_excluded_if_allowed(make_folder):
    folder = make_folder({"cat": 24, "dog": 24})
    content = (folder / "cat/000.png").read_bytes()
    (folder / "cat/000.png").write_bytes(content[: len(content) // 2])
    dataset, findings = audited(folder)
    with pytest.raises(DatasetError, match=r"cat/000\.png"):
        apply_exclusions(dataset, findings, skip_bad=False, drop_duplicates=False)
    _, excluded = apply_exclusions(dataset, findings, skip_bad=True, drop_duplicates=False)
    assert list(excluded) == ["cat/000.png"]


def test_more_than_five_percent_damaged_stop_the_fit_even_if_allowed(make_folder):
    folder = make_folder({"cat": 10, "dog": 10})
    for number in range(3):
        (folder / f"cat/00{number}.png").write_bytes(b"no image")
    with pytest.raises(DatasetError):
        apply_exclusions(*audited(folder), skip_bad=True, drop_duplicates=False)


def test_same_image_in_another_format_is_a_near_duplicate(make_folder, encode):
    photo = np.kron(np.random.default_rng(5).integers(0, 256, (8, 8, 3), dtype=np.uint8), np.ones((20, 20, 1), np.uint8))
    folder = make_folder({"cat": 12, "dog": 12})
    (folder / "cat/a.png").write_bytes(encode(photo))
    (folder / "cat/b.jpg").write_bytes(encode(photo, "JPEG", quality=90))
    assert "near-duplicate" in {finding.kind for finding in audited(folder)[1]}


def header(width: int, height: int) -> bytes:
    """A PNG with a header of this size and no pixels."""
    ihdr = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    chunks = ((13, ihdr), (0, b"IDAT"), (0, b"IEND"))
    written = [length.to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") for length, chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


@pytest.mark.parametrize(
    ("name", "content", "kind", "reason"),
    [
        ("empty.jpg", b"", "empty-file", "The image file is empty"),
        ("text.jpg", b"no image at all", "unsupported-format", "not"),
        ("phone.heic", b"\0\0\0\x18ftypheic" + bytes(64), "unsupported-format", "HEIC"),
        ("map.png", header(20_000, 20_000), "over-limits", "20000x20000"),
        ("bomb.png", header(9_000, 9_000), "over-limits", "9000x9000"),
        ("thread.png", header(5_000, 10), "over-limits", "5000x10"),
        ("cut.png", header(40, 40), "unreadable", "damaged"),
    ],
)
def test_file_that_cannot_be_used_is_an_error_with_path_and_reason(
    make_folder, name: str, content: bytes, kind: str, reason: str
):
    folder = make_folder({"cat": 12, "dog": 12})
    (folder / "cat" / name).write_bytes(content)
    [error] = [finding for finding in audited(folder)[1] if finding.severity == "error"]
    assert (error.kind, error.paths, error.drop, error.flag) == (kind, (f"cat/{name}",), (f"cat/{name}",), "--skip-bad")
    assert error.text.startswith(f"cat/{name}: ")
    assert reason in error.text


def test_five_percent_damaged_may_be_excluded(make_folder):
    folder = make_folder({"cat": 20, "dog": 20})
    for number in range(2):
        (folder / f"cat/00{number}.png").write_bytes(b"no image")
    _, excluded = apply_exclusions(*audited(folder), skip_bad=True, drop_duplicates=False)
    assert excluded == {"cat/000.png": "unsupported-format", "cat/001.png": "unsupported-format"}


def test_every_pair_with_conflicting_labels_is_listed(conflicting: Path):
    shutil.copy(conflicting / "train/cat/001.png", conflicting / "train/dog/other.png")
    conflicts = {f.text for f in audited(conflicting)[1] if f.kind == "conflict"}
    assert conflicts == {
        "duplicates with different labels: train/cat/000.png, train/dog/copy.png",
        "duplicates with different labels: train/cat/001.png, train/dog/other.png",
    }


def test_duplicates_with_the_same_label_are_only_a_warning(make_folder):
    folder = make_folder({"cat": 12, "dog": 12})
    shutil.copy(folder / "cat/000.png", folder / "cat/copy.png")
    [warning] = [finding for finding in audited(folder)[1] if finding.kind == "duplicate"]
    assert (warning.severity, warning.paths) == ("warning", ("cat/000.png", "cat/copy.png"))


@pytest.fixture
def near_duplicates(make_folder, encode) -> Path:
    """Train and test, and one image in both with different encodings."""
    picture = np.kron(np.random.default_rng(5).integers(0, 256, (8, 8, 3), dtype=np.uint8), np.ones((20, 20, 1), np.uint8))
    folder = make_folder(TWO_SPLITS)
    (folder / "train/cat/a.png").write_bytes(encode(picture))
    (folder / "test/cat/b.jpg").write_bytes(encode(picture, "JPEG", quality=90))
    return folder


def test_near_duplicate_across_train_and_test_is_an_error(near_duplicates: Path):
    dataset, findings = audited(near_duplicates)
    [leak] = [finding for finding in findings if finding.severity == "error"]
    assert (leak.kind, set(leak.paths)) == ("near-leak", {"train/cat/a.png", "test/cat/b.jpg"})
    with pytest.raises(
        DatasetError, match=r"near-duplicates across train and test: .*\n.*--drop-duplicates; .*--allow-near-leaks"
    ):
        apply_exclusions(dataset, findings, skip_bad=False, drop_duplicates=False)
    _, excluded = apply_exclusions(dataset, findings, skip_bad=False, drop_duplicates=True)
    assert excluded == {"train/cat/a.png": "near-leak"}


def test_allowed_near_duplicate_across_train_and_test_is_a_warning(near_duplicates: Path):
    dataset, scanned = scan_images(scan(near_duplicates))
    findings = audit(dataset, scanned, allow_near_leaks=True)
    [warning] = [finding for finding in findings if finding.kind == "near-leak"]
    assert (warning.severity, warning.drop) == ("warning", ())
    assert kinds(findings, "error") == []


def test_mirrored_image_is_a_near_duplicate(make_folder, encode):
    photo = np.kron(np.random.default_rng(6).integers(0, 256, (8, 8, 3), dtype=np.uint8), np.ones((20, 20, 1), np.uint8))
    folder = make_folder({"cat": 12, "dog": 12})
    (folder / "cat/a.png").write_bytes(encode(photo))
    (folder / "dog/b.jpg").write_bytes(encode(np.ascontiguousarray(photo[:, ::-1]), "JPEG", quality=90))
    [conflict] = [finding for finding in audited(folder)[1] if finding.kind == "near-conflict"]
    assert set(conflict.paths) == {"cat/a.png", "dog/b.jpg"}


def test_near_duplicate_with_another_label_in_another_split_is_a_leak_too(make_folder, encode):
    photo = np.kron(np.random.default_rng(7).integers(0, 256, (8, 8, 3), dtype=np.uint8), np.ones((20, 20, 1), np.uint8))
    folder = make_folder(TWO_SPLITS)
    (folder / "train/cat/a.png").write_bytes(encode(photo))
    (folder / "test/dog/b.jpg").write_bytes(encode(photo, "JPEG", quality=90))
    assert {"near-leak", "near-conflict"} <= {finding.kind for finding in audited(folder)[1]}


@pytest.mark.parametrize("seed", range(8))
def test_near_duplicates_stay_in_one_split(near_duplicates: Path, seed: int):
    merged = near_duplicates.parent / "merged"
    for label in ("cat", "dog"):
        shutil.copytree(near_duplicates / "train" / label, merged / label)
    shutil.copy(near_duplicates / "test/cat/b.jpg", merged / "cat/b.jpg")
    dataset, scanned = scan_images(scan(merged))
    splits = split(assign_groups(dataset, scanned.near_duplicates), seed).to_dict()
    pair = {"cat/a.png", "cat/b.jpg"}
    [name] = {name for name, samples in splits.items() if pair & {sample.path for sample in samples}}
    assert name in splits


def test_group_in_both_splits_is_a_leak(make_folder):
    folder = make_folder({"train/cat/p1": 12, "train/dog": 12, "test/cat/p1": 4, "test/dog": 4})
    (folder / "test/cat/p1").rename(folder / "test/cat/p1-later")
    dataset, scanned = scan_images(scan(folder, ReadOptions(group_by="(p1)")))
    [leak] = [finding for finding in audit(dataset, scanned) if finding.kind == "group-leak"]
    assert (leak.severity, leak.flag) == ("error", "--drop-duplicates")
    assert leak.text.startswith("one group in several splits (12 in train and 4 in test): ")


def test_all_problems_are_reported_at_once(conflicting: Path):
    (conflicting / "train/cat/empty.png").touch()
    (conflicting / "train/hen").mkdir()
    dataset, findings = audited(conflicting)
    assert set(kinds(findings, "error")) == {"conflict", "empty-file", "empty-folder"}
    with pytest.raises(DatasetError, match="3 problems stop the fit:") as raised:
        apply_exclusions(dataset, findings, skip_bad=False, drop_duplicates=False)
    for path in ("train/cat/000.png", "train/dog/copy.png", "train/cat/empty.png", "train/hen"):
        assert path in str(raised.value)
    assert "--drop-duplicates and --skip-bad can exclude the rest" in str(raised.value)


def test_many_problems_of_one_kind_are_counted_and_ten_are_listed(make_folder):
    folder = make_folder({"cat": 300, "dog": 12}, side=8)
    for number in range(12):
        (folder / f"cat/{number:03d}.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="12 problems stop the fit:") as raised:
        apply_exclusions(*audited(folder), skip_bad=False, drop_duplicates=False)
    assert sum("The image file is empty" in line for line in str(raised.value).splitlines()) == 10
    assert "and 2 more of this kind" in str(raised.value)


def test_audit_never_writes_to_the_data(conflicting: Path):
    (conflicting / "train/cat/cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino, path.stat().st_mode) for path in conflicting.rglob("*")}
    audited(conflicting)
    assert before == {
        path: (path.stat().st_mtime_ns, path.stat().st_ino, path.stat().st_mode) for path in conflicting.rglob("*")
    }

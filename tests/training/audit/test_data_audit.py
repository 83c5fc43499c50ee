"""What would make the numbers lie stops a fit, all of it is shown, and what a person allows is left out, on record."""

import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest

from graft.training.audit.data_audit import audit, settled
from graft.training.audit.image_scan import examine
from graft.training.data.dataset import Dataset, DatasetError, scan
from graft.training.data.findings import Finding
from graft.training.data.splits import grouped, split

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


def header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""
    claims = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    chunks = ((13, claims), (0, b"IDAT"), (0, b"IEND"))
    written = [length.to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") for length, chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


@pytest.mark.parametrize(
    ("name", "content", "kind", "reason"),
    [
        ("empty.jpg", b"", "empty-file", "The image has no bytes"),
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


def test_one_in_twenty_damaged_may_be_left_out(make_folder):
    folder = make_folder({"cat": 20, "dog": 20})
    for number in range(2):
        (folder / f"cat/00{number}.png").write_bytes(b"no image")
    _, left_out = settled(*audited(folder), skip_bad=True, drop_duplicates=False)
    assert left_out == {"cat/000.png": "unsupported-format", "cat/001.png": "unsupported-format"}


def test_every_pair_under_two_labels_is_listed(contradictory: Path):
    shutil.copy(contradictory / "train/cat/001.png", contradictory / "train/dog/other.png")
    conflicts = {f.text for f in audited(contradictory)[1] if f.kind == "conflict"}
    assert conflicts == {
        "one image under two labels: train/cat/000.png, train/dog/copy.png",
        "one image under two labels: train/cat/001.png, train/dog/other.png",
    }


def test_same_bytes_twice_under_one_label_are_only_a_warning(make_folder):
    folder = make_folder({"cat": 12, "dog": 12})
    shutil.copy(folder / "cat/000.png", folder / "cat/copy.png")
    [warned] = [finding for finding in audited(folder)[1] if finding.kind == "duplicate"]
    assert (warned.severity, warned.paths) == ("warning", ("cat/000.png", "cat/copy.png"))


@pytest.fixture
def film(make_folder, encode) -> Path:
    """Two parts, and a picture in both of them that only its encoding tells apart."""
    picture = np.kron(np.random.default_rng(5).integers(0, 256, (8, 8, 3), dtype=np.uint8), np.ones((20, 20, 1), np.uint8))
    folder = make_folder(TWO_PARTS)
    (folder / "train/cat/a.png").write_bytes(encode(picture))
    (folder / "test/cat/b.jpg").write_bytes(encode(picture, "JPEG", quality=90))
    return folder


def test_near_copy_to_learn_from_and_held_out_is_a_warning(film: Path):
    _, findings = audited(film)
    [warned] = [finding for finding in findings if finding.kind == "near-leak"]
    assert (warned.severity, set(warned.paths)) == ("warning", {"train/cat/a.png", "test/cat/b.jpg"})
    assert kinds(findings, "error") == []


@pytest.mark.parametrize("seed", range(8))
def test_near_copies_are_never_torn_apart_by_a_split(film: Path, seed: int):
    in_one_part = film.parent / "together"
    for label in ("cat", "dog"):
        shutil.copytree(film / "train" / label, in_one_part / label)
    shutil.copy(film / "test/cat/b.jpg", in_one_part / "cat/b.jpg")
    dataset, looks = examine(scan(in_one_part))
    parts = split(grouped(dataset, looks.alike), seed).named()
    [part] = {name for name, samples in parts.items() if {"cat/a.png", "cat/b.jpg"} & {sample.path for sample in samples}}
    assert part in parts


def test_group_in_both_parts_is_a_leak(make_folder):
    folder = make_folder({"train/cat/p1": 12, "train/dog": 12, "test/cat/p1": 4, "test/dog": 4})
    (folder / "test/cat/p1").rename(folder / "test/cat/p1-later")
    dataset, looks = examine(scan(folder, group_by="(p1)"))
    [leak] = [finding for finding in audit(dataset, looks) if finding.kind == "group-leak"]
    assert (leak.severity, leak.flag) == ("error", "--drop-duplicates")
    assert leak.text.startswith("one group in several parts (12 in train and 4 in test): ")


def test_all_problems_are_shown_at_once(contradictory: Path):
    (contradictory / "train/cat/empty.png").touch()
    (contradictory / "train/hen").mkdir()
    dataset, findings = audited(contradictory)
    assert set(kinds(findings, "error")) == {"conflict", "empty-file", "empty-folder"}
    with pytest.raises(DatasetError, match="3 problems stop the fit:") as refused:
        settled(dataset, findings, skip_bad=False, drop_duplicates=False)
    for path in ("train/cat/000.png", "train/dog/copy.png", "train/cat/empty.png", "train/hen"):
        assert path in str(refused.value)
    assert "--drop-duplicates and --skip-bad can leave out the rest" in str(refused.value)


def test_many_problems_of_one_kind_are_counted_and_ten_are_listed(make_folder):
    folder = make_folder({"cat": 300, "dog": 12}, side=8)
    for number in range(12):
        (folder / f"cat/{number:03d}.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="12 problems stop the fit:") as refused:
        settled(*audited(folder), skip_bad=False, drop_duplicates=False)
    assert sum("The image has no bytes" in line for line in str(refused.value).splitlines()) == 10
    assert "and 2 more of this kind" in str(refused.value)


def test_nothing_is_ever_written_into_the_data(contradictory: Path):
    (contradictory / "train/cat/cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino, path.stat().st_mode) for path in contradictory.rglob("*")}
    audited(contradictory)
    assert before == {
        path: (path.stat().st_mtime_ns, path.stat().st_ino, path.stat().st_mode) for path in contradictory.rglob("*")
    }

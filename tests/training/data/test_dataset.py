"""Scanning folders and archives: layouts, labels, groups and the issues of unusable files."""

import hashlib
import os
import pickle
import subprocess
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from graft.training.audit.image_scan import scan_images
from graft.training.config.read_options import ReadOptions
from graft.training.data.dataset import Dataset, DatasetError, Sample, describe, scan
from graft.training.data.readers.source import Source

PNG = b"\x89PNG\r\n\x1a\n"


def label_counts(dataset: Dataset) -> dict[tuple[str, str], int]:
    return dict(Counter((sample.split, dataset.labels[sample.label]) for sample in dataset.samples))


def digest(dataset: Dataset, sample: Sample) -> tuple[bytes, str, str]:
    return hashlib.sha256(dataset.read(sample)).digest(), sample.split, dataset.labels[sample.label]


def findings_by_kind(dataset: Dataset) -> dict[str, tuple[str, tuple[str, ...], str]]:
    """The findings by kind: severity, paths, flag."""
    return {finding.kind: (finding.severity, finding.paths, finding.flag) for finding in dataset.findings}


def zip_folder(folder: Path, target: Path, top: str = "") -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, Path(top) / path.relative_to(folder))
    return target


def test_folders_are_labels_in_alphabetical_order(make_folder):
    dataset = scan(make_folder({"dog": 2, "cat": 3}))
    assert dataset.labels == ("cat", "dog")
    assert label_counts(dataset) == {("", "cat"): 3, ("", "dog"): 2}


@pytest.mark.parametrize("second_split", ["test", "val", "valid", "validation", "Test"])
def test_second_of_two_split_folders_is_the_test_set(make_folder, second_split: str):
    dataset = scan(make_folder({"train/cat": 3, "train/dog": 2, f"{second_split}/cat": 1, f"{second_split}/dog": 1}))
    assert dataset.labels == ("cat", "dog")
    expected = {("train", "cat"): 3, ("train", "dog"): 2, ("test", "cat"): 1, ("test", "dog"): 1}
    assert label_counts(dataset) == expected


@pytest.mark.parametrize("top", ["", "photos", "a/b"])
@pytest.mark.parametrize("layout", [{"cat": 3, "dog": 2}, {"train/cat": 3, "train/dog": 2, "val/cat": 1, "val/dog": 1}])
def test_zip_and_folder_give_the_same_dataset(make_folder, tmp_path: Path, layout: dict[str, int], top: str):
    folder = make_folder(layout)
    unpacked, packed = scan(folder), scan(zip_folder(folder, tmp_path / "photos.zip", top))
    assert packed.labels == unpacked.labels
    assert label_counts(packed) == label_counts(unpacked)
    assert {digest(packed, sample) for sample in packed.samples} == {digest(unpacked, sample) for sample in unpacked.samples}


def test_images_in_a_zip_are_read_unchanged(make_folder, tmp_path: Path):
    folder = make_folder({"cat": 1, "dog": 1})
    dataset = scan(zip_folder(folder, tmp_path / "photos.zip"))
    assert dataset.read(dataset.samples[0]) == (folder / "cat" / "000.png").read_bytes()


def test_split_folders_can_be_nested_in_another_folder(make_folder):
    folder = make_folder({"set/train/cat": 1, "set/train/dog": 1, "set/test/cat": 1, "set/test/dog": 1})
    assert scan(folder).labels == ("cat", "dog")


def test_subfolders_of_a_label_folder_have_its_label(make_folder):
    assert label_counts(scan(make_folder({"cat/tabby": 2, "cat/black/old": 1, "dog": 1}))) == {("", "cat"): 3, ("", "dog"): 1}


@pytest.mark.parametrize("hidden", [".ipynb_checkpoints", "__MACOSX", ".git"])
@pytest.mark.parametrize("packed", [False, True])
def test_hidden_folder_is_not_a_label(make_folder, tmp_path: Path, hidden: str, packed: bool):
    folder = make_folder({"cat": 2, "dog": 2, hidden: 2, f"cat/{hidden}": 2})
    dataset = scan(zip_folder(folder, tmp_path / "photos.zip") if packed else folder)
    assert label_counts(dataset) == {("", "cat"): 2, ("", "dog"): 2}


@pytest.mark.parametrize("name", [".DS_Store", "._000.jpg", "Thumbs.db", "notes.txt", "labels.csv", "000.xmp"])
def test_non_image_file_is_ignored_and_counted(make_folder, name: str):
    folder = make_folder({"cat": 2, "dog": 2})
    (folder / "cat" / name).write_bytes(b"\0\x05\x16\x07 not an image")
    dataset = scan(folder)
    assert (len(dataset.samples), dataset.n_ignored) == (4, 1)


def test_description_has_the_number_of_ignored_files(make_folder):
    folder = make_folder({"train/cat": 2, "train/dog": 2, "test/cat": 1})
    (folder / "readme.txt").write_text("about these photos")
    expected = "5 images, 2 labels (cat, dog); 4 train, 1 test; 1 other file ignored"
    assert describe(scan(folder)) == expected


@pytest.mark.parametrize("name", ["scan0001", "IMG_2.JPG", "photo.dat"])
def test_image_is_detected_by_magic_bytes_or_suffix(make_folder, encode, photo, name: str):
    folder = make_folder({"cat": 1, "dog": 1})
    (folder / "cat" / name).write_bytes(encode(photo, "JPEG"))
    assert f"cat/{name}" in [sample.path for sample in scan(folder).samples]


def test_format_detection_does_not_read_the_whole_file(make_folder):
    folder = make_folder({"cat": 1, "dog": 1})
    with (folder / "cat" / "film.mp4").open("wb") as film:
        film.truncate(64 * 2**20)
    tracemalloc.start()
    try:
        scan(folder)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20


def test_missing_folder_is_rejected(tmp_path: Path):
    with pytest.raises(DatasetError, match="photos does not exist"):
        scan(tmp_path / "photos")


def test_unknown_file_format_is_rejected(tmp_path: Path):
    (tmp_path / "photos.rar").write_bytes(b"Rar!")
    with pytest.raises(
        DatasetError, match=r"photos\.rar is neither a folder nor a readable \.zip, \.tar, \.csv or \.parquet file"
    ):
        scan(tmp_path / "photos.rar")


def test_folder_without_images_is_rejected_with_the_expected_layout(tmp_path: Path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("none yet")
    with pytest.raises(DatasetError, match=r"(?s)contains no images.*one folder of images for each label"):
        scan(tmp_path)


def test_single_label_is_rejected_with_the_expected_layout(make_folder):
    with pytest.raises(DatasetError, match=r"(?s)cat.*one folder of images for each label"):
        scan(make_folder({"cat": 3}))


def test_single_label_in_two_splits_is_named(make_folder):
    with pytest.raises(DatasetError, match=r"Only one label was found \(cat\)"):
        scan(make_folder({"train/cat": 3, "test/cat": 3}))


def test_images_without_label_folders_are_rejected_by_name(make_folder):
    with pytest.raises(
        DatasetError, match=r"(?s)No label was found.*one folder of images.*outside a label folder \(3\): 000\.png"
    ):
        scan(make_folder({".": 3}))


@pytest.mark.parametrize(
    ("layout", "path"),
    [
        ({"cat": 2, "dog": 2, ".": 1}, "000.png"),
        ({"train/cat": 1, "train/dog": 1, "test/cat": 1, ".": 1}, "000.png"),
        ({"train/cat": 1, "train/dog": 1, "test/cat": 1, "train": 1}, "train/000.png"),
    ],
)
def test_image_outside_a_label_folder_is_an_error_and_not_a_sample(make_folder, layout: dict[str, int], path: str):
    dataset = scan(make_folder(layout))
    assert findings_by_kind(dataset)["unlabeled"] == ("error", (path,), "")
    assert path not in [sample.path for sample in dataset.samples]


@pytest.mark.parametrize(
    ("one", "other"),
    [("Cat", "cat"), ("cat", "cat "), ("Straße", "strasse"), ("café", "cafe\N{COMBINING ACUTE ACCENT}")],
)
def test_labels_that_differ_only_in_spelling_are_an_error(make_folder, one: str, other: str):
    dataset = scan(make_folder({one: 2, other: 2}))
    [finding] = dataset.findings
    assert (finding.kind, finding.severity, finding.flag) == ("name-collision", "error", "")
    assert ascii(one) in finding.text
    assert ascii(other) in finding.text
    assert set(dataset.labels) == {one, other}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tab\there", "must not contain the control character U+0009"),
        ("\u202egnp", "must not contain the control character U+202E"),
        ("l" * 201, "must have 200 characters or fewer, not 201"),
        (" ", "must not be empty"),
    ],
)
def test_a_label_that_no_package_can_have_is_an_error(make_folder, name: str, reason: str):
    dataset = scan(make_folder({name: 2, "dog": 2}))
    [finding] = dataset.findings
    assert (finding.kind, finding.severity, finding.flag) == ("label-name", "error", "")
    assert f"labels that cannot be used (1): {name[:40]!a} {reason}" in finding.text
    assert finding.text.isprintable()


def test_several_folders_of_the_same_split_are_one_split(make_folder):
    dataset = scan(make_folder({"train1/cat": 1, "train1/dog": 1, "train2/cat": 1, "test/cat": 1, "test/dog": 1}))
    assert label_counts(dataset) == {("train", "cat"): 2, ("train", "dog"): 1, ("test", "cat"): 1, ("test", "dog"): 1}


def test_test_label_without_training_images_is_an_error(make_folder):
    [finding] = scan(make_folder({"train/cat": 2, "train/dog": 2, "test/cat": 1, "test/zebra": 1})).findings
    assert (finding.kind, finding.severity) == ("unknown-label", "error")
    assert finding.text == "labels with test images but no training images (1): zebra"


def test_folder_next_to_split_folders_is_an_error_and_has_no_samples(make_folder):
    dataset = scan(make_folder({"train/cat": 2, "train/dog": 2, "test/cat": 1, "extra/cat": 3}))
    assert findings_by_kind(dataset) == {"stray-folder": ("error", ("extra",), "")}
    assert len(dataset.samples) == 5


def test_three_split_folders_are_three_splits(make_folder):
    counts = {"train/cat": 3, "train/dog": 3, "valid/cat": 2, "valid/dog": 2, "test/cat": 1, "test/dog": 1}
    parts = Counter(sample.split for sample in scan(make_folder(counts)).samples)
    assert parts == {"train": 6, "validation": 4, "test": 2}


def test_label_can_be_named_train(make_folder):
    assert scan(make_folder({"train": 2, "bus": 2, "car": 2})).labels == ("bus", "car", "train")


def test_train_folder_next_to_other_folders_is_suggested(make_folder):
    folder = make_folder({"train/cat": 2, "train/dog": 2, "figures": 1})
    with pytest.raises(DatasetError, match=rf"Did you mean {folder}/train\?"):
        scan(folder)


def test_split_folders_without_train_are_rejected(make_folder):
    with pytest.raises(DatasetError, match="test and val, but no train"):
        scan(make_folder({"test/cat": 2, "test/dog": 2, "val/cat": 1}))


def test_parent_of_a_label_folder_is_suggested(make_folder):
    folder = make_folder({"cat": 2, "dog": 2})
    with pytest.raises(DatasetError, match=rf"Did you mean {folder}\?"):
        scan(folder / "cat")


def test_nested_dataset_is_suggested(make_folder):
    folder = make_folder({".": 1, "set/train/cat": 1, "set/train/dog": 1})
    with pytest.raises(DatasetError, match=rf"Did you mean {folder}/set/train\?"):
        scan(folder)


@pytest.mark.parametrize(
    ("layout", "empty"), [({"cat": 1, "dog": 1}, "hen"), ({"train/cat": 1, "train/dog": 1, "test/cat": 1}, "train/hen")]
)
def test_empty_label_folder_is_an_error(make_folder, layout: dict[str, int], empty: str):
    folder = make_folder(layout)
    (folder / empty).mkdir(parents=True)
    assert findings_by_kind(scan(folder))["empty-folder"] == ("error", (empty,), "")


@pytest.mark.parametrize("content", ["notes.txt", "older/notes.txt"])
@pytest.mark.parametrize("packed", [False, True])
def test_folder_with_other_files_is_a_warning_and_no_label(make_folder, tmp_path: Path, content: str, packed: bool):
    folder = make_folder({"cat": 1, "dog": 1})
    (folder / "notes" / content).parent.mkdir(parents=True)
    (folder / "notes" / content).write_text("about these photos")
    dataset = scan(zip_folder(folder, tmp_path / "photos.zip") if packed else folder)
    assert dataset.labels == ("cat", "dog")
    assert findings_by_kind(dataset)["folder-without-images"] == ("warning", ("notes",), "")


def test_empty_subfolder_of_a_label_is_no_issue(make_folder):
    folder = make_folder({"cat": 1, "dog": 1})
    (folder / "cat" / "tabby").mkdir()
    (folder / ".cache").mkdir()
    assert scan(folder).findings == ()


def test_empty_folder_in_a_zip_is_an_error(make_folder, tmp_path: Path):
    folder = make_folder({"cat": 1, "dog": 1})
    (folder / "hen").mkdir()
    assert findings_by_kind(scan(zip_folder(folder, tmp_path / "p.zip")))["empty-folder"][1] == ("hen",)


def test_single_label_error_lists_the_other_issues(make_folder):
    folder = make_folder({"cat": 2})
    (folder / "dog").mkdir()
    with pytest.raises(DatasetError, match=r"(?s)Only one label was found \(cat\).*error: label folders without images.*dog"):
        scan(folder)


def test_all_issues_are_reported_errors_first(make_folder):
    folder = make_folder({"train/cat": 2, "train/Cat": 1, "test/cat": 1, "test/emu": 1, "spare/cat": 1, "train": 1, ".": 1})
    (folder / "train" / "hen").mkdir()
    (folder / "train/cat/gone.jpg").symlink_to("nowhere.jpg")
    (folder / "train/cat/all").symlink_to(folder, target_is_directory=True)
    (folder / "train/cat/notes.txt").write_text("notes")
    findings = scan(folder).findings
    errors = {"name-collision", "unknown-label", "stray-folder", "unlabeled", "empty-folder", "broken-link"}
    assert {finding.kind for finding in findings if finding.severity == "error"} == errors
    assert [finding.kind for finding in findings[len(errors) :]] == ["link-loop", "ignored"]
    assert all("\n" not in finding.text for finding in findings)


def test_ignored_files_are_counted_with_ten_examples(make_folder):
    folder = make_folder({"cat": 1, "dog": 1})
    for number in range(12):
        (folder / "cat" / f"{number:02d}.txt").write_text("x")
    [finding] = scan(folder).findings
    assert (finding.kind, finding.severity, len(finding.paths)) == ("ignored", "note", 10)
    assert finding.text == (
        "files that are not images, ignored (12): " + ", ".join(f"cat/{number:02d}.txt" for number in range(10)) + " and 2 more"
    )


@pytest.mark.parametrize("name", ["a.heic", "a.HEIF", "a.tif", "a.avif", "a.jxl", "a.ppm"])
def test_unsupported_image_format_is_a_sample(make_folder, name: str):
    folder = make_folder({"cat": 1, "dog": 1})
    (folder / "cat" / name).write_bytes(b"whatever")
    assert f"cat/{name}" in [sample.path for sample in scan(folder).samples]


@pytest.mark.parametrize("head", [b"II*\0\x08\0\0\0", b"\0\0\0\x18ftypheic", b"\0\0\0\x1cftypavif"])
def test_unsupported_format_without_suffix_is_detected_by_magic_bytes(make_folder, head: bytes):
    folder = make_folder({"cat": 1, "dog": 1})
    (folder / "cat" / "picture").write_bytes(head + bytes(64))
    assert len(scan(folder).samples) == 3


def test_video_is_not_an_image(make_folder):
    folder = make_folder({"cat": 1, "dog": 1})
    (folder / "cat" / "film").write_bytes(b"\0\0\0\x18ftypisom" + bytes(64))
    assert scan(folder).n_ignored == 1


def test_scan_reads_no_image(make_folder, monkeypatch: pytest.MonkeyPatch):
    folder = make_folder({"cat": 1, "dog": 1})
    monkeypatch.setattr("graft.training.data.readers.source.FolderReader.read", None)
    assert {sample.digest for sample in scan(folder).samples} == {b""}


def test_digest_is_the_default_group(make_folder):
    folder = make_folder({"cat": 1, "dog": 1})
    first, second = scan_images(scan(folder, ReadOptions(group_by="^cat")))[0].samples
    assert first.digest == hashlib.sha256((folder / "cat/000.png").read_bytes()).digest()
    assert (first.group == first.digest, second.group == second.digest) == (False, True)


def test_group_is_the_first_capture_group(make_folder):
    folder = make_folder({"cat/v1": 2, "cat/v2": 1, "dog/v2": 1, "dog": 1})
    groups = {sample.path: sample.group for sample in scan(folder, ReadOptions(group_by=r"/(v\d)/")).samples}
    assert groups["cat/v1/000.png"] == groups["cat/v1/001.png"] != groups["cat/v2/000.png"]
    assert groups["cat/v2/000.png"] == groups["dog/v2/000.png"] != b""
    assert groups["dog/000.png"] == b""


def test_group_is_the_whole_match_without_capture_groups(make_folder):
    folder = make_folder({"cat/v1": 1, "dog/v1": 1, "dog/v2": 1})
    groups = [sample.group for sample in scan(folder, ReadOptions(group_by=r"v\d")).samples]
    assert groups[0] == groups[1] != groups[2]


def test_samples_have_no_group_by_default(make_folder):
    assert {sample.group for sample in scan(make_folder({"cat": 2, "dog": 1})).samples} == {b""}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("v(", "is not a valid regular expression"), ("patient", "is not a column and matches none of the 2 paths")],
)
def test_invalid_group_by_is_rejected(make_folder, pattern: str, message: str):
    with pytest.raises(DatasetError, match=message):
        scan(make_folder({"cat": 1, "dog": 1}), ReadOptions(group_by=pattern))


@pytest.mark.parametrize("packed", [False, True])
def test_labels_are_kept_exactly_as_spelled(make_folder, tmp_path: Path, packed: bool):
    folder = make_folder({"🦊": 1, "con": 1, "écureuil roux": 1, "<b>cat": 1, "猫": 1})
    assert scan(zip_folder(folder, tmp_path / "p.zip") if packed else folder).labels == (
        "<b>cat",
        "con",
        "écureuil roux",
        "猫",
        "🦊",
    )


def test_symlink_loop_counts_every_image_once(make_folder):
    folder = make_folder({"cat": 2, "dog": 3})
    (folder / "cat" / "again").symlink_to(folder, target_is_directory=True)
    (folder / "loop").symlink_to(".", target_is_directory=True)
    for follow in (False, True):
        dataset = scan(folder, ReadOptions(follow_links=follow))
        assert label_counts(dataset) == {("", "cat"): 2, ("", "dog"): 3}
        assert findings_by_kind(dataset) == {"link-loop": ("warning", ("loop", "cat/again"), "")}


def test_link_to_itself_is_a_broken_link(make_folder):
    folder = make_folder({"cat": 1, "dog": 1})
    (folder / "cat" / "self.png").symlink_to("self.png")
    assert findings_by_kind(scan(folder)) == {"broken-link": ("error", ("cat/self.png",), "--skip-bad")}


def test_broken_link_is_an_error_that_can_be_skipped(make_folder):
    folder = make_folder({"cat": 2, "dog": 3})
    (folder / "cat" / "gone.png").symlink_to("/nowhere/gone.png")
    dataset = scan(folder)
    assert findings_by_kind(dataset) == {"broken-link": ("error", ("cat/gone.png",), "--skip-bad")}
    assert dataset.findings[0].drop == ("cat/gone.png",)
    assert len(dataset.samples) == 5


def test_links_out_of_the_data_set_are_followed_only_on_request(make_folder, tmp_path: Path, encode, photo):
    folder, elsewhere = make_folder({"cat": 1, "dog": 1}), tmp_path / "elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    (elsewhere / "deep" / "a.png").write_bytes(encode(photo))
    (elsewhere / "back").symlink_to(folder, target_is_directory=True)
    (folder / "hen").symlink_to(elsewhere, target_is_directory=True)
    (folder / "cat" / "b.png").symlink_to(elsewhere / "deep" / "a.png")
    dataset = scan(folder)
    assert findings_by_kind(dataset) == {"link-out": ("warning", ("hen", "cat/b.png"), "")}
    assert len(dataset.samples) == 2
    followed = scan(folder, ReadOptions(follow_links=True))
    assert [sample.path for sample in followed.samples] == ["cat/000.png", "cat/b.png", "dog/000.png", "hen/deep/a.png"]
    assert findings_by_kind(followed) == {"link-loop": ("warning", ("hen/back",), "")}


def test_link_to_a_parent_folder_is_never_followed(make_folder):
    folder = make_folder({"cat": 1, "dog": 1})
    (folder / "cat" / "up").symlink_to("/", target_is_directory=True)
    assert len(scan(folder, ReadOptions(follow_links=True)).samples) == 2


def test_link_to_a_file_in_the_data_set_is_a_sample(make_folder):
    folder = make_folder({"cat": 1, "dog": 1})
    (folder / "dog" / "same.png").symlink_to("../cat/000.png")
    assert len(scan(folder).samples) == 3


def test_named_pipe_is_ignored(make_folder):
    folder = make_folder({"cat": 1, "dog": 1})
    os.mkfifo(folder / "cat" / "pipe.png")
    assert findings_by_kind(scan(folder)) == {"ignored": ("note", ("cat/pipe.png",), "")}


def test_too_large_file_is_an_error_and_not_read(make_folder):
    folder = make_folder({"cat": 1, "dog": 1})
    with (folder / "cat" / "huge.png").open("wb") as file:
        file.truncate(256 * 2**20 + 1)
    dataset = scan(folder)
    assert findings_by_kind(dataset) == {"too-large": ("error", ("cat/huge.png",), "--skip-bad")}
    with pytest.raises(DatasetError, match=r"cat/huge\.png cannot be read: it has 268,435,457 bytes"):
        dataset.source.read("cat/huge.png")


def test_files_without_read_permission_are_reported(make_folder):
    folder = make_folder({"cat": 2, "dog": 2, "dog/secret": 1})
    (folder / "cat" / "000.png").chmod(0)
    (folder / "dog" / "secret").chmod(0)
    dataset = scan_without_permissions(folder)
    assert findings_by_kind(dataset)["unreadable"] == ("error", ("cat/000.png",), "--skip-bad")
    assert findings_by_kind(dataset)["unreadable-folder"] == ("error", ("dog/secret",), "")
    assert [sample.path for sample in dataset.samples] == ["cat/001.png", "dog/000.png", "dog/001.png"]


def scan_without_permissions(folder: Path) -> Dataset:
    """Scan as an unprivileged user: root can read everything, so a forked child drops its privileges."""
    if os.geteuid():
        return scan(folder)
    for above in (folder, *folder.parents):
        if above.stat().st_mode & 0o005 != 0o005:
            above.chmod(above.stat().st_mode | 0o055)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            with os.fdopen(write, "wb") as pipe:
                pickle.dump(scan(folder), pipe)
        finally:
            os._exit(0)  # never continue the test session in the child
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        dataset: Dataset = pickle.load(pipe)  # noqa: S301 - from our own child process
    os.waitpid(child, 0)
    return dataset


def test_name_that_is_not_unicode_is_an_error(make_folder):
    folder = make_folder({"cat": 1, "dog": 1})
    (folder / "cat" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    dataset = scan(folder)
    assert findings_by_kind(dataset) == {"bad-name": ("error", ("cat/caf\\udce9.png",), "--skip-bad")}
    assert "caf\\udce9" in dataset.findings[0].text


def test_unusual_file_names_are_kept(make_folder, encode, photo):
    folder = make_folder({"cat": 1, "dog": 1})
    names = [" a b .png", "con.png", "new\nline.png", "🦊.png", "%2e%2e.png", "-rf.png", "a\\b.png", "x" * 200 + ".png"]
    for name in names:
        (folder / "cat" / name).write_bytes(encode(photo))
    dataset = scan(folder)
    assert {sample.path for sample in dataset.samples} == {f"cat/{name}" for name in [*names, "000.png"]} | {"dog/000.png"}
    assert all(dataset.read(sample) for sample in dataset.samples)


def test_very_deep_folder_is_walked_completely(make_folder, encode, photo):
    folder = make_folder({"cat": 1, "dog": 1})
    deep = str(folder / "cat")
    for _ in range(1200):
        deep += "/d"
        os.mkdir(deep)
    Path(deep, "1.png").write_bytes(encode(photo))
    try:
        assert len(scan(folder).samples) == 3
    finally:
        subprocess.run(["rm", "-r", folder / "cat"], check=True)  # shutil.rmtree is recursive


def test_memory_per_file_is_small(tmp_path: Path):
    for label in range(20):
        folder = tmp_path / "photos" / f"label-number-{label:03d}"
        folder.mkdir(parents=True)
        for number in range(1000):
            (folder / f"photo-{number:08d}-camera.jpg").touch()
    scan(tmp_path / "photos")  # warm-up: exclude one-time allocations
    tracemalloc.start()
    try:
        dataset = scan(tmp_path / "photos")
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(dataset.samples) == 20_000
    assert kept / 20_000 < 200
    assert peak / 20_000 < 300


def test_deleted_file_is_named(make_folder):
    folder = make_folder({"cat": 1, "dog": 1})
    dataset = scan(folder)
    (folder / "cat" / "000.png").unlink()
    with pytest.raises(DatasetError, match=r"cat/000\.png cannot be read"):
        dataset.read(dataset.samples[0])


def test_file_that_changed_since_it_was_checked_is_named(make_folder, encode, photo):
    folder = make_folder({"cat": 1, "dog": 1})
    dataset = scan_images(scan(folder))[0]
    (folder / "cat/000.png").write_bytes(encode(photo))
    with pytest.raises(DatasetError, match=r"cat/000\.png cannot be read: it has changed since the data were checked"):
        dataset.read(dataset.samples[0])


def test_exclude_removes_only_the_given_paths(make_folder):
    kept = scan(make_folder({"cat": 2, "dog": 1})).exclude(["cat/001.png"])
    assert [sample.path for sample in kept.samples] == ["cat/000.png", "dog/000.png"]


def test_single_label_targets_are_label_indices():
    dataset = Dataset(Source(Path()), ("a", "b", "c"), (Sample("1", (2,)), Sample("2", (0,))))
    assert dataset.targets(dataset.samples).tolist() == [2, 0]
    assert dataset.counts(dataset.samples) == (1, 0, 1)


def test_multi_label_targets_are_boolean():
    samples = (Sample("1", (0, 2)), Sample("2", ()), Sample("3", (1,)))
    dataset = Dataset(Source(Path()), ("a", "b", "c"), samples, multilabel=True)
    assert dataset.targets(samples).tolist() == [[True, False, True], [False, False, False], [False, True, False]]
    assert dataset.counts(samples) == (1, 1, 1)

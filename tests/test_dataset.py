"""What counts as a labelled image, and what does not."""

import pickle
import struct
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from training.dataset import Dataset, DatasetError, describe, scan

PNG = b"\x89PNG\r\n\x1a\n"


def counted(dataset: Dataset) -> dict[tuple[str, str], int]:
    return dict(Counter((sample.part, dataset.labels[sample.label]) for sample in dataset.samples))


def zipped(folder: Path, target: Path, top: str = "") -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, Path(top) / path.relative_to(folder))
    return target


def test_folders_are_labels_in_alphabetical_order(make_folder):
    dataset = scan(make_folder({"dog": 2, "cat": 3}))
    assert dataset.labels == ("cat", "dog")
    assert counted(dataset) == {("", "cat"): 3, ("", "dog"): 2}


@pytest.mark.parametrize("held_out", ["test", "val", "valid", "validation", "Test"])
def test_two_parts_are_understood_whatever_the_held_out_one_is_called(make_folder, held_out: str):
    dataset = scan(make_folder({"train/cat": 3, "train/dog": 2, f"{held_out}/cat": 1, f"{held_out}/dog": 1}))
    assert dataset.labels == ("cat", "dog")
    expected = {("train", "cat"): 3, ("train", "dog"): 2, ("test", "cat"): 1, ("test", "dog"): 1}
    assert counted(dataset) == expected


@pytest.mark.parametrize("top", ["", "photos", "a/b"])
@pytest.mark.parametrize("layout", [{"cat": 3, "dog": 2}, {"train/cat": 3, "train/dog": 2, "val/cat": 1, "val/dog": 1}])
def test_zip_holds_what_its_folder_holds(make_folder, tmp_path: Path, layout: dict[str, int], top: str):
    folder = make_folder(layout)
    unpacked, packed = scan(folder), scan(zipped(folder, tmp_path / "photos.zip", top))
    assert packed.labels == unpacked.labels
    assert [(s.label, s.part, s.digest) for s in packed.samples] == [(s.label, s.part, s.digest) for s in unpacked.samples]


def test_images_of_a_zip_are_read_back_as_they_were_written(make_folder, tmp_path: Path):
    folder = make_folder({"cat": 1, "dog": 1})
    dataset = scan(zipped(folder, tmp_path / "photos.zip"))
    assert dataset.read(dataset.samples[0]) == (folder / "cat" / "000.png").read_bytes()


def test_folder_of_two_parts_may_lie_in_another_folder(make_folder):
    folder = make_folder({"set/train/cat": 1, "set/train/dog": 1, "set/test/cat": 1, "set/test/dog": 1})
    assert scan(folder).labels == ("cat", "dog")


def test_folders_below_a_label_belong_to_it(make_folder):
    assert counted(scan(make_folder({"cat/tabby": 2, "cat/black/old": 1, "dog": 1}))) == {("", "cat"): 3, ("", "dog"): 1}


@pytest.mark.parametrize("hidden", [".ipynb_checkpoints", "__MACOSX", ".git"])
@pytest.mark.parametrize("packed", [False, True])
def test_hidden_folder_is_never_a_class(make_folder, tmp_path: Path, hidden: str, packed: bool):
    folder = make_folder({"cat": 2, "dog": 2, hidden: 2, f"cat/{hidden}": 2})
    dataset = scan(zipped(folder, tmp_path / "photos.zip") if packed else folder)
    assert counted(dataset) == {("", "cat"): 2, ("", "dog"): 2}


@pytest.mark.parametrize("name", [".DS_Store", "._000.jpg", "Thumbs.db", "notes.txt", "labels.csv", "000.xmp"])
def test_file_that_is_no_image_is_ignored_and_counted(make_folder, name: str):
    folder = make_folder({"cat": 2, "dog": 2})
    (folder / "cat" / name).write_bytes(b"\0\x05\x16\x07 not an image")
    dataset = scan(folder)
    assert (len(dataset.samples), dataset.ignored) == (4, 1)


def test_description_says_how_many_files_were_ignored(make_folder):
    folder = make_folder({"train/cat": 2, "train/dog": 2, "test/cat": 1})
    (folder / "readme.txt").write_text("about these photos")
    said = "5 images of 2 labels (cat, dog), 4 to learn from and 1 held out; 1 other files ignored"
    assert describe(scan(folder)) == said


@pytest.mark.parametrize("name", ["scan0001", "IMG_2.JPG", "photo.dat"])
def test_image_is_known_by_its_first_bytes_or_its_name(make_folder, encode, photo, name: str):
    folder = make_folder({"cat": 1, "dog": 1})
    (folder / "cat" / name).write_bytes(encode(photo, "JPEG"))
    assert f"cat/{name}" in [sample.path for sample in scan(folder).samples]


def test_looking_at_a_large_foreign_file_does_not_read_all_of_it(make_folder):
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


def test_missing_folder_is_refused(tmp_path: Path):
    with pytest.raises(DatasetError, match="photos does not exist"):
        scan(tmp_path / "photos")


def test_file_that_is_no_zip_is_refused(tmp_path: Path):
    (tmp_path / "photos.rar").write_bytes(b"Rar!")
    with pytest.raises(DatasetError, match=r"photos\.rar is neither a folder nor a readable \.zip"):
        scan(tmp_path / "photos.rar")


def test_folder_without_images_is_refused_with_the_layout(tmp_path: Path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("none yet")
    with pytest.raises(DatasetError, match=r"(?s)holds no images.*one folder of images for each label"):
        scan(tmp_path)


def test_single_label_is_refused_with_the_layout(make_folder):
    with pytest.raises(DatasetError, match=r"(?s)cat.*one folder of images for each label"):
        scan(make_folder({"cat": 3}))


def test_single_label_of_two_parts_is_named(make_folder):
    with pytest.raises(DatasetError, match=r"Only one label was found \(cat\)"):
        scan(make_folder({"train/cat": 3, "test/cat": 3}))


@pytest.mark.parametrize(
    "layout", [{".": 3}, {"cat": 2, "dog": 2, ".": 1}, {"train/cat": 1, "train/dog": 1, "test/cat": 1, ".": 1}]
)
def test_image_in_the_root_is_refused_by_name(make_folder, layout: dict[str, int]):
    with pytest.raises(DatasetError, match=r"(?s)000\.png in .* lies in no label's folder.*one folder of images"):
        scan(make_folder(layout))


@pytest.mark.parametrize(("one", "other"), [("Cat", "cat"), ("cat", "cat "), ("café", "cafe\N{COMBINING ACUTE ACCENT}")])
def test_labels_that_differ_only_in_spelling_are_refused(make_folder, one: str, other: str):
    with pytest.raises(DatasetError, match="differ only in spelling") as refused:
        scan(make_folder({one: 2, other: 2}))
    assert repr(one) in str(refused.value)
    assert repr(other) in str(refused.value)


def test_parts_that_differ_only_in_spelling_are_refused(make_folder):
    with pytest.raises(DatasetError, match="Train"):
        scan(make_folder({"train/cat": 1, "train/dog": 1, "Train/cat": 1, "test/cat": 1, "test/dog": 1}))


def test_test_label_that_nothing_can_be_learned_of_is_refused(make_folder):
    with pytest.raises(DatasetError, match="none to learn from: zebra"):
        scan(make_folder({"train/cat": 2, "train/dog": 2, "test/cat": 1, "test/zebra": 1}))


def test_folder_beside_the_two_parts_is_refused_by_name(make_folder):
    with pytest.raises(DatasetError, match="beside them extra"):
        scan(make_folder({"train/cat": 2, "train/dog": 2, "test/cat": 1, "extra/cat": 1}))


@pytest.mark.parametrize("packed", [False, True])
def test_labels_are_kept_exactly_as_spelled(make_folder, tmp_path: Path, packed: bool):
    folder = make_folder({"🦊": 1, "con": 1, "écureuil roux": 1, "<b>cat": 1, "猫": 1})
    assert scan(zipped(folder, tmp_path / "p.zip") if packed else folder).labels == (
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
    assert counted(scan(folder)) == {("", "cat"): 2, ("", "dog"): 3}


def test_link_to_nowhere_is_passed_over(make_folder):
    folder = make_folder({"cat": 2, "dog": 3})
    (folder / "cat" / "gone.png").symlink_to("/nowhere/gone.png")
    assert len(scan(folder).samples) == 5


def test_zip_member_that_claims_a_huge_size_is_refused_unread(make_folder, tmp_path: Path):
    archive = zipped(make_folder({"cat": 1, "dog": 1}), tmp_path / "bomb.zip")
    content = bytearray(archive.read_bytes())
    entry = content.rindex(b"PK\x01\x02")  # the central directory, which sizes are read from
    content[entry + 24 : entry + 28] = struct.pack("<I", 2**31)
    archive.write_bytes(content)
    with pytest.raises(DatasetError, match=r"dog/000\.png in .*bomb\.zip would unpack to 2,147,483,648 bytes"):
        scan(archive)


def test_damaged_zip_member_is_refused_by_name(make_folder, tmp_path: Path):
    folder = make_folder({"cat": 1, "dog": 1})
    (folder / "cat" / "000.png").write_bytes(PNG + b"easily deflated " * 500)
    archive = zipped(folder, tmp_path / "photos.zip")
    with zipfile.ZipFile(archive) as opened:
        start = opened.getinfo("cat/000.png").header_offset + 30 + len("cat/000.png")
    content = bytearray(archive.read_bytes())
    content[start] |= 0b110  # a block of the type that deflate reserves
    archive.write_bytes(content)
    with pytest.raises(DatasetError, match=r"cat/000\.png cannot be read"):
        scan(archive)


def test_name_that_leads_out_of_a_zip_is_never_an_image(make_folder, tmp_path: Path, encode, photo):
    archive = zipped(make_folder({"cat": 1, "dog": 1}), tmp_path / "photos.zip")
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("../../cat/evil.png", encode(photo))
    assert [sample.path for sample in scan(archive).samples] == ["cat/000.png", "dog/000.png"]


def test_vanished_file_is_named(make_folder):
    folder = make_folder({"cat": 1, "dog": 1})
    dataset = scan(folder)
    (folder / "cat" / "000.png").unlink()
    with pytest.raises(DatasetError, match=r"cat/000\.png cannot be read"):
        dataset.read(dataset.samples[0])


def test_source_of_a_zip_can_be_pickled_after_use(make_folder, tmp_path: Path):
    dataset = scan(zipped(make_folder({"cat": 1, "dog": 1}), tmp_path / "photos.zip"))
    again = pickle.loads(pickle.dumps(dataset.source))  # noqa: S301 - our own bytes
    assert again.read("cat/000.png") == dataset.read(dataset.samples[0])


def test_leaving_out_removes_just_those_paths(make_folder):
    kept = scan(make_folder({"cat": 2, "dog": 1})).without(["cat/001.png"])
    assert [sample.path for sample in kept.samples] == ["cat/000.png", "dog/000.png"]

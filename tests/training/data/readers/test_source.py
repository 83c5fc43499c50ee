"""Bytes come back as they lie there, from a folder as from an archive; names are told without reading."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from graft.training.data.dataset import DatasetError
from graft.training.data.errors import Mishaps
from graft.training.data.readers.filenames import hidden, suffix, within
from graft.training.data.readers.source import Source

FILES = {"cat/1.png": b"\x89PNG first", "dog/2.png": b"\x89PNG second, and longer", "notes.txt": b"about"}


def folder(at: Path) -> Path:
    for name, content in FILES.items():
        (at / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (at / "set" / name).write_bytes(content)
    return at / "set"


def packed(at: Path) -> Path:
    with zipfile.ZipFile(at / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    return at / "set.zip"


def tarred(at: Path) -> Path:
    with tarfile.open(at / "set.tar", "w") as archive:
        for name, content in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return at / "set.tar"


@pytest.fixture(params=[folder, packed, tarred])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    return Source(request.param(tmp_path))


def test_names_are_paths_below_the_root(source: Source):
    assert sorted(name for name, _ in source.names()) == sorted(FILES)


def test_bytes_come_back_as_they_are(source: Source):
    assert {name: source.read(name) for name in FILES} == FILES


def test_reading_needs_no_listing_first(source: Source):
    assert source.read("cat/1.png") == FILES["cat/1.png"]


def test_head_is_the_first_sixteen_bytes(source: Source):
    assert source.head("dog/2.png") == b"\x89PNG second, and"
    assert source.head("notes.txt") == b"about"


def test_file_that_is_not_there_is_named(source: Source):
    with pytest.raises(DatasetError, match=r"cat/9\.png cannot be read"):
        source.read("cat/9.png")


def test_images_are_told_by_name_or_first_bytes(source: Source):
    assert [name for name in FILES if source.holds_image(name)] == ["cat/1.png", "dog/2.png"]


def test_forked_reader_reads_too(source: Source):
    assert source.read("cat/1.png")  # so that the child inherits what has been opened
    child = os.fork()
    if child == 0:
        os._exit(0 if source.read("dog/2.png") == FILES["dog/2.png"] else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_no_file_stays_open(source: Source):
    source.read("cat/1.png")
    before = os.listdir("/proc/self/fd")
    for _ in range(20):
        source.read("dog/2.png")
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_root_that_may_not_be_read_is_a_mishap_not_a_crash(tmp_path: Path):
    mishaps = Mishaps()
    assert list(Source(tmp_path / "nowhere").names(mishaps)) == []
    assert mishaps.count("unreadable-folder") == 1


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a/b.JPG", ".jpg"), ("a.b/c", ""), (".jpg", ""), ("a/.jpg", ""), ("a.tar.gz", ".gz"), ("a", ""), ("a/b.", ".")],
)
def test_suffix_of_a_path(path: str, expected: str):
    assert suffix(path) == expected


@pytest.mark.parametrize(("name", "expected"), [(".git", True), ("__MACOSX", True), ("Thumbs.db", True), ("con", False)])
def test_what_is_a_tools_own_is_hidden(name: str, expected: bool):
    assert hidden(name) is expected


def test_below_a_folder_is_not_beside_it():
    assert within("/data/a", "/data")
    assert within("/data", "/")
    assert not within("/database", "/data")

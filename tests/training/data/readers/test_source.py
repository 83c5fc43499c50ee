"""Sources: folders, zips and tars list and read the same files."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from graft.training.data.dataset import DatasetError
from graft.training.data.errors import ScanIssues
from graft.training.data.readers.filenames import is_hidden, is_within, suffix
from graft.training.data.readers.source import Source

FILES = {
    "cat/1.png": b"\x89PNG first",
    "dog/2.png": b"\x89PNG second, and longer than the head of 512 bytes, so that its end is not read" + bytes(500),
    "notes.txt": b"about",
}


def write_folder(root: Path) -> Path:
    for name, content in FILES.items():
        (root / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "set" / name).write_bytes(content)
    return root / "set"


def write_zip(root: Path) -> Path:
    with zipfile.ZipFile(root / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    return root / "set.zip"


def write_tar(root: Path) -> Path:
    with tarfile.open(root / "set.tar", "w") as archive:
        for name, content in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return root / "set.tar"


@pytest.fixture(params=[write_folder, write_zip, write_tar])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    return Source(request.param(tmp_path))


def test_listed_paths_are_relative_to_the_root(source: Source):
    assert sorted(name for name, _ in source.list_files()) == sorted(FILES)


def test_files_are_read_unchanged(source: Source):
    assert {name: source.read(name) for name in FILES} == FILES


def test_reading_works_without_listing(source: Source):
    assert source.read("cat/1.png") == FILES["cat/1.png"]


def test_head_is_the_first_512_bytes(source: Source):
    assert source.head("dog/2.png") == FILES["dog/2.png"][:512] != FILES["dog/2.png"]
    assert source.head("notes.txt") == b"about"


def test_missing_file_is_named(source: Source):
    with pytest.raises(DatasetError, match=r"cat/9\.png cannot be read"):
        source.read("cat/9.png")


def test_images_are_detected_by_name_or_magic_bytes(source: Source):
    assert [name for name in FILES if source.is_image(name)] == ["cat/1.png", "dog/2.png"]


def test_forked_process_can_read(source: Source):
    assert source.read("cat/1.png")  # so that the child inherits the opened state
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


def test_unreadable_root_is_an_issue_and_not_a_crash(tmp_path: Path):
    issues = ScanIssues()
    assert list(Source(tmp_path / "nowhere").list_files(issues)) == []
    assert issues.count("unreadable-folder") == 1


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a/b.JPG", ".jpg"), ("a.b/c", ""), (".jpg", ""), ("a/.jpg", ""), ("a.tar.gz", ".gz"), ("a", ""), ("a/b.", ".")],
)
def test_suffix_of_a_path(path: str, expected: str):
    assert suffix(path) == expected


@pytest.mark.parametrize(("name", "expected"), [(".git", True), ("__MACOSX", True), ("Thumbs.db", True), ("con", False)])
def test_system_and_tool_files_are_hidden(name: str, expected: bool):
    assert is_hidden(name) is expected


def test_path_with_the_same_prefix_is_not_inside():
    assert is_within("/data/a", "/data")
    assert is_within("/data", "/")
    assert not is_within("/database", "/data")

"""Archives: members are read in place; damaged, malicious and unusual members are reported."""

import bz2
import gzip
import io
import lzma
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from graft.training.data.dataset import Dataset, DatasetError, scan
from graft.training.data.errors import ScanIssues
from graft.training.data.readers.source import Source

PNG = b"\x89PNG\r\n\x1a\n"
IMAGES = {"cat/1.png": PNG + b"cat", "dog/1.png": PNG + b"dog"}


def findings_by_kind(dataset: Dataset) -> dict[str, tuple[str, tuple[str, ...], str]]:
    return {finding.kind: (finding.severity, finding.paths, finding.flag) for finding in dataset.findings}


def paths(dataset: Dataset) -> list[str]:
    return [sample.path for sample in dataset.samples]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two images, deflated."""
    with zipfile.ZipFile(tmp_path / "photos.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in IMAGES.items():
            opened.writestr(name, content)
    return tmp_path / "photos.zip"


def put(archive: Path, name: str | zipfile.ZipInfo, content: bytes = PNG, method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(name, content, method)


def tar(path: Path, add: Callable[[tarfile.TarFile], None] = lambda _: None, mode: str = "w", **settings: int) -> Path:
    with tarfile.open(path, mode, **settings) as opened:
        for name, content in IMAGES.items():
            opened.addfile(member(name, content), io.BytesIO(content))
        add(opened)
    return path


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, target
    return info


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_compressed_members_are_read_unchanged(archive: Path, method: int):
    content = PNG + bytes(range(256)) * 400
    put(archive, "cat/2.png", content, method)
    assert Source(archive).read("cat/2.png") == content
    assert Source(archive).head("cat/2.png") == content[:64]


def test_unsupported_compression_is_an_error_that_can_be_skipped(archive: Path):
    put(archive, "cat/2.png", PNG, zipfile.ZIP_LZMA)
    assert findings_by_kind(scan(archive)) == {"packing": ("error", ("cat/2.png",), "--skip-bad")}


def test_encrypted_member_is_an_error_that_can_be_skipped(archive: Path):
    put(archive, "dog/2.png")
    content = bytearray(archive.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    assert findings_by_kind(scan(archive)) == {"locked": ("error", ("dog/2.png",), "--skip-bad")}


def test_member_with_a_huge_declared_size_is_not_read(archive: Path):
    put(archive, "dog/2.png")
    content = bytearray(archive.read_bytes())
    entry = content.rindex(b"PK\x01\x02")  # the central directory, which has the sizes
    content[entry + 24 : entry + 28] = struct.pack("<I", 2**31)
    archive.write_bytes(content)
    dataset = scan(archive)
    assert findings_by_kind(dataset) == {"too-large": ("error", ("dog/2.png",), "--skip-bad")}
    with pytest.raises(DatasetError, match=r"dog/2\.png cannot be read: it has 2,147,483,648 bytes"):
        dataset.source.read("dog/2.png")


def test_zip_bomb_stops_at_its_declared_size(archive: Path):
    put(archive, "dog/2.png", PNG + bytes(50 * 2**20), zipfile.ZIP_DEFLATED)
    content = bytearray(archive.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 1000)
    archive.write_bytes(content)
    with pytest.raises(DatasetError, match=r"dog/2\.png cannot be read: it is damaged inside the archive"):
        Source(archive).read("dog/2.png")


def test_damaged_member_is_named(archive: Path):
    put(archive, "cat/2.png", PNG + b"easily deflated " * 500, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(archive) as opened:
        start = opened.getinfo("cat/2.png").header_offset + 30 + len("cat/2.png")
    content = bytearray(archive.read_bytes())
    content[start] |= 0b110  # the reserved deflate block type
    archive.write_bytes(content)
    dataset = scan(archive)
    with pytest.raises(DatasetError, match=r"cat/2\.png cannot be read"):
        dataset.source.read("cat/2.png")


def test_modified_stored_member_fails_its_checksum(archive: Path):
    put(archive, "cat/2.png", PNG + b"just so")
    archive.write_bytes(archive.read_bytes().replace(b"just so", b"just no"))
    with pytest.raises(DatasetError, match=r"cat/2\.png cannot be read: it is damaged"):
        Source(archive).read("cat/2.png")


@pytest.mark.parametrize("fraction", [0.3, 0.9, 0.99])
def test_truncated_zip_is_rejected(archive: Path, fraction: float):
    content = archive.read_bytes()
    archive.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(DatasetError, match=r"photos\.zip"):
        scan(archive)


@pytest.mark.parametrize("name", ["../../cat/evil.png", "/cat/evil.png", "C:/cat/evil.png", "cat/../../evil.png"])
def test_path_traversal_is_an_error_and_not_a_sample(archive: Path, tmp_path: Path, name: str):
    put(archive, name)
    for file in (archive, tar(tmp_path / "photos.tar", lambda t: t.addfile(member(name, PNG), io.BytesIO(PNG)))):
        dataset = scan(file)
        assert paths(dataset) == list(IMAGES)
        assert findings_by_kind(dataset) == {"outside": ("error", (name,), "--skip-bad")}


def test_links_are_never_followed(archive: Path, tmp_path: Path):
    link = zipfile.ZipInfo("cat/link.png")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    put(archive, link, b"/etc/passwd")
    tar_file = tar(tmp_path / "p.tar", lambda t: t.addfile(member("cat/link.png", kind=tarfile.SYMTYPE, target="/etc/passwd")))
    for file in (archive, tar_file):
        assert findings_by_kind(scan(file)) == {"archive-link": ("warning", ("cat/link.png",), "")}


def test_hard_link_in_a_tar_is_resolved(tmp_path: Path):
    def add(opened: tarfile.TarFile) -> None:
        opened.addfile(member("dog/2.png", kind=tarfile.LNKTYPE, target="cat/1.png"))
        opened.addfile(member("dog/3.png", kind=tarfile.LNKTYPE, target="cat/9.png"))

    dataset = scan(tar(tmp_path / "photos.tar", add))
    assert paths(dataset) == ["cat/1.png", "dog/1.png", "dog/2.png"]
    assert dataset.source.read("dog/2.png") == IMAGES["cat/1.png"]
    assert findings_by_kind(dataset) == {"broken-link": ("error", ("dog/3.png",), "--skip-bad")}


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_devices_in_a_tar_are_ignored(tmp_path: Path, kind: bytes):
    dataset = scan(tar(tmp_path / "photos.tar", lambda opened: opened.addfile(member("cat/device.png", kind=kind))))
    assert (paths(dataset), dataset.n_ignored) == (list(IMAGES), 1)


def test_last_of_duplicate_members_is_used(archive: Path, tmp_path: Path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        put(archive, "cat/1.png", PNG + b"new")
    again = tar(tmp_path / "p.tar", lambda t: t.addfile(member("cat/1.png", PNG + b"new"), io.BytesIO(PNG + b"new")))
    for file in (archive, again):
        dataset = scan(file)
        assert findings_by_kind(dataset) == {"twice-packed": ("warning", ("cat/1.png",), "")}
        assert dataset.source.read("cat/1.png") == PNG + b"new"
        assert paths(dataset) == list(IMAGES)


def test_leading_dot_in_tar_paths_is_removed(tmp_path: Path):
    with tarfile.open(tmp_path / "p.tar", "w") as opened:
        for name in IMAGES:
            opened.addfile(member(f"./{name}", PNG), io.BytesIO(PNG))
    assert paths(scan(tmp_path / "p.tar")) == list(IMAGES)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_a_tar_are_complete(tmp_path: Path, format: int):
    name = "cat/" + "é" * 120 + ".png"
    dataset = scan(tar(tmp_path / "p.tar", lambda t: t.addfile(member(name, PNG), io.BytesIO(PNG)), format=format))
    assert name in paths(dataset)


def test_truncated_tar_is_rejected(tmp_path: Path):
    archive = tar(tmp_path / "photos.tar")
    archive.write_bytes(archive.read_bytes()[:1200])
    with pytest.raises(DatasetError, match=r"photos\.tar"):
        scan(archive)


@pytest.mark.parametrize(("flag", "name"), [(0x800, "écureuil"), (0, "écureuil"), (0, "Ècole")])
def test_utf8_names_are_decoded_with_and_without_the_flag(tmp_path: Path, flag: int, name: str):
    """Linux and macOS write UTF-8, with or without the flag."""
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as opened:
        opened.writestr(f"{name}/1.png", PNG)
        opened.writestr("dog/1.png", PNG)
    content = bytearray((tmp_path / "p.zip").read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 8 : entry + 10] = struct.pack("<H", flag)
    (tmp_path / "p.zip").write_bytes(content)
    assert name in scan(tmp_path / "p.zip").labels


def test_cp437_names_are_decoded(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as opened:
        opened.writestr("caf_/1.png", PNG)
        opened.writestr("dog/1.png", PNG)
    (tmp_path / "p.zip").write_bytes((tmp_path / "p.zip").read_bytes().replace(b"caf_", b"caf\x82"))  # code page 437
    assert scan(tmp_path / "p.zip").labels == ("café", "dog")


def test_dos_backslashes_become_slashes(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as opened:
        for name in ("cat\\1.png", "dog\\1.png"):
            info = zipfile.ZipInfo(name)
            info.create_system = 0
            opened.writestr(info, PNG)
    assert paths(scan(tmp_path / "p.zip")) == list(IMAGES)


def test_self_extracting_zip_is_read(archive: Path):
    archive.write_bytes(b"#!/bin/sh\nexit 0\n" * 50 + archive.read_bytes())
    assert Source(archive).read("cat/1.png") == IMAGES["cat/1.png"]


def test_zip_with_a_comment_is_read(archive: Path):
    with zipfile.ZipFile(archive, "a") as opened:
        opened.comment = b"holiday photos" * 1000
    assert paths(scan(archive)) == list(IMAGES)


@pytest.mark.slow
def test_zip64_is_read(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as opened:
        for name, content in IMAGES.items():
            with opened.open(name, "w", force_zip64=True) as file:
                file.write(content)
        for number in range(66_000):  # more than zip without zip64 allows
            opened.writestr(f"cat/{number:05d}.txt", b"")
    dataset = scan(tmp_path / "p.zip")
    assert (paths(dataset), dataset.n_ignored) == (list(IMAGES), 66_000)
    assert dataset.source.read("dog/1.png") == IMAGES["dog/1.png"]


def test_archive_that_changed_since_the_scan_is_rejected(tmp_path: Path):
    dataset = scan(tar(tmp_path / "photos.tar"))
    tar(tmp_path / "photos.tar", lambda opened: opened.addfile(member("cat/0.png", PNG), io.BytesIO(PNG)))
    with pytest.raises(DatasetError, match=r"photos\.tar has changed since it was listed"):
        dataset.source.read("dog/1.png")


def test_source_of_an_archive_can_be_pickled_after_use(archive: Path, tmp_path: Path):
    for file in (archive, tar(tmp_path / "photos.tar")):
        source = scan(file).source
        again = pickle.loads(pickle.dumps(source))  # noqa: S301 - trusted bytes
        assert again.read("cat/1.png") == IMAGES["cat/1.png"]


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_tar_is_decompressed_into_the_cache_once(tmp_path: Path, cache: Path, mode: str):
    archive = tar(tmp_path / "photos.tgz", mode=mode)
    assert scan(archive).source.read("dog/1.png") == IMAGES["dog/1.png"]
    [copy] = newest(cache)
    modified_ns = copy.stat().st_mtime_ns
    assert Source(archive).read("cat/1.png") == IMAGES["cat/1.png"]
    assert [path.stat().st_mtime_ns for path in newest(cache)] == [modified_ns]
    copy.unlink()


def newest(cache: Path) -> list[Path]:
    return sorted((cache / "unpacked").iterdir(), key=lambda path: path.stat().st_mtime_ns)[-1:]


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_file_that_is_not_a_tar_is_rejected(tmp_path: Path, compress: Callable[[bytes], bytes]):
    (tmp_path / "photos.gz").write_bytes(compress(b"words " * 1000))
    with pytest.raises(DatasetError, match=r"photos\.gz is neither a folder"):
        scan(tmp_path / "photos.gz")


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_truncated_compressed_tar_is_rejected_and_leaves_no_files(tmp_path: Path, cache: Path, mode: str):
    archive = tar(tmp_path / "photos.tgz", lambda t: t.addfile(member("cat/2.png", NOISE), io.BytesIO(NOISE)), mode=mode)
    archive.write_bytes(archive.read_bytes()[:-5000])
    before = sorted((cache / "unpacked").glob("*")) if (cache / "unpacked").exists() else []
    with pytest.raises(DatasetError, match=r"photos\.tgz is damaged or truncated"):
        scan(archive)
    assert sorted((cache / "unpacked").glob("*")) == before


NOISE = bytes((number * number * 2654435761 >> 13) & 255 for number in range(100_000))


def test_decompression_bomb_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("graft.training.data.readers.decompress.BOMB_CHECK_MIN_BYTES", 2**20)
    archive = tar(tmp_path / "p.tgz", lambda t: t.addfile(member("cat/2.png", BLANK), io.BytesIO(BLANK)), "w:gz")
    with pytest.raises(DatasetError, match="decompresses to more than 200 times its size"):
        scan(archive)


BLANK = bytes(20 * 2**20)


def test_decompression_leaves_free_disk_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("graft.training.data.readers.decompress.MIN_FREE_DISK", 2**62)
    with pytest.raises(DatasetError, match="bytes available in"):
        scan(tar(tmp_path / "p.tgz", mode="w:gz"))


def test_folder_members_are_not_files(tmp_path: Path):
    issues = ScanIssues()
    archive = tar(tmp_path / "p.tar", lambda opened: opened.addfile(member("hen", kind=tarfile.DIRTYPE)))
    assert [name for name, _ in Source(archive).list_files(issues)] == list(IMAGES)
    assert issues.empty_folders == ["hen"]

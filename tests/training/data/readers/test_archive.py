"""Archives: members are read in place; damaged, malicious and unusual members are reported."""

import bz2
import gzip
import io
import lzma
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from graft.training.audit.data_audit import audit
from graft.training.audit.image_scan import scan_images
from graft.training.cli.exit_codes import EXIT_DISK, error_message, exit_code
from graft.training.data.dataset import Dataset, DatasetError, scan
from graft.training.data.errors import ScanIssues
from graft.training.data.readers.source import Source
from graft.training.runtime.cache_dir import cache_folder

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
    assert Source(archive).head("cat/2.png") == content[:512]


def set_method(archive: Path, method: int) -> None:
    """Change the method of the last member in the central directory."""
    content = bytearray(archive.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 10 : entry + 12] = struct.pack("<H", method)
    archive.write_bytes(content)


@pytest.mark.parametrize(("method", "name"), [(9, "Deflate64"), (14, "LZMA"), (93, "Zstandard"), (99, "method 99")])
def test_unsupported_compression_is_a_named_error_that_can_be_skipped(archive: Path, method: int, name: str):
    put(archive, "cat/2.png")
    set_method(archive, method)
    dataset = scan(archive)
    assert findings_by_kind(dataset) == {"packing": ("error", ("cat/2.png",), "--skip-bad")}
    remedy = "extract the archive, or compress it again with deflate (1): cat/2.png"
    assert dataset.findings[0].text == f"archive members compressed with {name}: {remedy}"


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


def zip_of_names(path: Path, names: list[bytes], system: int = 0) -> Path:
    """A zip with images of these names, stored as they are, without the UTF-8 flag."""
    placeholders = [b"%03d" % number + b"#" * (len(name) - 3) for number, name in enumerate(names)]
    with zipfile.ZipFile(path, "w") as opened:
        for placeholder, name in zip(placeholders, names, strict=True):
            info = zipfile.ZipInfo(placeholder.decode())
            info.create_system = system
            opened.writestr(info, PNG + name)
    content = path.read_bytes()
    for placeholder, name in zip(placeholders, names, strict=True):
        content = content.replace(placeholder, name)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("code_page", "labels"),
    [
        ("cp437", ("Vögel", "café")),
        ("cp850", ("Blüten", "árvore", "garça")),
        ("cp852", ("kočka", "myš", "růže", "žába")),
        ("cp866", ("кошка", "птица", "собака")),
        ("cp932", ("いぬ", "ねこ", "桜")),
        ("gbk", ("狗", "猫", "花", "鸟")),
        ("big5", ("汽車", "玫瑰", "蘋果", "貓")),
        ("cp949", ("강아지", "고양이", "꽃")),
    ],
)
def test_names_in_an_old_code_page_are_decoded_and_the_guess_is_shown(tmp_path: Path, code_page: str, labels: tuple[str, ...]):
    names = [f"{label}/{number}.png" for label in labels for number in range(3)]
    dataset = scan(zip_of_names(tmp_path / "p.zip", [name.encode(code_page) for name in names]))
    assert dataset.labels == tuple(sorted(labels))
    assert paths(dataset) == sorted(names)
    [shown] = [finding.text for finding in dataset.findings if finding.kind == "code-page"]
    assert "names in the archive decoded as" in shown
    assert f"such as {names[0]}; if that is wrong, zip again with UTF-8 names" in shown


def test_name_that_is_utf8_by_chance_is_decoded_like_the_others(tmp_path: Path):
    """The bytes of 猫 in GBK are those of è in UTF-8."""
    names = [f"{label}/1.png".encode("gbk") for label in ("猫", "狗", "鸟", "花")]
    assert b"\xc3\xa8" in names[0]
    assert "猫" in scan(zip_of_names(tmp_path / "p.zip", names)).labels


def test_utf8_names_are_no_finding(tmp_path: Path):
    assert scan(zip_of_names(tmp_path / "p.zip", ["いぬ/1.png".encode(), "ねこ/1.png".encode()], 3)).findings == ()


def with_unicode_path(tmp_path: Path, checksum: int) -> Path:
    """A zip whose first name is in code page 932, with Info-ZIP's Unicode field."""
    name, unicode_name = "いぬ/1.png".encode("cp932"), "犬/1.png".encode()
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as opened:
        info = zipfile.ZipInfo("0" * len(name))
        info.extra = struct.pack("<HHBI", 0x7075, 5 + len(unicode_name), 1, checksum) + unicode_name
        opened.writestr(info, PNG)
        opened.writestr("dog/1.png", PNG)
    (tmp_path / "p.zip").write_bytes((tmp_path / "p.zip").read_bytes().replace(b"0" * len(name), name))
    return tmp_path / "p.zip"


def test_unicode_field_of_info_zip_has_the_name(tmp_path: Path):
    archive = with_unicode_path(tmp_path, zlib.crc32("いぬ/1.png".encode("cp932")))
    assert scan(archive).labels == ("dog", "犬")


def test_unicode_field_of_another_name_is_not_used(tmp_path: Path):
    assert scan(with_unicode_path(tmp_path, 12345)).labels == ("dog", "いぬ")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("photos.7z", b"7z\xbc\xaf\x27\x1c" + bytes(60), "a 7z archive: extract it first"),
        ("photos.rar", b"Rar!\x1a\x07\1\0" + bytes(60), "a RAR archive: extract it first"),
        ("photos.tar.zst", b"\x28\xb5\x2f\xfd" + bytes(60), "compressed with Zstandard: extract it first"),
        ("photos.cab", b"MSCF" + bytes(60), "a cabinet archive: extract it first"),
        ("photos.iso", bytes(32_769) + b"CD001" + bytes(60), "a disk image: extract it first"),
        ("photos.dmg", bytes(1000) + b"koly" + bytes(508), "a disk image: extract it first"),
        ("photos.z01", b"PK\x07\x08" + bytes(60), "a part of a split zip archive: join the parts first"),
        ("photos.zip.001", b"PK\x03\x04" + bytes(60), "a part of a split archive: join the parts first"),
        ("photos.zip", b"PK\x03\x04" + bytes(60), "a zip archive that is truncated: the list of its members"),
        ("photos.h5", b"\x89HDF\r\n\x1a\n" + bytes(60), "an HDF5 file: export its images as files first"),
        ("photo.png", PNG + bytes(60), "one PNG image: pass the folder of all images"),
        ("photos.zip", b"7z\xbc\xaf\x27\x1c" + bytes(60), "a 7z archive: extract it first"),
    ],
)
def test_file_that_is_no_data_set_is_named_by_its_content(tmp_path: Path, name: str, content: bytes, expected: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        scan(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name} is {expected}")


def test_last_part_of_a_split_zip_is_named(archive: Path):
    content = bytearray(archive.read_bytes())
    end = content.rindex(b"PK\x05\x06")
    content[end + 4 : end + 8] = struct.pack("<HH", 2, 2)
    archive.write_bytes(content)
    with pytest.raises(
        DatasetError, match=r"photos\.zip is the last part of a split zip archive: .*zip -s 0 photos\.zip --out"
    ):
        scan(archive)


NESTED = {
    "train.zip": b"PK\x03\x04" + bytes(600),
    "train.tar": b"cat/1.png".ljust(257, b"\0") + b"ustar\x0000" + bytes(300),
    "more.7z": b"7z\xbc\xaf\x27\x1c" + bytes(600),
    "photo.jpg.gz": b"\x1f\x8b\x08" + bytes(600),
    "data": b"Rar!\x1a\x07\0" + bytes(600),
}


@pytest.mark.parametrize("name", NESTED)
def test_archive_in_an_archive_is_a_warning(archive: Path, tmp_path: Path, name: str):
    put(archive, f"cat/{name}", NESTED[name])
    content = NESTED[name]
    outer = tar(tmp_path / "p.tar", lambda opened: opened.addfile(member(f"cat/{name}", content), io.BytesIO(content)))
    for file in (archive, outer):
        assert findings_by_kind(scan(file)) == {"archive": ("warning", (f"cat/{name}",), "")}


@pytest.mark.parametrize("name", NESTED)
def test_archive_in_a_folder_is_a_warning(make_folder: Callable[[dict[str, int]], Path], name: str):
    folder = make_folder({"cat": 1, "dog": 1})
    (folder / name).write_bytes(NESTED[name])
    assert findings_by_kind(scan(folder)) == {"archive": ("warning", (name,), "")}


def test_archive_of_nothing_but_an_archive_names_it(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as opened:
        opened.writestr("train.zip", NESTED["train.zip"])
    with pytest.raises(
        DatasetError, match=r"photos\.zip contains no images, but archives: extract them first\.(.|\n)*train\.zip"
    ):
        scan(tmp_path / "photos.zip")


def test_folder_of_nothing_but_an_archive_names_it(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "photos.7z").write_bytes(NESTED["more.7z"])
    with pytest.raises(DatasetError, match=r"contains no images, but archives: pass one of them(.|\n)*photos\.7z"):
        scan(tmp_path / "photos")


@pytest.mark.parametrize("name", ["notes.docx", "table.xlsx", "model.npz", "model.pt"])
def test_document_that_is_a_zip_is_no_archive(archive: Path, name: str):
    put(archive, name, NESTED["train.zip"])
    assert scan(archive).n_ignored == 1


def test_zip_renamed_to_an_image_is_an_error(make_folder: Callable[[dict[str, int]], Path]):
    folder = make_folder({"cat": 12, "dog": 12})
    (folder / "cat" / "odd.jpg").write_bytes(NESTED["train.zip"])
    [error] = [finding for finding in audit(*scan_images(scan(folder))) if finding.severity == "error"]
    assert error.text == "cat/odd.jpg: A ZIP archive is not supported: send the image inside it."


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
    with pytest.raises(DatasetError, match=r"photos\.gz is compressed with (gzip|bzip2|xz): extract it first"):
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
    with pytest.raises(OSError, match="The disk is full") as caught:
        scan(tar(tmp_path / "p.tgz", mode="w:gz"))
    assert (exit_code(caught.value), "\n" in error_message(caught.value)) == (EXIT_DISK, False)
    assert list((cache_folder() / "unpacked").glob(".*")) == []


def test_folder_members_are_not_files(tmp_path: Path):
    issues = ScanIssues()
    archive = tar(tmp_path / "p.tar", lambda opened: opened.addfile(member("hen", kind=tarfile.DIRTYPE)))
    assert [name for name, _ in Source(archive).list_files(issues)] == list(IMAGES)
    assert issues.empty_folders == ["hen"]


def with_entries(archive: Path, change: Callable[[bytearray, int], object]) -> Path:
    """Changes each record of a zip's central directory: `change(content, offset of the record)`."""
    content = bytearray(archive.read_bytes())
    position = content.find(b"PK\x01\x02")
    while position >= 0:
        change(content, position)
        position = content.find(b"PK\x01\x02", position + 1)
    archive.write_bytes(content)
    return archive


def test_a_zip_whose_members_share_their_bytes_is_rejected(archive: Path):
    shared = with_entries(archive, lambda content, start: struct.pack_into("<L", content, start + 42, 0))
    with pytest.raises(
        DatasetError, match=r"photos\.zip is not a valid archive: its members .*\.png and .*\.png share the same bytes"
    ):
        scan(shared)


def test_a_zip_whose_members_reach_into_each_other_is_rejected(archive: Path):
    longer = with_entries(archive, lambda content, start: struct.pack_into("<L", content, start + 20, 60))
    with pytest.raises(DatasetError, match="share the same bytes"):
        scan(longer)


def test_a_zip_that_inflates_to_more_than_images_do_is_rejected(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        for number in range(9):
            opened.writestr(f"{'cat' if number % 2 else 'dog'}/{number}.png", PNG + bytes(130 * 2**20))
    with pytest.raises(DatasetError, match=r"photos\.zip has [\d,]+ bytes, and its members 1,226,833,992: more than 200 times"):
        scan(tmp_path / "photos.zip")


def test_a_tar_with_ten_thousand_names_for_one_large_image_is_rejected(tmp_path: Path):
    large = PNG + bytes(2 * 2**20)

    def add(opened: tarfile.TarFile) -> None:
        opened.addfile(member("cat/large.png", large), io.BytesIO(large))
        for number in range(5000):
            opened.addfile(member(f"dog/{number}.png", kind=tarfile.LNKTYPE, target="cat/large.png"))

    with pytest.raises(DatasetError, match=r"more than 200 times its size; no set of images does"):
        scan(tar(tmp_path / "photos.tar", add))


def test_many_blank_images_in_a_small_zip_are_accepted(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        for number in range(20):
            opened.writestr(f"{'cat' if number % 2 else 'dog'}/{number}.bmp", b"BM" + bytes([number]) + bytes(10**6))
    assert len(scan(tmp_path / "photos.zip").samples) == 20

"""MNIST's and CIFAR's own files, written here byte by byte: every pixel and label comes out where it went in."""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft.training.data.dataset import Dataset, DatasetError, scan
from graft.training.data.readers.mnist_cifar import bmp

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (6, 28, 27), dtype=np.uint8)  # not square, so that nothing can be turned unnoticed
COLOUR = RANDOM.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
DIGITS = [7, 2, 1, 0, 4, 7]


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.astype(np.uint8).tobytes()


def mnist(
    folder: Path, names: str = "{part}-{what}-idx{n}-ubyte", compress: bool = False, parts: tuple[str, ...] = ("train", "t10k")
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        for what, n, values in (("images", 3, GREY), ("labels", 1, np.array(DIGITS))):
            name = names.format(part=part, what=what, n=n) + (".gz" if compress else "")
            (folder / name).write_bytes(gzip.compress(idx(values)) if compress else idx(values))
    return folder


def pixels(dataset: Dataset, row: int) -> np.ndarray:
    with Image.open(io.BytesIO(dataset.read(dataset.samples[row]))) as image:
        return np.asarray(image)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        "{part}-{what}-idx{n}-ubyte",
        "{part}-{what}.idx{n}-ubyte",
        "emnist-letters-{part}-{what}-idx{n}-ubyte",
    ],
)
def test_idx_files_are_read_under_all_their_names(tmp_path: Path, cache: Path, names: str, compress: bool):
    dataset = scan(mnist(tmp_path / "set", names, compress))
    assert dataset.labels == ("0", "1", "2", "4", "7")
    assert Counter(sample.part for sample in dataset.samples) == {"train": 6, "test": 6}
    assert [dataset.labels[sample.label] for sample in dataset.samples[:6]] == ["7", "2", "1", "0", "4", "7"]
    for row in range(6):
        np.testing.assert_array_equal(pixels(dataset, row), GREY[row])
        np.testing.assert_array_equal(pixels(dataset, 6 + row), GREY[row])


def test_folder_as_torchvision_leaves_it_is_found(tmp_path: Path):
    mnist(tmp_path / "MNIST/raw")
    mnist(tmp_path / "MNIST/raw", compress=True)
    assert len(scan(tmp_path).samples) == 12


def test_paths_are_the_part_and_the_row(tmp_path: Path):
    paths = [sample.path for sample in scan(mnist(tmp_path)).samples]
    assert paths[:2] == ["train/00000.bmp", "train/00001.bmp"]
    assert paths[-1] == "test/00005.bmp"


def test_one_part_alone_is_no_part(tmp_path: Path):
    assert {sample.part for sample in scan(mnist(tmp_path, parts=("train",))).samples} == {""}


def test_labels_are_in_the_order_of_numbers(tmp_path: Path):
    mnist(tmp_path, parts=("train",))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.array([10, 9, 2, 10, 9, 2])))
    assert scan(tmp_path).labels == ("2", "9", "10")


def test_colour_idx_is_read(tmp_path: Path):
    mnist(tmp_path, parts=("train",))
    colour = COLOUR.transpose(0, 2, 3, 1)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(colour))
    np.testing.assert_array_equal(pixels(scan(tmp_path), 3), colour[3])


@pytest.mark.parametrize("compress", [False, True])
def test_cut_idx_file_is_refused_with_numbers(tmp_path: Path, compress: bool):
    mnist(tmp_path)
    content = idx(GREY)[:-100]
    name = "train-images-idx3-ubyte"
    (tmp_path / name).unlink()
    (tmp_path / (name + (".gz" if compress else ""))).write_bytes(gzip.compress(content) if compress else content)
    with pytest.raises(DatasetError, match=r"is damaged or cut off: it has 4,452 bytes, and its header promises 4,552"):
        scan(tmp_path)


def test_cut_gzip_is_refused_by_name(tmp_path: Path):
    mnist(tmp_path, compress=True)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(DatasetError, match=r"train-images-idx3-ubyte\.gz is damaged or cut off"):
        scan(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"nonsense", "is no IDX file of bytes"),
        (b"", "is no IDX file of bytes"),
        (idx(np.zeros((6, 28), np.uint8)), "holds no images, but an array of (6, 28)"),
        (idx(np.zeros((5, 28, 28), np.uint8)), "do not match: 5 images and 6 labels"),
        (struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**31, 2**31), "damaged or cut off"),
    ],
)
def test_wrong_idx_file_is_refused(tmp_path: Path, content: bytes, said: str):
    mnist(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DatasetError) as refused:
        scan(tmp_path)
    assert said in str(refused.value)


def test_images_without_their_labels_are_refused(tmp_path: Path):
    mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DatasetError, match="has no labels beside train-images-idx3-ubyte"):
        scan(tmp_path)


def test_several_sets_in_one_folder_are_refused_by_name(tmp_path: Path):
    for name in ("letters", "digits"):
        mnist(tmp_path, f"emnist-{name}-{{part}}-{{what}}-idx{{n}}-ubyte")
    with pytest.raises(DatasetError, match=r"several data sets \(emnist-digits, emnist-letters\)"):
        scan(tmp_path)


def cifar10(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for batch, (name, start) in enumerate({"data_batch_1": 0, "data_batch_2": 2, "test_batch": 4}.items()):
        records = [bytes([(batch + row) % 3]) + COLOUR[start + row].tobytes() for row in range(2)]
        (folder / f"{name}.bin").write_bytes(b"".join(records))
    (folder / "batches.meta.txt").write_text("airplane\nautomobile\nbird\n\n")
    (folder / "readme.html").write_text("<html>")
    return folder


def cifar100(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, start in (("train", 0), ("test", 3)):
        records = [bytes([1, row % 2]) + COLOUR[start + row].tobytes() for row in range(3)]
        (folder / f"{name}.bin").write_bytes(b"".join(records))
    (folder / "fine_label_names.txt").write_text("apple\nbear\n")
    (folder / "coarse_label_names.txt").write_text("fish\nfruit\n")
    return folder


def tarred(folder: Path) -> Path:
    with tarfile.open(folder.with_suffix(".tar.gz"), "w:gz") as archive:
        archive.add(folder, folder.name)
    return folder.with_suffix(".tar.gz")


@pytest.mark.parametrize("pack", [lambda folder: folder, lambda folder: folder.parent, tarred])
def test_cifar_10_is_read_as_it_is_distributed(tmp_path: Path, pack: Callable[[Path], Path]):
    dataset = scan(pack(cifar10(tmp_path / "set/cifar-10-batches-bin")))
    assert dataset.labels == ("airplane", "automobile", "bird")
    assert Counter(sample.part for sample in dataset.samples) == {"train": 4, "test": 2}
    assert [sample.path for sample in dataset.samples[::2]] == [
        "data_batch_1/00000.bmp",
        "data_batch_2/00000.bmp",
        "test_batch/00000.bmp",
    ]
    assert [sample.label for sample in dataset.samples] == [0, 1, 1, 2, 2, 0]
    for row in range(6):
        np.testing.assert_array_equal(pixels(dataset, row), COLOUR[row].transpose(1, 2, 0))


@pytest.mark.parametrize("pack", [lambda folder: folder, tarred])
def test_cifar_100_has_its_fine_labels(tmp_path: Path, pack: Callable[[Path], Path]):
    dataset = scan(pack(cifar100(tmp_path / "cifar-100-binary")))
    assert dataset.labels == ("apple", "bear")
    assert [sample.label for sample in dataset.samples] == [0, 1, 0, 0, 1, 0]
    assert [sample.part for sample in dataset.samples] == ["train"] * 3 + ["test"] * 3
    np.testing.assert_array_equal(pixels(dataset, 5), COLOUR[5].transpose(1, 2, 0))


def test_cut_batch_is_refused_by_name(tmp_path: Path):
    file = cifar10(tmp_path) / "data_batch_2.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=r"data_batch_2\.bin is damaged or cut off: its 6,145 bytes are not times 3,073"):
        scan(tmp_path)


def test_label_without_a_name_is_refused(tmp_path: Path):
    (cifar10(tmp_path) / "batches.meta.txt").write_text("airplane\nautomobile\n")
    with pytest.raises(DatasetError, match="it has the label 2, and names for 2"):
        scan(tmp_path)


def test_cifar_in_a_zip_is_to_be_unpacked(tmp_path: Path):
    folder = cifar10(tmp_path / "set")
    with zipfile.ZipFile(tmp_path / "cifar.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    with pytest.raises(DatasetError, match=r"cannot be read inside .*cifar\.zip: unpack it first"):
        scan(tmp_path / "cifar.zip")


class Trap:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return exec, ("open('/tmp/unpickled', 'w')",)


@pytest.mark.parametrize(
    ("names", "binary"),
    [
        (["cifar-10-batches-py/data_batch_1", "cifar-10-batches-py/batches.meta"], "cifar-10-binary"),
        (["data_batch_1"], "cifar-10-binary"),
        (["cifar-100-python/train", "cifar-100-python/test", "cifar-100-python/meta"], "cifar-100-binary"),
        (["train", "test", "meta"], "cifar-100-binary"),
    ],
)
@pytest.mark.parametrize("pack", [lambda folder: folder, tarred])
def test_pickled_cifar_is_refused_with_what_to_get(tmp_path: Path, names: list[str], binary: str, pack: Callable[[Path], Path]):
    for name in names:
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DatasetError, match=rf"a pickle, which can run .*: get the binary version, {binary}\.tar\.gz"):
        scan(pack(tmp_path / "set"))
    assert not Path("/tmp/unpickled").exists()


def test_source_can_be_pickled_after_use(tmp_path: Path):
    dataset = scan(mnist(tmp_path))
    again = pickle.loads(pickle.dumps(dataset.source))  # noqa: S301 - our own bytes
    assert again.read("train/00003.bmp") == dataset.read(dataset.samples[3])


@pytest.mark.parametrize("path", ["train/00006.bmp", "train/-1.bmp", "other/00000.bmp", "train/x.bmp"])
def test_image_that_is_not_there_is_named(tmp_path: Path, path: str):
    with pytest.raises(DatasetError, match=path.replace(".", r"\.")):
        scan(mnist(tmp_path)).source.read(path)


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (28, 28), (3, 5, 3), (32, 31, 3), (1, 2, 3)])
def test_bmp_is_lossless_and_of_the_right_mode(shape: tuple[int, ...]):
    values = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    with Image.open(io.BytesIO(bmp(values))) as image:
        assert (image.format, image.mode) == ("BMP", "L" if len(shape) == 2 else "RGB")
        np.testing.assert_array_equal(np.asarray(image), values)


def test_bytes_of_a_bmp_never_change():
    """The digest of an image names it in caches and splits."""
    assert bmp(np.array([[[1, 2, 3]]], np.uint8)).hex() == (
        "424d3a0000000000000036000000280000000100000001000000010018000000000004000000130b0000130b0000000000000000000003020100"
    )

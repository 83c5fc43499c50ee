"""Which images a model has seen: the same files, and copies that look the same."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from graft.service.package_arrays import ContentError
from graft.training.audit.image_scan import scan_images
from graft.training.data.dataset import Dataset, scan
from graft.training.data.seen_images import NO_IMAGES, ImageHashes, SeenImages
from graft.training.data.splits import Splits


def picture(seed: int, side: int = 200) -> Image.Image:
    """A picture of random shapes, as detailed as a photo."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (12, 12, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def encode(image: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def folder_of(tmp_path: Path, files: list[bytes]) -> Dataset:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir(parents=True)
    for number, content in enumerate(files):
        (tmp_path / ("cat", "dog")[number % 2] / f"{number:03}.jpg").write_bytes(content)
    return scan(tmp_path)


def hashes_of(dataset: Dataset) -> ImageHashes:
    """In the order of the files' numbers."""
    return ImageHashes.read(dataset, sorted(dataset.samples, key=lambda sample: Path(sample.path).name))


@pytest.fixture
def seen(tmp_path: Path) -> SeenImages:
    images = hashes_of(folder_of(tmp_path / "seen", [encode(picture(seed), quality=95) for seed in range(20)]))
    order = np.argsort(images.digests)
    return SeenImages(images.digests[order], images.hashes[order], np.zeros(0, np.uint64))


COPIES = {
    "the same file": lambda image: encode(image, quality=95),
    "saved again": lambda image: encode(image, quality=70),
    "resized": lambda image: encode(image.resize((120, 120), Image.Resampling.LANCZOS)),
    "gray": lambda image: encode(image.convert("L")),
    "blurred": lambda image: encode(image.filter(ImageFilter.GaussianBlur(1))),
    "mirrored": lambda image: encode(ImageOps.mirror(image)),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_copies_are_found_and_others_are_not(seen, tmp_path, copy):
    copies = [copy(picture(seed)) for seed in range(0, 20, 2)]
    others = [encode(picture(seed)) for seed in range(100, 140)]
    contained = seen.contain(hashes_of(folder_of(tmp_path / "new", [*copies, *others])))
    assert contained[: len(copies)].mean() >= 0.9
    assert not contained[len(copies) :].any()


def words(*bits: tuple[int, int]) -> np.ndarray:
    """Hashes of 20 bits each, of which some differ: (N, 2)."""
    return np.array([[(2**20 - 1) ^ across, (2**30 - 1) ^ down] for across, down in bits], np.uint64)


def test_hashes_may_differ_in_four_bits():
    seen = SeenImages(np.array([1], np.uint64), words((0, 0)), np.zeros(0, np.uint64))
    hashes = words((0, 0b1111), (0b1111, 0), (0b11, 0b111), (0b111, 0b11), (0b11, 0b11))
    other = np.arange(2, 7, dtype=np.uint64)
    assert seen.contain(ImageHashes(other, hashes, 0 * hashes)).tolist() == [True, True, False, False, True]
    assert seen.contain(ImageHashes(other, 0 * hashes, hashes)).tolist() == [True, True, False, False, True]


@pytest.mark.parametrize("hash", [(2**20 - 1, 0), (0, 2**20 - 1)])
def test_one_direction_is_enough(hash: tuple[int, int]):
    hashes = np.array([hash], np.uint64)
    seen = SeenImages(np.array([1], np.uint64), hashes, np.zeros(0, np.uint64))
    assert seen.contain(ImageHashes(np.array([2], np.uint64), hashes, 0 * hashes)).tolist() == [True]


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_single_image_is_compared(mirrored: bool):
    seen = SeenImages(np.array([1], np.uint64), words((0, 0)), np.zeros(0, np.uint64))
    views = [words((0, 1)), np.zeros((1, 2), np.uint64)]
    assert seen.contain(ImageHashes(np.array([2], np.uint64), *(views[::-1] if mirrored else views))).tolist() == [True]


def test_a_test_image_of_the_run_is_no_copy_but_may_be_the_same_file(seen, tmp_path):
    files = [encode(picture(0), quality=95), encode(picture(1), quality=70), encode(picture(2), quality=70)]
    new = hashes_of(folder_of(tmp_path / "new", files))
    with_test = SeenImages(seen.digests, seen.hashes, new.digests[:2])
    assert with_test.contain(new).tolist() == [True, False, True]


def test_blank_and_broken_images_are_no_copies(seen, tmp_path):
    files = [encode(Image.new("RGB", (100, 100), "white")), b"no image", encode(Image.new("RGB", (50, 50), "white"))]
    new = hashes_of(folder_of(tmp_path / "new", files))
    assert not seen.contain(new).any()
    blank = SeenImages(new.digests[:2], new.hashes[:2], np.zeros(0, np.uint64))
    assert blank.contain(new).tolist() == [True, True, False]  # the same bytes only


def test_train_and_validation_are_seen_and_test_is_known(tmp_path):
    dataset, table = scan_images(folder_of(tmp_path / "data", [encode(picture(seed)) for seed in range(9)]))
    images, samples = ImageHashes.of(dataset.samples, *table.hashes()), dataset.samples
    np.testing.assert_array_equal(ImageHashes.read(dataset, samples).hashes, images.hashes)
    seen = SeenImages.of(images, Splits(samples[:5], samples[5:7], samples[7:]))
    assert seen.contain(images).tolist() == [True] * 7 + [False] * 2
    assert sorted(seen.test.tolist()) == sorted(images.digests[7:].tolist())


def test_what_is_saved_is_loaded(seen, tmp_path):
    seen.save(tmp_path / "seen_images.npz")
    loaded = SeenImages.load(tmp_path / "seen_images.npz")
    for name in ("digests", "hashes", "test"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(seen, name))


@pytest.mark.parametrize(
    "arrays",
    [
        {"digests": np.zeros(2, np.uint64), "hashes": np.zeros((3, 2), np.uint64), "test": np.zeros(0, np.uint64)},
        {"digests": np.zeros(2, np.uint64), "hashes": np.zeros((2, 3), np.uint64), "test": np.zeros(0, np.uint64)},
        {"digests": np.zeros(2, np.float64), "hashes": np.zeros((2, 2), np.uint64), "test": np.zeros(0, np.uint64)},
        {"digests": np.zeros(2, np.uint64), "hashes": np.zeros((2, 2), np.uint64)},
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays):
    np.savez(tmp_path / "seen_images.npz", **arrays)
    with pytest.raises(ContentError):
        SeenImages.load(tmp_path / "seen_images.npz")


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "seen_images.npz", "w") as archive:
        archive.writestr("other.npy", b"")
    with pytest.raises(ContentError):
        SeenImages.load(tmp_path / "seen_images.npz")


def test_nothing_contains_nothing(seen):
    assert not NO_IMAGES.contain(ImageHashes(seen.digests, seen.hashes, seen.hashes)).any()

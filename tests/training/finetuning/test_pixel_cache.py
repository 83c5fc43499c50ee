"""The pixel cache is atomic, keyed by content, and limited in size."""

import multiprocessing
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from graft.service.imaging.preprocess import decode, decode_resized
from graft.service.manifest import Preprocessing
from graft.training.audit.image_scan import scan_images
from graft.training.data.dataset import Dataset, DatasetError, Sample, scan
from graft.training.finetuning import pixel_cache
from graft.training.finetuning.pixel_cache import GIB, PixelCache, cropped, open_cache, resized

SMALL = Preprocessing(resize=36, crop=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
IMAGE_BYTES = 36 * 36 * 3


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch) -> Path:
    """The folder of decoded images in a temporary cache."""
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pixels"


@pytest.fixture
def dataset(make_folder) -> Dataset:
    return scan_images(scan(make_folder({"cat": 6, "dog": 6})))[0]


class Unread:
    """A dataset that must not be read."""

    def read(self, sample: Sample) -> bytes:
        raise AssertionError(f"{sample.path} was read")


def kept(dataset: Dataset, limit_gib: float = 1) -> PixelCache:
    return open_cache(dataset, dataset.samples, resized, SMALL, limit_gib)


def equal(images: PixelCache, dataset: Dataset) -> bool:
    expected = [decode_resized(dataset.read(sample), SMALL) for sample in dataset.samples]
    return all(np.array_equal(images[number], image) for number, image in enumerate(expected))


def files(home: Path, ending: str) -> list[Path]:
    return sorted(home.glob(f"*/*{ending}"))


def size(home: Path) -> int:
    return sum(path.stat().st_size for path in files(home, ".bin"))


def test_second_call_reads_no_source_files(dataset: Dataset):
    kept(dataset)
    again = open_cache(Unread(), dataset.samples, resized, SMALL, 1)
    assert equal(again, dataset)


def test_images_are_found_by_content_in_any_order_and_selection(dataset: Dataset):
    kept(dataset)
    backwards = dataset.samples[::-2]
    again = open_cache(Unread(), backwards, resized, SMALL, 1)
    assert all(np.array_equal(again[n], decode_resized(dataset.read(sample), SMALL)) for n, sample in enumerate(backwards))


def test_only_new_images_are_decoded(dataset: Dataset, home: Path):
    open_cache(dataset, dataset.samples[:5], resized, SMALL, 1)
    kept(dataset)
    assert [path.stat().st_size // IMAGE_BYTES for path in files(home, ".bin")] in ([5, 7], [7, 5])


def test_resized_images_keep_their_aspect_ratio(make_folder, encode):
    folder = make_folder({"cat": 2, "dog": 2})
    (folder / "cat" / "wide.png").write_bytes(encode(np.zeros((40, 100, 3), np.uint8)))
    dataset = scan_images(scan(folder))[0]
    [number] = [number for number, sample in enumerate(dataset.samples) if sample.path.endswith("wide.png")]
    assert kept(dataset)[number].shape == (36, 90, 3)


@pytest.mark.parametrize("fit", ["crop", "squash", "letterbox"])
def test_cropped_images_equal_those_of_the_service_and_are_cached_by_fit(dataset: Dataset, fit: str):
    for chosen in ("crop", fit):  # the entry of the other fit must not be used
        preprocessing = SMALL.model_copy(update={"fit": chosen})
        images = open_cache(dataset, dataset.samples, cropped, preprocessing, 1)
    expected = [decode(dataset.read(sample), preprocessing).pixels for sample in dataset.samples]
    np.testing.assert_array_equal(np.stack([images[number] for number in range(len(images))]), np.stack(expected))


def test_mean_and_std_do_not_affect_the_cache(dataset: Dataset):
    kept(dataset)
    open_cache(Unread(), dataset.samples, resized, SMALL.model_copy(update={"mean": (0.1, 0.2, 0.3)}), 1)


def test_another_size_is_decoded_again(dataset: Dataset):
    kept(dataset)
    images = open_cache(dataset, dataset.samples, resized, SMALL.model_copy(update={"resize": 40}), 1)
    assert images[0].shape == (40, 40, 3)


def test_cached_images_are_read_only(dataset: Dataset):
    with pytest.raises(ValueError, match="read-only"):
        kept(dataset)[0][:] = 0


def test_without_a_cache_images_are_decoded_each_time(dataset: Dataset, home: Path):
    assert equal(kept(dataset, limit_gib=0), dataset)
    assert files(home, ".bin") == []


def test_limit_holds_and_the_rest_is_decoded_each_time(dataset: Dataset, home: Path, capsys):
    images = kept(dataset, limit_gib=3.5 * IMAGE_BYTES / GIB)
    assert equal(images, dataset)
    assert size(home) == 4 * IMAGE_BYTES  # the image that crossed the limit is complete
    assert "8 decoded images do not fit into the pixel cache: they are decoded in every epoch" in capsys.readouterr().err


def test_nearly_full_disk_is_not_used(dataset: Dataset, home: Path, monkeypatch):
    assert pixel_cache.cache_folder() == home.parent  # chosen while the disk has space
    monkeypatch.setattr(
        pixel_cache.shutil, "disk_usage", lambda _: os.terminal_size and type("D", (), {"total": 100, "free": 9})()
    )
    assert equal(kept(dataset), dataset)
    assert files(home, ".bin") == []


def test_least_recently_used_shards_are_evicted(make_folder, home: Path):
    dataset = scan_images(scan(make_folder({"cat": 4, "dog": 4})))[0]
    for age, resize in ((300, 34), (100, 35)):
        open_cache(dataset, dataset.samples, resized, SMALL.model_copy(update={"resize": resize}), 1)
        newest = max(files(home, ".npz"), key=lambda path: path.stat().st_mtime)
        os.utime(newest, (time.time() - age,) * 2)
    kept(dataset, limit_gib=(8 * 4 * 36**2 + 8 * 3 * 35**2) / GIB)
    sides = sorted((path.stat().st_size / 3 / 8) ** 0.5 for path in files(home, ".bin"))
    assert sides == [35, 36]


def test_large_datasets_use_several_shards(dataset: Dataset, home: Path, monkeypatch):
    monkeypatch.setattr(pixel_cache, "SHARD_BYTES", 5 * IMAGE_BYTES)
    assert equal(kept(dataset), dataset)
    assert sorted(path.stat().st_size // IMAGE_BYTES for path in files(home, ".bin")) == [2, 5, 5]
    assert equal(open_cache(Unread(), dataset.samples, resized, SMALL, 1), dataset)


@pytest.mark.parametrize("damage", ["cut", "emptied", "index cut", "index of nothing", "pixels gone"])
def test_corrupt_shard_is_removed_and_decoded_again(dataset: Dataset, home: Path, damage: str):
    kept(dataset)
    [data], [index] = files(home, ".bin"), files(home, ".npz")
    if damage == "pixels gone":
        data.unlink()
    elif damage == "index of nothing":
        np.savez(index, keys=np.zeros((0, 32), np.uint8), places=np.zeros((0, 3), np.int64))
    else:
        path = index if damage.startswith("index") else data
        os.truncate(path, 0 if damage == "emptied" else path.stat().st_size - 7)
    assert equal(kept(dataset), dataset)
    assert equal(open_cache(Unread(), dataset.samples, resized, SMALL, 1), dataset)
    assert not index.exists()


def test_pixels_without_an_index_are_ignored(dataset: Dataset, home: Path):
    kept(dataset)
    [index] = files(home, ".npz")
    index.unlink()
    assert equal(kept(dataset), dataset)
    assert len(files(home, ".npz")) == 1


def test_failing_image_leaves_no_unfinished_files(dataset: Dataset, home: Path):
    Path(dataset.source.root, dataset.samples[7].path).unlink()
    with pytest.raises(DatasetError, match=dataset.samples[7].path):
        kept(dataset)
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_old_unfinished_files_of_a_killed_run_are_removed(dataset: Dataset, home: Path):
    folder = home / "some"
    folder.mkdir(parents=True)
    for name in (".old.tmp", "old.bin", ".new.tmp", "new.bin"):
        (folder / name).write_bytes(b"left")
        if "old" in name:
            os.utime(folder / name, (time.time() - 7200,) * 2)
    kept(dataset)
    assert sorted(path.name for path in folder.iterdir()) == [".new.tmp", "new.bin"]


def test_corrupt_image_is_named(dataset: Dataset):
    sample = dataset.samples[3]
    Path(dataset.source.root, sample.path).write_bytes(b"no image")
    damaged = scan_images(scan(dataset.source.root))[0]
    with pytest.raises(DatasetError, match=rf"{sample.path} cannot be used: The file is not a supported image"):
        kept(damaged)


def test_changed_image_is_named_and_not_cached_under_its_old_digest(dataset: Dataset, home: Path, encode, photo):
    sample = dataset.samples[3]
    Path(dataset.source.root, sample.path).write_bytes(encode(photo))
    with pytest.raises(DatasetError, match=rf"{sample.path} cannot be read: it has changed"):
        kept(dataset)
    assert files(home, ".npz") == []


def _sum(images: PixelCache) -> int:
    return sum(int(images[number].sum()) for number in range(len(images)))


def test_other_process_maps_the_same_file(dataset: Dataset):
    images = kept(dataset)
    here = _sum(images)
    assert len(pickle.dumps(images)) < 12 * IMAGE_BYTES  # memory maps are not pickled
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_sum, (images,)) == here

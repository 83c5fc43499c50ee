"""Near copies: the nearest images by features are compared, and those that are the same picture are found."""

from pathlib import Path

import numpy as np
import pytest
from copied_pictures import COPIES, jpeg, picture
from PIL import Image

from graft.training.audit import near_copies
from graft.training.audit.image_scan import ScanTable, scan_images
from graft.training.audit.near_copies import MIN_SIDE, find_near_copies
from graft.training.data.dataset import Dataset, scan
from graft.training.features.extraction import Features

Scanned = tuple[Dataset, ScanTable]


def scanned(tmp_path: Path, images: list[Image.Image]) -> Scanned:
    """The images as files of two labels, in order."""
    for number, image in enumerate(images):
        folder = tmp_path / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        (folder / f"{number:02}.jpg").write_bytes(jpeg(image))
    dataset, table = scan_images(scan(tmp_path))
    return dataset, table


def features_of(dataset: Dataset, without: str = "") -> Features:
    """Features that tell nothing: the neighbors of an image are any."""
    samples = [sample for sample in dataset.samples if Path(sample.path).stem != without]
    array = np.random.default_rng(0).normal(size=(len(samples), 8)).astype(np.float16)
    return Features({sample.digest: row for row, sample in enumerate(samples)}, array, {"last": slice(0, 8)}, {}, 0)


def names(dataset: Dataset, pairs) -> set[frozenset[str]]:
    name_of = {sample.digest: Path(sample.path).stem for sample in dataset.samples}
    return {frozenset((name_of[one], name_of[other])) for one, other in pairs}


def pairs_in(tmp_path: Path, images: list[Image.Image], without: str = "") -> set[frozenset[str]]:
    dataset, table = scanned(tmp_path, images)
    return names(dataset, find_near_copies(dataset, table, features_of(dataset, without)))


@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("batch", [1, 64])
def test_copy_of_each_kind_is_found(tmp_path: Path, monkeypatch, kind: str, batch: int):
    monkeypatch.setattr(near_copies, "BATCH_SIZE", batch)
    images = [picture(0), picture(1), COPIES[kind](picture(0)), picture(2)]
    assert pairs_in(tmp_path, images) == {frozenset(("00", "02"))}


def test_other_pictures_are_no_copies(tmp_path: Path):
    assert pairs_in(tmp_path, [picture(seed) for seed in range(4)]) == set()


def test_images_without_features_are_passed_over(tmp_path: Path):
    turned = COPIES["turned"](picture(0))
    assert pairs_in(tmp_path, [picture(0), picture(1), turned, picture(2)], without="02") == set()


def test_pairs_of_the_scan_need_no_features(tmp_path: Path):
    resized = picture(0).resize((150, 120))
    assert pairs_in(tmp_path, [picture(0), picture(1), resized, picture(2)], without="02") == {frozenset(("00", "02"))}


@pytest.mark.parametrize(("side", "found"), [(MIN_SIDE - 1, False), (MIN_SIDE, True)])
def test_small_pictures_are_not_compared(tmp_path: Path, side: int, found: bool):
    images = [image.resize((side, 200)) for image in (picture(0), picture(1), COPIES["turned"](picture(0)), picture(2))]
    assert (pairs_in(tmp_path, images) != set()) == found


def test_pairs_that_the_scan_found_are_kept_and_not_compared_again(tmp_path: Path, monkeypatch):
    dataset, table = scanned(tmp_path, [picture(0), picture(1), picture(0).resize((150, 120)), COPIES["turned"](picture(1))])
    assert names(dataset, table.near_duplicates) == {frozenset(("00", "02"))}
    compared = []

    def are_copies(one, other):
        compared.append(len(one))
        return np.zeros(len(one), bool)

    found = names(dataset, find_near_copies(dataset, table, features_of(dataset)))
    assert found == {frozenset(("00", "02")), frozenset(("01", "03"))}
    monkeypatch.setattr(near_copies, "are_copies", are_copies)
    monkeypatch.setattr(near_copies, "may_be_copies", lambda one, other: np.ones(len(one), bool))
    assert find_near_copies(dataset, table, features_of(dataset)) == table.near_duplicates
    assert sum(compared) == 2 * 5  # plain and mirrored, of all pairs of four images but one

"""Random changes that are really random, and validation pixels that are the service's own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from service.artifact import Preprocessing
from service.preprocess import decode
from training.batches import Batches, Fixed, Random, random_changes, seed_worker
from training.dataset import Dataset, DatasetError, scan
from training.looks import examine
from training.recipe import Recipe
from training.splits import split

SQUARE = Preprocessing(resize=72, crop=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture
def dataset(make_folder, encode, photo) -> Dataset:
    folder = make_folder({"cat": 12, "dog": 12})
    (folder / "cat" / "photo.png").write_bytes(encode(photo))
    return examine(scan(folder))[0]


@pytest.fixture
def same_image(dataset: Dataset) -> Random:
    """One image four times, so that whatever differs is chance."""
    [sample] = (sample for sample in dataset.samples if sample.path == "cat/photo.png")
    return Random(dataset, (sample,) * 4, SQUARE, flips=True)


def epoch(images: Random, **settings: object) -> list[np.ndarray]:
    """The first draw of each of two workers, then the second of each."""
    return [pixels[0].numpy() for pixels, _ in DataLoader(images, batch_size=1, num_workers=2, timeout=60, **settings)]


def training_batches(dataset: Dataset, **choices: object) -> list[torch.Tensor]:
    torch.manual_seed(0)
    recipe = Recipe.model_validate({"batch_size": 4, **choices})
    loader = Batches(dataset, split(dataset, 0), SQUARE, recipe, gpu=False).train_dataloader()
    return [pixels for pixels, _ in loader]


def test_two_workers_change_the_same_image_differently(same_image: Random):
    first, second, *_ = epoch(same_image, worker_init_fn=seed_worker)
    assert not np.array_equal(first, second)


def test_two_epochs_change_the_same_image_differently(same_image: Random):
    loader = DataLoader(same_image, batch_size=1, num_workers=2, timeout=60, worker_init_fn=seed_worker)
    one, other = ([pixels.numpy() for pixels, _ in loader] for _ in range(2))
    assert not any(np.array_equal(before, after) for before, after in zip(one, other, strict=True))


def test_left_alone_albumentations_repeats_itself_in_every_worker_and_epoch(same_image: Random):
    # Why `seed_worker` exists; when this fails, albumentations has mended it.
    first, second, *_ = epoch(same_image)
    again, *_ = epoch(same_image)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, again)


def test_training_batches_get_their_workers_seeded(dataset: Dataset):
    loader = Batches(dataset, split(dataset, 0), SQUARE, Recipe(batch_size=4), gpu=False).train_dataloader()
    assert loader.worker_init_fn is seed_worker


def test_same_seed_makes_the_same_batches(dataset: Dataset):
    one, other = training_batches(dataset), training_batches(dataset)
    assert len(one) == 4
    assert all(torch.equal(before, after) for before, after in zip(one, other, strict=True))


def test_batches_are_bytes_with_labels(dataset: Dataset):
    batches = Batches(dataset, split(dataset, 0), SQUARE, Recipe(batch_size=4), gpu=False)
    for loader in (batches.train_dataloader(), batches.val_dataloader()):
        pixels, labels = next(iter(loader))
        assert (tuple(pixels.shape), pixels.dtype) == ((4, 64, 64, 3), torch.uint8)
        assert (tuple(labels.shape), labels.dtype) == ((4,), torch.int64)


def test_labels_stay_with_their_images(dataset: Dataset):
    splits = split(dataset, 0)
    fixed = Fixed(dataset, splits.validation, SQUARE)
    assert [fixed[index][1] for index in range(len(fixed))] == [sample.label for sample in splits.validation]


def test_last_training_batch_is_never_a_remnant(dataset: Dataset):
    sizes = [len(pixels) for pixels in training_batches(dataset)]
    assert sizes == [4, 4, 4, 4]  # of 17 images


def test_few_images_still_make_a_batch(dataset: Dataset):
    assert [len(pixels) for pixels in training_batches(dataset, batch_size=32)] == [17]


@pytest.mark.parametrize("fit", ["crop", "squash", "letterbox"])
def test_validation_pixels_are_the_services_own_bit_for_bit(dataset: Dataset, fit: str):
    preprocessing = SQUARE.model_copy(update={"fit": fit})
    splits = split(dataset, 0)
    batches = Batches(dataset, splits, preprocessing, Recipe(batch_size=32), gpu=False)
    [(pixels, _)] = list(batches.val_dataloader())
    expected = [decode(dataset.read(sample), preprocessing).pixels for sample in splits.validation]
    np.testing.assert_array_equal(pixels.numpy(), np.stack(expected))


def test_images_are_mirrored_only_where_allowed(photo):
    def mirrored(flips: bool) -> int:
        change = random_changes(SQUARE, flips)
        change.set_random_seed(0)
        changed = [change(image=photo)["image"].astype(int) for _ in range(40)]
        return sum(image[:, 0, 1].mean() > image[:, -1, 1].mean() for image in changed)  # green grows to the right

    assert mirrored(flips=False) == 0
    assert 10 <= mirrored(flips=True) <= 30


@pytest.mark.parametrize("shape", [(72, 72, 3), (72, 300, 3), (500, 72, 3)])
def test_changed_image_has_the_networks_size(shape: tuple[int, ...]):
    changed = random_changes(SQUARE, flips=True)(image=np.zeros(shape, np.uint8))["image"]
    assert (changed.shape, changed.dtype) == ((64, 64, 3), np.uint8)


def test_random_changes_refuse_an_argument_they_do_not_know(photo):
    # Unless strict, albumentations only warns of one, and the change that was meant never happens.
    with pytest.raises(ValueError, match="picture"):
        random_changes(SQUARE, flips=True)(image=photo, picture=photo)


def test_image_that_vanished_since_the_scan_is_named(dataset: Dataset):
    splits = split(dataset, 0)
    Path(dataset.source.root, splits.validation[0].path).unlink()
    batches = Batches(dataset, splits, SQUARE, Recipe(), gpu=False)
    with pytest.raises(DatasetError, match=rf"{splits.validation[0].path} cannot be read"):
        list(batches.val_dataloader())

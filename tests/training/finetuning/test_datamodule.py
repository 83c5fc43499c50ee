"""Training batches are random and reproducible, and validation pixels equal those of the service."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import albumentations as A
import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from graft.service.imaging.preprocess import decode
from graft.service.manifest import Preprocessing
from graft.training.audit.image_scan import scan_images
from graft.training.config.finetune_config import DataStats, FineTuneConfig, resolve_config
from graft.training.config.recipe import Recipe
from graft.training.data.dataset import Dataset, DatasetError, scan
from graft.training.data.splits import Splits, split
from graft.training.finetuning.augmentations import CORRUPTION_AUGMENTATIONS, train_transforms
from graft.training.finetuning.datamodule import (
    DataModule,
    EpochSampler,
    SampleDraw,
    TrainDataset,
    batch_paths,
    planned_workers,
)
from graft.training.finetuning.pixel_cache import open_cache, resized

SQUARE = Preprocessing(resize=72, crop=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def transforms(side: int, augment: str, flips: bool, rotations: bool, corruptions: tuple[str, ...] = ()) -> A.Compose:
    options = {"augment": augment, "flips": flips, "rotations": rotations, "augment_corruptions": corruptions}
    return train_transforms(side, SimpleNamespace(**options))


@pytest.fixture
def dataset(make_folder, encode, photo) -> Dataset:
    folder = make_folder({"cat": 12, "dog": 12})
    (folder / "cat" / "photo.png").write_bytes(encode(photo))
    return scan_images(scan(folder))[0]


@pytest.fixture
def same_image(dataset: Dataset) -> TrainDataset:
    """One image eight times, so that differences come from augmentation only."""
    [sample] = (sample for sample in dataset.samples if sample.path == "cat/photo.png")
    images = open_cache(dataset, (sample,) * 8, resized, SQUARE, 0)
    return TrainDataset(images, torch.zeros(8, dtype=torch.int64), transforms(64, "medium", True, True), 64, seed=0)


def planned(dataset: Dataset, splits: Splits, **choices: object) -> FineTuneConfig:
    recipe = Recipe.model_validate({"batch_size": 4, "balance": "none", **choices})
    counts = dataset.counts(splits.train)
    return resolve_config(recipe, DataStats(len(splits.train), counts, multilabel=dataset.multilabel))


def batches(
    dataset: Dataset, preprocessing: Preprocessing = SQUARE, splits: Splits | None = None, **choices: object
) -> DataModule:
    splits = splits or split(dataset, 0)
    return DataModule(dataset, splits, preprocessing, planned(dataset, splits, **choices), device="cpu")


def epoch(images: TrainDataset, number: int, workers: int, before: tuple[int, ...] = ()) -> torch.Tensor:
    """Samples of one epoch, sorted by image, after other epochs of the same loader."""
    order = EpochSampler(len(images), seed=0)
    loader = DataLoader(
        images,
        2,
        sampler=order,
        num_workers=workers,
        timeout=60 if workers else 0,
        persistent_workers=workers > 0,
        collate_fn=_same,
    )
    for earlier in (*before, number):
        order.set_epoch(earlier)
        found = torch.cat([batch for batch, _ in loader])
    rows = [draw.row for draw in order.draws(number)]
    return found[np.argsort(rows)]


def _same(batch):
    return batch


def test_two_workers_augment_the_same_image_differently(same_image: TrainDataset):
    changed = epoch(same_image, 0, workers=2)
    assert len({image.numpy().tobytes() for image in changed}) == 8


def test_two_epochs_augment_the_same_image_differently(same_image: TrainDataset):
    one, other = epoch(same_image, 0, workers=2), epoch(same_image, 1, workers=2)
    assert not any(torch.equal(before, after) for before, after in zip(one, other, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_do_not_depend_on_the_number_of_workers(same_image: TrainDataset, workers: int):
    assert torch.equal(epoch(same_image, 1, workers), epoch(same_image, 1, workers=2))


def test_epoch_does_not_depend_on_earlier_epochs(same_image: TrainDataset):
    assert torch.equal(epoch(same_image, 3, workers=2), epoch(same_image, 3, workers=2, before=(1, 2)))


def test_another_seed_gives_other_augmentations(same_image: TrainDataset):
    images = same_image.images
    other = TrainDataset(images, torch.zeros(8, dtype=torch.int64), transforms(64, "medium", True, True), 64, seed=1)
    assert not torch.equal(same_image[SampleDraw(0, 0)][0], other[SampleDraw(0, 0)][0])


def test_repeated_image_is_augmented_differently(same_image: TrainDataset):
    assert not torch.equal(same_image[SampleDraw(0, 0, 0)][0], same_image[SampleDraw(0, 0, 1)][0])


def test_unseeded_albumentations_repeats_itself_in_every_worker_and_epoch(same_image: TrainDataset):
    # The reason for seeding per image. If this fails, albumentations has fixed it.
    class Unseeded(TrainDataset):
        def _augment(self, draw: SampleDraw) -> np.ndarray:
            return self._transforms(image=self.images[draw.row])["image"]

    images = Unseeded(same_image.images, torch.zeros(8, dtype=torch.int64), transforms(64, "medium", True, True), 64, 0)
    order = [SampleDraw(0, number) for number in range(8)]
    first, again = (
        [image for image, _ in DataLoader(images, None, sampler=order, num_workers=2, timeout=60)] for _ in range(2)
    )
    assert torch.equal(first[0], first[1])  # the first image of each worker
    assert torch.equal(first[0], again[0])


def test_transforms_are_sampled_independently(same_image: TrainDataset):
    # `set_random_seed` gives every transform the same numbers, so all or none would apply to an image.
    both = A.Compose([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)], strict=True)
    upright = np.zeros((64, 64, 3), np.uint8)
    upright[:32, :32] = 255
    corners = TrainDataset([upright], torch.zeros(1, dtype=torch.int64), both, 64, seed=0)
    found = {tuple(corners[SampleDraw(number, 0)][0][::63, ::63, 0].flatten().tolist()) for number in range(60)}
    assert len(found) == 4


class Watching(LightningModule):
    """Records the images of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: dict[int, list[bytes]] = {}

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        self.seen.setdefault(self.current_epoch, []).extend(image.numpy().tobytes() for image in batch[0])
        return self.layer(torch.ones(1)).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_uses_the_samples_of_each_epoch(dataset: Dataset, tmp_path: Path):
    loader, module = batches(dataset).train_dataloader(), Watching()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    Trainer(max_epochs=3, accelerator="cpu", default_root_dir=tmp_path, **quiet).fit(module, loader)
    images = loader.dataset
    for number in range(3):
        expected = [images[draw][0].numpy().tobytes() for draw in loader.sampler.draws(number)][:16]
        assert module.seen[number] == expected


def test_new_iterator_does_not_change_the_global_random_state(dataset: Dataset):
    loader = batches(dataset).train_dataloader()
    before = torch.get_rng_state()
    next(iter(loader))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_epoch_has_every_image_once_in_another_order():
    one, other = ([draw.row for draw in EpochSampler(50, 0).draws(epoch)] for epoch in (0, 1))
    assert sorted(one) == sorted(other) == list(range(50))
    assert one != other


def test_balanced_sampling_draws_rare_labels_as_often_as_common_ones(make_folder):
    dataset = scan_images(scan(make_folder({"rare": 8, "common": 60})))[0]
    splits = split(dataset, 0)
    order = batches(dataset, splits=splits, balance="sampling").train_dataloader().sampler
    draws = [draw for number in range(40) for draw in order.draws(number)]
    shown_rare = np.mean([splits.train[draw.row].label == dataset.labels.index("rare") for draw in draws])
    assert 0.45 < shown_rare < 0.55
    assert len(set(draws)) == len(draws)  # repeated draws are counted, so that their augmentations differ


def test_batches_are_uint8_images_with_labels(dataset: Dataset):
    module = batches(dataset)
    for loader in (module.train_dataloader(), module.val_dataloader()):
        images, labels = next(iter(loader))
        assert (tuple(images.shape), images.dtype) == ((4, 64, 64, 3), torch.uint8)
        assert (tuple(labels.shape), labels.dtype) == ((4,), torch.int64)


def test_multilabel_targets_are_zeros_and_ones(dataset: Dataset):
    several = tuple(dataclasses.replace(sample, labels=(0, 1) if sample.label else ()) for sample in dataset.samples[:6])
    dataset = dataclasses.replace(dataset, samples=several, multilabel=True)
    splits = Splits(several[:4], several[4:], ())
    _, targets = next(iter(batches(dataset, splits=splits).val_dataloader()))
    assert targets.dtype == torch.float32
    assert targets.tolist() == [[1.0, 1.0] if sample.labels else [0.0, 0.0] for sample in splits.validation]


def test_labels_match_their_images(dataset: Dataset):
    splits = split(dataset, 0)
    module = batches(dataset, splits=splits)
    validation = torch.cat([labels for _, labels in module.val_dataloader()])
    assert validation.tolist() == [sample.label for sample in splits.validation]
    loader = module.train_dataloader()
    rows = [draw.row for draw in loader.sampler.draws(0)]
    assert torch.cat([labels for _, labels in loader]).tolist() == [splits.train[row].label for row in rows[:16]]


def test_batch_paths_are_known(dataset: Dataset):
    splits = split(dataset, 0)
    loader = batches(dataset, splits=splits).train_dataloader()
    rows = [draw.row for draw in loader.sampler.draws(2)][4:8]
    assert batch_paths(loader, 2, 1) == [splits.train[row].path for row in rows]
    assert batch_paths(DataLoader([1, 2]), 0, 0) == []


def test_last_incomplete_training_batch_is_dropped(dataset: Dataset):
    assert [len(images) for images, _ in batches(dataset).train_dataloader()] == [4, 4, 4, 4]  # of 17 images


@pytest.mark.parametrize(
    ("device", "n_cpus", "n_workers"), [("cpu", 16, 1), ("cuda", 1, 1), ("cuda", 2, 1), ("cuda", 16, 15), ("cuda", 128, 32)]
)
def test_workers_leave_a_core_to_the_process_that_feeds_the_gpu(device: str, n_cpus: int, n_workers: int):
    assert planned_workers(device, n_cpus) == n_workers


def test_few_images_still_form_a_batch(dataset: Dataset):
    assert [len(images) for images, _ in batches(dataset, batch_size=32).train_dataloader()] == [17]


@pytest.mark.parametrize("fit", ["crop", "squash", "letterbox"])
@pytest.mark.parametrize("pixel_cache", [0, 1])
def test_validation_pixels_equal_those_of_the_service(dataset: Dataset, fit: str, pixel_cache: float):
    preprocessing = SQUARE.model_copy(update={"fit": fit})
    splits = split(dataset, 0)
    loader = batches(dataset, preprocessing, splits, batch_size=32, pixel_cache=pixel_cache).val_dataloader()
    [(images, _)] = list(loader)
    expected = [decode(dataset.read(sample), preprocessing).pixels for sample in splits.validation]
    np.testing.assert_array_equal(images.numpy(), np.stack(expected))


def test_training_pixels_without_augmentation_equal_those_of_the_service(dataset: Dataset):
    splits = split(dataset, 0)
    loader = batches(dataset, splits=splits, augment="none", batch_size=32).train_dataloader()
    [(images, _)] = list(loader)
    samples = [splits.train[draw.row] for draw in loader.sampler.draws(0)]
    np.testing.assert_array_equal(images.numpy(), np.stack([decode(dataset.read(s), SQUARE).pixels for s in samples]))


@pytest.mark.parametrize("pixel_cache", [0, 1])
def test_training_pixels_do_not_depend_on_the_cache(dataset: Dataset, pixel_cache: float):
    kept = torch.cat([images for images, _ in batches(dataset, pixel_cache=pixel_cache).train_dataloader()])
    decoded = torch.cat([images for images, _ in batches(dataset, pixel_cache=0).train_dataloader()])
    assert torch.equal(kept, decoded)


def test_training_images_keep_letterbox_margins(make_folder, encode):
    folder = make_folder({"a": 4, "b": 4})
    for label in ("a", "b"):
        for path in (folder / label).glob("*.png"):
            wide = np.zeros((40, 160, 3), np.uint8)
            wide[:] = sum(path.name.encode()) % 256
            wide[0, 0] = [len(label), ord(label), 0]
            path.write_bytes(encode(wide))
    preprocessing = SQUARE.model_copy(update={"fit": "letterbox"})
    images, _ = next(iter(batches(scan_images(scan(folder))[0], preprocessing, augment="light").train_dataloader()))
    assert ((images == 255).all(dim=3).float().mean(dim=(1, 2)) > 0.3).all()  # white above and below


def mirrored(photo: np.ndarray, flips: bool) -> int:
    change = transforms(64, "light", flips, rotations=False)
    change.set_random_seed(0)
    changed = [change(image=photo)["image"].astype(int) for _ in range(40)]
    return sum(image[:, 0, 1].mean() > image[:, -1, 1].mean() for image in changed)  # green grows to the right


def test_images_are_flipped_only_if_enabled(photo: np.ndarray):
    assert mirrored(photo, flips=False) == 0
    assert 10 <= mirrored(photo, flips=True) <= 30


def kinds(augment: str, flips: bool = True, rotations: bool = True) -> list[str]:
    return [type(change).__name__ for change in transforms(64, augment, flips, rotations).transforms]


def test_stronger_levels_add_transforms():
    assert kinds("light") == ["RandomResizedCrop", "HorizontalFlip"]
    assert kinds("medium") == kinds("strong") == ["RandomResizedCrop", "HorizontalFlip", "Rotate", "ColorJitter"]


def test_flips_and_rotations_can_be_turned_off():
    assert kinds("strong", flips=False, rotations=False) == ["RandomResizedCrop", "ColorJitter"]


def test_corruptions_come_after_all_other_transforms():
    added = [type(change).__name__ for change in transforms(64, "light", True, True, ("rotation", "blur")).transforms]
    assert added == ["RandomResizedCrop", "HorizontalFlip", "Rotate", "GaussianBlur"]


def test_corruptions_apply_to_training_images_only(dataset: Dataset):
    splits = split(dataset, 0)
    plain, hard = (batches(dataset, splits=splits, augment="none", augment_corruptions=names) for names in ("", "rotation"))
    before, after = (torch.cat([images for images, _ in module.train_dataloader()]) for module in (plain, hard))
    turned = [not torch.equal(one, other) for one, other in zip(before, after, strict=True)]
    assert 2 <= sum(turned) < len(turned)  # one in two
    for one, other in zip(plain.val_dataloader(), hard.val_dataloader(), strict=True):
        assert torch.equal(one[0], other[0])
    labels = [torch.cat([labels for _, labels in module.train_dataloader()]) for module in (plain, hard)]
    assert torch.equal(*labels)


@pytest.mark.parametrize("name", CORRUPTION_AUGMENTATIONS)
def test_every_corruption_changes_some_images_and_keeps_their_size(name: str, same_image: TrainDataset):
    images = TrainDataset(
        same_image.images, torch.zeros(8, dtype=torch.int64), transforms(64, "none", True, True, (name,)), 64, 0
    )
    shown = [images[SampleDraw(number, 0)][0].numpy() for number in range(16)]
    kinds = {image.tobytes() for image in shown}
    assert {image.shape for image in shown} == {(64, 64, 3)}
    assert len(kinds) >= 3


@pytest.mark.parametrize("augment", ["light", "medium", "strong"])
@pytest.mark.parametrize("shape", [(72, 72, 3), (72, 300, 3), (500, 72, 3)])
def test_augmented_image_has_the_input_size(shape: tuple[int, ...], augment: str):
    changed = transforms(64, augment, True, True)(image=np.zeros(shape, np.uint8))["image"]
    assert (changed.shape, changed.dtype) == ((64, 64, 3), np.uint8)


def test_transforms_reject_unknown_arguments(photo):
    # Without `strict`, albumentations only warns, and the intended transform is not applied.
    with pytest.raises(ValueError, match="picture"):
        transforms(64, "light", True, True)(image=photo, picture=photo)


@pytest.mark.parametrize("pixel_cache", [0, 1])
def test_missing_image_is_named(dataset: Dataset, pixel_cache: float):
    splits = split(dataset, 0)
    Path(dataset.source.root, splits.validation[0].path).unlink()
    smaller = SQUARE.model_copy(update={"crop": 56})  # a size that no other test has cached
    with pytest.raises(DatasetError, match=rf"{splits.validation[0].path} cannot be read"):
        list(batches(dataset, smaller, splits, pixel_cache=pixel_cache).val_dataloader())

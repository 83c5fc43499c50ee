"""Splits -> batches for fine-tuning. The only importer of albumentations, which makes random changes and nothing else."""

import os

# Importing it asks a server for its newest version unless told not to.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from service.artifact import Preprocessing
from service.engine import cores
from service.preprocess import decode, shrink
from training.dataset import Dataset as Images
from training.dataset import Sample
from training.recipe import Recipe
from training.splits import Splits

Example = tuple[Tensor, int]


class Random(Dataset[Example]):
    """Training images with random changes, fresh ones in every epoch: uint8 (crop, crop, 3), label."""

    def __init__(self, images: Images, samples: tuple[Sample, ...], preprocessing: Preprocessing, flips: bool) -> None:
        self._images, self._samples, self._preprocessing = images, samples, preprocessing
        self.transform = random_changes(preprocessing, flips)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Example:
        sample = self._samples[index]
        image = shrink(self._images.read(sample), self._preprocessing)
        return torch.from_numpy(self.transform(image=image)["image"]), sample.label


class Fixed(Dataset[Example]):
    """Images exactly as the service sees them: uint8 (crop, crop, 3), label."""

    def __init__(self, images: Images, samples: tuple[Sample, ...], preprocessing: Preprocessing) -> None:
        self._images, self._samples, self._preprocessing = images, samples, preprocessing

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Example:
        sample = self._samples[index]
        pixels = decode(self._images.read(sample), self._preprocessing).pixels
        return torch.from_numpy(pixels.copy()), sample.label


def random_changes(preprocessing: Preprocessing, flips: bool) -> A.Compose:
    """Crop and scale, mirror, slight changes of light: uint8 (H, W, 3) -> uint8 (crop, crop, 3)."""
    side = preprocessing.crop
    changes = [
        A.RandomResizedCrop((side, side), scale=(0.5, 1.0), ratio=(3 / 4, 4 / 3), interpolation=cv2.INTER_LINEAR),
        A.ColorJitter(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(-0.02, 0.02), p=0.5),
    ]
    return A.Compose([*changes, *([A.HorizontalFlip(p=0.5)] if flips else [])], strict=True)


def seed_worker(_: int) -> None:
    """Gives each loader process its own random changes, and new ones in every epoch.

    Left alone, albumentations draws the same ones in every worker and every epoch.
    """
    info = get_worker_info()
    if info is not None and isinstance(info.dataset, Random):
        info.dataset.transform.set_random_seed(torch.initial_seed() % 2**32)


class Batches(LightningDataModule):
    """Random training batches and fixed validation batches: uint8 (N, crop, crop, 3), int64 (N,)."""

    def __init__(self, images: Images, splits: Splits, preprocessing: Preprocessing, recipe: Recipe, gpu: bool) -> None:
        super().__init__()
        self._images, self._splits, self._preprocessing = images, splits, preprocessing
        self._recipe, self._gpu = recipe, gpu

    def train_dataloader(self) -> DataLoader[Example]:
        dataset = Random(self._images, self._splits.train, self._preprocessing, self._recipe.flips)
        # A last batch of one image would make BatchNorm's statistics meaningless.
        return self._loader(dataset, shuffle=True, drop_last=len(dataset) > self._recipe.batch_size)

    def val_dataloader(self) -> DataLoader[Example]:
        return self._loader(Fixed(self._images, self._splits.validation, self._preprocessing))

    def _loader(self, dataset: Dataset[Example], shuffle: bool = False, drop_last: bool = False) -> DataLoader[Example]:
        # On a CPU the network wants all cores, and one process beside it is enough to decode.
        workers = cores() if self._gpu else 1
        return DataLoader(
            dataset,
            self._recipe.batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            num_workers=workers,
            worker_init_fn=seed_worker,
            pin_memory=self._gpu,
            timeout=120,
        )

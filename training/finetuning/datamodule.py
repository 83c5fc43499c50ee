"""Splits -> batches for fine-tuning. The only importer of albumentations, which makes random changes and nothing else.

What an epoch shows follows from the seed, the epoch and the image alone: not from which process makes it, how many there
are, or what ran before. So two machines agree, and a run that was killed goes on exactly.
"""

import hashlib
import os
import random
import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import albumentations as A
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from graft.service.artifact import Preprocessing
from graft.service.inference.devices import cores
from graft.training.config.finetune_config import Plan
from graft.training.data.dataset import Dataset as Images
from graft.training.data.dataset import Sample
from graft.training.data.splits import Splits
from graft.training.finetuning.augmentations import random_changes
from graft.training.finetuning.pixel_cache import Pixels, pixels, square, whole
from graft.training.finetuning.worker_errors import MOST_WORKERS, Reading

# Importing it asks a server for its newest version unless told not to.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

LONGEST_WAIT_S = 120  # for one batch; whoever takes longer hangs

Batch = tuple[Tensor, Tensor]  # uint8 (N, crop, crop, 3); int64 (N,), or float32 (N, C) where images have several labels


class Draw(NamedTuple):
    """One image in one epoch; `again` counts how often that epoch has shown it before."""

    epoch: int
    row: int
    again: int = 0


class Order(Sampler[Draw]):
    """Which images an epoch shows, in which order.

    Args:
        n_images: how many there are, and how many an epoch shows.
        chances: float (n_images,), how often each is shown, in proportion; None shows each once.
    """

    def __init__(self, n_images: int, seed: int, chances: NDArray[np.float64] | None = None) -> None:
        self._n_images, self._seed, self._chances = n_images, seed, chances
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls it before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._n_images

    def __iter__(self) -> Iterator[Draw]:
        return self.draws(self._epoch)

    def draws(self, epoch: int) -> Iterator[Draw]:
        """An epoch from its first image to its last."""
        chance = np.random.default_rng([self._seed, epoch])
        if self._chances is None:
            yield from (Draw(epoch, int(index)) for index in chance.permutation(self._n_images))
            return
        shown: dict[int, int] = {}
        for index in chance.choice(self._n_images, self._n_images, p=self._chances / self._chances.sum()).tolist():
            yield Draw(epoch, index, shown.get(index, 0))
            shown[index] = shown.get(index, 0) + 1


class Random(Dataset[Batch]):
    """Training images with random changes, other ones in every epoch."""

    def __init__(self, images: Pixels, targets: Tensor, changes: A.Compose, side: int, seed: int) -> None:
        self.images, self._targets, self._changes, self._side, self._seed = images, targets, changes, side, seed
        self.reading = Reading()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> Batch:
        batch, targets = self.__getitems__([draw])
        return batch[0], targets[0]

    def __getitems__(self, draws: list[Draw]) -> Batch:
        batch = np.empty((len(draws), self._side, self._side, 3), np.uint8)
        for place, draw in zip(batch, draws, strict=True):
            self.reading.note(draw.row)
            place[:] = self._changed(draw)
        self.reading.note()
        return torch.from_numpy(batch), _chosen(self._targets, [draw.row for draw in draws])

    def _changed(self, draw: Draw) -> NDArray[np.uint8]:
        seed = _seed_of(self._seed, *draw)
        # One stream for all changes. `set_random_seed` would give each change the same numbers: then the mirrored
        # images are just those that are also turned and recoloured.
        self._changes.set_random_state(np.random.default_rng(seed), random.Random(seed))
        changed: NDArray[np.uint8] = self._changes(image=self.images[draw.row])["image"]
        return changed


class Fixed(Dataset[Batch]):
    """Images exactly as the service sees them."""

    def __init__(self, images: Pixels, targets: Tensor) -> None:
        self.images, self._targets = images, targets
        self.reading = Reading()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Batch:
        batch, targets = self.__getitems__([index])
        return batch[0], targets[0]

    def __getitems__(self, indices: list[int]) -> Batch:
        shown = []
        for index in indices:
            self.reading.note(index)
            shown.append(self.images[index])
        self.reading.note()
        return torch.from_numpy(np.stack(shown)), _chosen(self._targets, indices)


class Batches(LightningDataModule):
    """Random training batches and fixed validation batches."""

    def __init__(self, images: Images, splits: Splits, preprocessing: Preprocessing, plan: Plan, gpu: bool) -> None:
        super().__init__()
        self._images, self._splits, self._preprocessing = images, splits, preprocessing
        self._plan, self._gpu = plan, gpu

    def train_dataloader(self) -> DataLoader[Batch]:
        plan, samples = self._plan, self._splits.train
        # Only what is cropped when it is served may be cropped from the whole: the others' margins and proportions count.
        look = whole if self._preprocessing.fit == "crop" and plan.augment != "none" else square
        shown = pixels(self._images, samples, look, self._preprocessing, plan.pixel_cache)
        side = self._preprocessing.crop
        changes = random_changes(side, plan.augment, plan.flips, plan.rotations, plan.harden)
        dataset = Random(shown, self._targets(samples), changes, side, plan.seed)
        order = Order(len(samples), plan.seed, _chances(samples, plan))
        # A last batch of one image would make BatchNorm's statistics meaningless.
        return self._loader(dataset, order, drop_last=len(samples) > plan.batch_size)

    def val_dataloader(self) -> DataLoader[Batch]:
        samples = self._splits.validation
        shown = pixels(self._images, samples, square, self._preprocessing, self._plan.pixel_cache)
        return self._loader(Fixed(shown, self._targets(samples)), None)

    def _targets(self, samples: tuple[Sample, ...]) -> Tensor:
        return torch.from_numpy(self._images.targets(samples))

    def _loader(self, dataset: Dataset[Batch], order: Order | None, drop_last: bool = False) -> DataLoader[Batch]:
        return DataLoader(
            dataset,
            self._plan.batch_size,
            sampler=order,
            drop_last=drop_last,
            # On a CPU the network wants all cores, and one process beside it is enough to change images.
            num_workers=min(cores(), MOST_WORKERS) if self._gpu else 1,
            collate_fn=_as_it_is,
            worker_init_fn=_one_thread,
            generator=torch.Generator(),  # its own, so that making an iterator never moves torch's random state
            pin_memory=self._gpu,
            persistent_workers=True,
            timeout=LONGEST_WAIT_S,
        )


def shown(loader: Any, epoch: int, batch: int) -> list[str]:
    """The paths of the images in one training batch; none if the loader is not one of ours."""
    order, size = getattr(loader, "sampler", None), getattr(loader, "batch_size", None) or 1
    if not isinstance(order, Order):
        return []
    draws = islice(order.draws(epoch), batch * size, (batch + 1) * size)
    return [loader.dataset.images.samples[draw.row].path for draw in draws]


def _chances(samples: tuple[Sample, ...], plan: Plan) -> NDArray[np.float64] | None:
    """With balanced sampling, an image counts as much as its rarest label is rare."""
    if plan.balance != "sampling":
        return None
    return np.array([1 / min((plan.counts[label] for label in sample.labels), default=plan.n_images) for sample in samples])


def _chosen(targets: Tensor, indices: list[int]) -> Tensor:
    chosen = targets[indices]
    return chosen.float() if chosen.dtype == torch.bool else chosen


def _seed_of(*numbers: int) -> int:
    """A seed that is another one for any other numbers, and the same on every machine."""
    return int.from_bytes(hashlib.blake2b(struct.pack(f"<{len(numbers)}q", *numbers), digest_size=8).digest(), "little")


def _as_it_is(batch: Any) -> Any:
    """A data set of ours gives whole batches."""
    return batch


def _one_thread(_: int) -> None:
    """More threads in a loader's process would only take the cores from the network."""
    cv2.setNumThreads(0)

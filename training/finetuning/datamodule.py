"""Lightning DataModule: training batches with augmentation, and validation batches without.

The samples of an epoch depend only on the seed, the epoch and the image, not on the number of workers or on earlier
epochs. Therefore runs are reproducible across machines, and a killed run resumes exactly.
"""

import hashlib
import random
import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

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
from graft.training.finetuning.augmentations import Augmentation, random_changes
from graft.training.finetuning.pixel_cache import Pixels, pixels, square, whole
from graft.training.finetuning.worker_errors import MOST_WORKERS, Reading

LONGEST_WAIT_S = 120  # for one batch; a slower worker is considered hung

Batch = tuple[Tensor, Tensor]  # uint8 (N, crop, crop, 3); int64 (N,), or float32 (N, C) for multilabel data


class Draw(NamedTuple):
    """One image in one epoch; `repeat` counts its earlier draws in the same epoch."""

    epoch: int
    row: int
    again: int = 0


class Order(Sampler[Draw]):
    """Selects and orders the images of an epoch.

    Args:
        n_images: size of the dataset, and number of draws per epoch.
        weights: float (n_images,), relative sampling weights; None draws each image once.
    """

    def __init__(self, n_images: int, seed: int, chances: NDArray[np.float64] | None = None) -> None:
        self._n_images, self._seed, self._chances = n_images, seed, chances
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._n_images

    def __iter__(self) -> Iterator[Draw]:
        return self.draws(self._epoch)

    def draws(self, epoch: int) -> Iterator[Draw]:
        """The draws of an epoch, in order."""
        rng = np.random.default_rng([self._seed, epoch])
        if self._chances is None:
            yield from (Draw(epoch, int(index)) for index in rng.permutation(self._n_images))
            return
        counts: dict[int, int] = {}
        for index in rng.choice(self._n_images, self._n_images, p=self._chances / self._chances.sum()).tolist():
            yield Draw(epoch, index, counts.get(index, 0))
            counts[index] = counts.get(index, 0) + 1


class Random(Dataset[Batch]):
    """Training images with random augmentation, different in every epoch."""

    def __init__(self, images: Pixels, targets: Tensor, changes: Augmentation, side: int, seed: int) -> None:
        self.images, self._targets, self._changes, self._side, self._seed = images, targets, changes, side, seed
        self.reading = Reading()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> Batch:
        batch, targets = self.__getitems__([draw])
        return batch[0], targets[0]

    def __getitems__(self, draws: list[Draw]) -> Batch:
        batch = np.empty((len(draws), self._side, self._side, 3), np.uint8)
        for slot, draw in zip(batch, draws, strict=True):
            self.reading.note(draw.row)
            slot[:] = self._changed(draw)
        self.reading.note()
        return torch.from_numpy(batch), _chosen(self._targets, [draw.row for draw in draws])

    def _changed(self, draw: Draw) -> NDArray[np.uint8]:
        seed = _seed_of(self._seed, *draw)
        # One random stream for all transforms. `set_random_seed` would give each transform the same numbers, so that
        # the flipped images would always be the rotated and color-jittered ones too.
        self._changes.set_random_state(np.random.default_rng(seed), random.Random(seed))
        augmented: NDArray[np.uint8] = self._changes(image=self.images[draw.row])["image"]
        return augmented


class Fixed(Dataset[Batch]):
    """Images preprocessed exactly as in the service."""

    def __init__(self, images: Pixels, targets: Tensor) -> None:
        self.images, self._targets = images, targets
        self.reading = Reading()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Batch:
        batch, targets = self.__getitems__([index])
        return batch[0], targets[0]

    def __getitems__(self, indices: list[int]) -> Batch:
        images = []
        for index in indices:
            self.reading.note(index)
            images.append(self.images[index])
        self.reading.note()
        return torch.from_numpy(np.stack(images)), _chosen(self._targets, indices)


class Batches(LightningDataModule):
    """Augmented training batches and plain validation batches."""

    def __init__(self, images: Images, splits: Splits, preprocessing: Preprocessing, plan: Plan, gpu: bool) -> None:
        super().__init__()
        self._images, self._splits, self._preprocessing = images, splits, preprocessing
        self._plan, self._gpu = plan, gpu

    def train_dataloader(self) -> DataLoader[Batch]:
        config, samples = self._plan, self._splits.train
        # Random crops of the whole image only match serving with fit="crop". Other fits keep margins and proportions.
        transform = whole if self._preprocessing.fit == "crop" and config.augment != "none" else square
        images = pixels(self._images, samples, transform, self._preprocessing, config.pixel_cache)
        side = self._preprocessing.crop
        transforms = random_changes(side, config.augment, config.flips, config.rotations, config.harden)
        dataset = Random(images, self._targets(samples), transforms, side, config.seed)
        sampler = Order(len(samples), config.seed, _chances(samples, config))
        # BatchNorm statistics of a last batch with one image would be meaningless.
        return self._loader(dataset, sampler, drop_last=len(samples) > config.batch_size)

    def val_dataloader(self) -> DataLoader[Batch]:
        samples = self._splits.validation
        images = pixels(self._images, samples, square, self._preprocessing, self._plan.pixel_cache)
        return self._loader(Fixed(images, self._targets(samples)), None)

    def _targets(self, samples: tuple[Sample, ...]) -> Tensor:
        return torch.from_numpy(self._images.targets(samples))

    def _loader(self, dataset: Dataset[Batch], order: Order | None, drop_last: bool = False) -> DataLoader[Batch]:
        return DataLoader(
            dataset,
            self._plan.batch_size,
            sampler=order,
            drop_last=drop_last,
            # On a CPU the network needs all cores, and one worker is enough for augmentation.
            num_workers=min(cores(), MOST_WORKERS) if self._gpu else 1,
            collate_fn=_as_it_is,
            worker_init_fn=_one_thread,
            generator=torch.Generator(),  # separate, so that a new iterator does not advance torch's global random state
            pin_memory=self._gpu,
            persistent_workers=True,
            timeout=LONGEST_WAIT_S,
        )


def shown(loader: Any, epoch: int, batch: int) -> list[str]:
    """Paths of the images in a training batch; empty for other data loaders."""
    sampler, size = getattr(loader, "sampler", None), getattr(loader, "batch_size", None) or 1
    if not isinstance(sampler, Order):
        return []
    draws = islice(sampler.draws(epoch), batch * size, (batch + 1) * size)
    return [loader.dataset.images.samples[draw.row].path for draw in draws]


def _chances(samples: tuple[Sample, ...], plan: Plan) -> NDArray[np.float64] | None:
    """Weights for balanced sampling: the inverse frequency of the rarest label of an image."""
    if plan.balance != "sampling":
        return None
    return np.array([1 / min((plan.counts[label] for label in sample.labels), default=plan.n_images) for sample in samples])


def _chosen(targets: Tensor, indices: list[int]) -> Tensor:
    selected = targets[indices]
    return selected.float() if selected.dtype == torch.bool else selected


def _seed_of(*numbers: int) -> int:
    """Hashes numbers to a seed; the same on every machine."""
    return int.from_bytes(hashlib.blake2b(struct.pack(f"<{len(numbers)}q", *numbers), digest_size=8).digest(), "little")


def _as_it_is(batch: Any) -> Any:
    """The datasets here already return batches."""
    return batch


def _one_thread(_: int) -> None:
    """OpenCV threads in a worker would only take cores from the network."""
    cv2.setNumThreads(0)

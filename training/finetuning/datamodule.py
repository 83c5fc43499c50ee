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

from graft.service.inference.devices import Device, available_cpus
from graft.service.manifest import Preprocessing
from graft.training.config.finetune_config import FineTuneConfig
from graft.training.data.dataset import Dataset as Images
from graft.training.data.dataset import Sample
from graft.training.data.splits import Splits
from graft.training.finetuning.augmentations import Augmentation, train_transforms
from graft.training.finetuning.pixel_cache import PixelCache, cropped, open_cache, resized
from graft.training.finetuning.worker_errors import MAX_WORKERS, WorkerProgress
from graft.training.runtime.shared_memory import affordable_workers

BATCH_TIMEOUT_S = 120  # for one batch; a slower worker is considered hung

Batch = tuple[Tensor, Tensor]  # uint8 (N, crop, crop, 3); int64 (N,), or float32 (N, C) for multilabel data


class SampleDraw(NamedTuple):
    """One image in one epoch; `repeat` counts its earlier draws in the same epoch."""

    epoch: int
    row: int
    repeat: int = 0


class EpochSampler(Sampler[SampleDraw]):
    """Selects and orders the images of an epoch.

    Args:
        n_images: size of the dataset, and number of draws per epoch.
        weights: float (n_images,), relative sampling weights; None draws each image once.
    """

    def __init__(self, n_images: int, seed: int, weights: NDArray[np.float64] | None = None) -> None:
        self._n_images, self._seed, self._weights = n_images, seed, weights
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._n_images

    def __iter__(self) -> Iterator[SampleDraw]:
        return self.draws(self._epoch)

    def draws(self, epoch: int) -> Iterator[SampleDraw]:
        """The draws of an epoch, in order."""
        rng = np.random.default_rng([self._seed, epoch])
        if self._weights is None:
            yield from (SampleDraw(epoch, int(index)) for index in rng.permutation(self._n_images))
            return
        counts: dict[int, int] = {}
        for index in rng.choice(self._n_images, self._n_images, p=self._weights / self._weights.sum()).tolist():
            yield SampleDraw(epoch, index, counts.get(index, 0))
            counts[index] = counts.get(index, 0) + 1


class TrainDataset(Dataset[Batch]):
    """Training images with random augmentation, different in every epoch."""

    def __init__(self, images: PixelCache, targets: Tensor, transforms: Augmentation, side: int, seed: int) -> None:
        self.images, self._targets, self._transforms, self._side, self._seed = images, targets, transforms, side, seed
        self.worker_progress = WorkerProgress()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: SampleDraw) -> Batch:
        batch, targets = self.__getitems__([draw])
        return batch[0], targets[0]

    def __getitems__(self, draws: list[SampleDraw]) -> Batch:
        batch = np.empty((len(draws), self._side, self._side, 3), np.uint8)
        for slot, draw in zip(batch, draws, strict=True):
            self.worker_progress.set_row(draw.row)
            slot[:] = self._augment(draw)
        self.worker_progress.set_row()
        return torch.from_numpy(batch), _select_targets(self._targets, [draw.row for draw in draws])

    def _augment(self, draw: SampleDraw) -> NDArray[np.uint8]:
        seed = _hash_seed(self._seed, *draw)
        # One random stream for all transforms. `set_random_seed` would give each transform the same numbers, so that
        # the flipped images would always be the rotated and color-jittered ones too.
        self._transforms.set_random_state(np.random.default_rng(seed), random.Random(seed))
        augmented: NDArray[np.uint8] = self._transforms(image=self.images[draw.row])["image"]
        return augmented


class EvalDataset(Dataset[Batch]):
    """Images preprocessed exactly as in the service."""

    def __init__(self, images: PixelCache, targets: Tensor) -> None:
        self.images, self._targets = images, targets
        self.worker_progress = WorkerProgress()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Batch:
        batch, targets = self.__getitems__([index])
        return batch[0], targets[0]

    def __getitems__(self, indices: list[int]) -> Batch:
        images = []
        for index in indices:
            self.worker_progress.set_row(index)
            images.append(self.images[index])
        self.worker_progress.set_row()
        return torch.from_numpy(np.stack(images)), _select_targets(self._targets, indices)


class DataModule(LightningDataModule):
    """Augmented training batches and plain validation batches."""

    def __init__(
        self, images: Images, splits: Splits, preprocessing: Preprocessing, config: FineTuneConfig, device: Device
    ) -> None:
        super().__init__()
        self._images, self._splits, self._preprocessing = images, splits, preprocessing
        self._config, self._device = config, device

    def train_dataloader(self) -> DataLoader[Batch]:
        config, samples = self._config, self._splits.train
        # Random crops of the whole image only match serving with fit="crop". Other fits keep margins and proportions.
        transform = resized if self._preprocessing.fit == "crop" and config.augment != "none" else cropped
        images = open_cache(self._images, samples, transform, self._preprocessing, config.pixel_cache)
        side = self._preprocessing.crop
        transforms = train_transforms(side, config)
        dataset = TrainDataset(images, self._targets(samples), transforms, side, config.seed)
        sampler = EpochSampler(len(samples), config.seed, _sampling_weights(samples, config))
        # BatchNorm statistics of a last batch with one image would be meaningless.
        return self._loader(dataset, sampler, drop_last=len(samples) > config.batch_size)

    def val_dataloader(self) -> DataLoader[Batch]:
        samples = self._splits.validation
        images = open_cache(self._images, samples, cropped, self._preprocessing, self._config.pixel_cache)
        return self._loader(EvalDataset(images, self._targets(samples)), None)

    def _targets(self, samples: tuple[Sample, ...]) -> Tensor:
        return torch.from_numpy(self._images.targets(samples))

    def _loader(self, dataset: Dataset[Batch], sampler: EpochSampler | None, drop_last: bool = False) -> DataLoader[Batch]:
        batch_bytes = 3 * self._preprocessing.crop**2 * self._config.batch_size
        n_workers = affordable_workers(planned_workers(self._device, available_cpus()), batch_bytes)
        return DataLoader(
            dataset,
            self._config.batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=n_workers,
            collate_fn=_identity_collate,
            worker_init_fn=_worker_init_fn,
            generator=torch.Generator(),  # separate, so that a new iterator does not advance torch's global random state
            pin_memory=self._device == "cuda",
            persistent_workers=n_workers > 0,
            timeout=BATCH_TIMEOUT_S if n_workers else 0,
        )


def planned_workers(device: Device, n_cpus: int) -> int:
    """The number of data loader processes for a training on `device`.

    On a CPU the network needs all cores, and one process is enough. A GPU leaves the cores to the input, except for one that
    feeds the GPU.
    """
    return max(1, min(n_cpus - 1, MAX_WORKERS)) if device == "cuda" else 1


def batch_paths(loader: Any, epoch: int, batch: int) -> list[str]:
    """Paths of the images in a training batch; empty for other data loaders."""
    sampler, size = getattr(loader, "sampler", None), getattr(loader, "batch_size", None) or 1
    if not isinstance(sampler, EpochSampler):
        return []
    draws = islice(sampler.draws(epoch), batch * size, (batch + 1) * size)
    return [loader.dataset.images.samples[draw.row].path for draw in draws]


def _sampling_weights(samples: tuple[Sample, ...], config: FineTuneConfig) -> NDArray[np.float64] | None:
    """Weights for balanced sampling: the inverse frequency of the rarest label of an image."""
    if config.balance != "sampling":
        return None
    return np.array([1 / min((config.counts[label] for label in sample.labels), default=config.n_images) for sample in samples])


def _select_targets(targets: Tensor, indices: list[int]) -> Tensor:
    selected = targets[indices]
    return selected.float() if selected.dtype == torch.bool else selected


def _hash_seed(*numbers: int) -> int:
    """Hashes numbers to a seed; the same on every machine."""
    return int.from_bytes(hashlib.blake2b(struct.pack(f"<{len(numbers)}q", *numbers), digest_size=8).digest(), "little")


def _identity_collate(batch: Any) -> Any:
    """The datasets here already return batches."""
    return batch


def _worker_init_fn(_: int) -> None:
    """OpenCV threads in a worker would only take cores from the network."""
    cv2.setNumThreads(0)

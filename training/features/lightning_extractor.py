"""Feature extraction on a GPU with Lightning. On a CPU, `graft.training.features.extraction` does it without torch."""

from collections.abc import Iterator

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from graft.service.errors import ImageError
from graft.service.imaging.preprocess import decode
from graft.service.inference.devices import Device, available_cpus
from graft.service.networks import network as networks
from graft.service.networks.network import Network
from graft.training.backbones.onnx_cache import ExportedBackbone
from graft.training.data.dataset import Dataset as Images
from graft.training.data.dataset import DatasetError
from graft.training.features.extraction import FLOAT16_MAX, SHARD_SIZE, Result, View
from graft.training.runtime.shared_memory import affordable_workers

BATCH_SIZE = 256
Item = tuple[int, np.ndarray | DatasetError]
Batch = tuple[list[int], Tensor, dict[int, DatasetError]]


class FeatureExtractor(LightningModule):
    """A frozen backbone; `predict_step` returns the features of every stage and the vectors, concatenated."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def predict_step(self, batch: Batch, _: int) -> tuple[list[int], Tensor, dict[int, DatasetError]]:
        indices, pixels, unreadable = batch  # uint8 (N, crop, crop, 3)
        if not indices:  # not every network accepts an empty batch
            return [], torch.zeros(0, 0, dtype=torch.float16), unreadable
        features = torch.cat(self.network.features(pixels), dim=1)
        return indices, features.clamp(-FLOAT16_MAX, FLOAT16_MAX).to(torch.float16).cpu(), unreadable


def load_with_random_head(exported: ExportedBackbone, n_labels: int = 2) -> Network:
    """The exported backbone as a torch network with a randomly initialized head."""
    network = networks.build(exported.backbone, n_labels, exported.preprocessing)
    head = {key: value for key, value in network.state_dict().items() if key.startswith("head.")}
    network.load_state_dict(load_file(exported.weights) | head, strict=True)
    return network


def extract_on_gpu(dataset: Images, views: list[View], exported: ExportedBackbone, device: Device = "cuda") -> Iterator[Result]:
    """Yields each view with its row, float16 (W,), or with the error of an unreadable image."""
    extractor = FeatureExtractor(load_with_random_head(exported))
    trainer = Trainer(accelerator=device, devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False)
    for start in range(0, len(views), SHARD_SIZE):  # one prediction run per shard, so that finished shards are cached early
        shard = views[start : start + SHARD_SIZE]
        for indices, rows, unreadable in trainer.predict(extractor, _loader(dataset, shard, exported, device)) or []:
            yield from ((shard[index], row) for index, row in zip(indices, rows.numpy(), strict=True))
            yield from ((shard[index], error) for index, error in unreadable.items())


def _loader(dataset: Images, views: list[View], exported: ExportedBackbone, device: Device) -> DataLoader[Item]:
    batch_size = BATCH_SIZE if device == "cuda" else 16
    n_workers = available_cpus() if device == "cuda" else 0
    return DataLoader(
        _ViewDataset(dataset, views, exported),
        batch_size=batch_size,
        num_workers=affordable_workers(n_workers, 3 * exported.preprocessing.crop**2 * batch_size),
        collate_fn=_collate,
        pin_memory=device == "cuda",
    )


class _ViewDataset(Dataset[Item]):
    """Views as pixels uint8 (crop, crop, 3), or as the error of an unreadable image."""

    def __init__(self, dataset: Images, views: list[View], exported: ExportedBackbone) -> None:
        self._dataset, self._views, self._preprocessing = dataset, views, exported.preprocessing

    def __len__(self) -> int:
        return len(self._views)

    def __getitem__(self, index: int) -> Item:
        view = self._views[index]
        try:
            return index, view.apply(decode(self._dataset.read(view.sample), self._preprocessing).pixels)
        except (ImageError, DatasetError) as error:
            return index, DatasetError(str(error))  # an ImageError cannot be pickled out of a DataLoader worker


def _collate(items: list[Item]) -> Batch:
    readable = {index: pixels for index, pixels in items if not isinstance(pixels, DatasetError)}
    unreadable = {index: error for index, error in items if isinstance(error, DatasetError)}
    batch = np.stack(list(readable.values())) if readable else np.zeros((0, 32, 32, 3), np.uint8)
    return list(readable), torch.from_numpy(batch), unreadable
